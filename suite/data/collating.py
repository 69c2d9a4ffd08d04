"""Prepared images to batches: padded, put together, movable to a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from models.structures import Images, Target
from suite.data.preparing import Example
from suite.data.sample import BadSample

# Targets then have few shapes, for devices that compile each; none is cut off.
_BOX_ROWS = 32


@dataclass(frozen=True)
class Batch:
    """Network inputs with their ground truth.

    Attributes:
        image_ids: the dataset's own.
        bad_samples: images that were asked for, could not be read and were replaced by others.
    """

    images: Images
    target: Target
    image_ids: tuple[int, ...]
    bad_samples: tuple[BadSample, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """Copy to `device`; asynchronous when the memory is pinned."""
        return replace(self, images=self.images.to(device), target=self.target.to(device))

    def pin_memory(self) -> Batch:
        """Copy into page-locked memory."""
        return replace(self, images=self.images.pin_memory(), target=self.target.pin_memory())

    def share_memory(self) -> None:
        """Move into shared memory. A worker does so itself: where sending fails, nobody is told."""
        for tensor in self.tensors():
            tensor.share_memory_()  # type: ignore[no-untyped-call]  # torch's

    def tensors(self) -> Iterator[Tensor]:
        """Yield all tensors."""
        for part in (self.images, self.target):
            yield from vars(part).values()


def collate(examples: Sequence[Example], *, box_rows: int | None = None) -> Batch:
    """Pad pictures to the largest canvas, and boxes to one number of rows.

    Args:
        box_rows: as `count_box_rows` gives it for all images; None: for these.
    """
    most = max(len(example.labels) for example in examples)
    num_rows = count_box_rows(most) if box_rows is None else box_rows
    assert most <= num_rows, f"{most} boxes do not fit into {num_rows} rows"
    boxes_xyxy = torch.zeros(len(examples), num_rows, 4)
    labels = torch.full((len(examples), num_rows), -1)
    for row, example in enumerate(examples):
        boxes_xyxy[row, : len(example.labels)] = torch.from_numpy(example.boxes_xyxy)
        labels[row, : len(example.labels)] = torch.from_numpy(example.labels)
    images = Images(
        _pad_pictures(examples),
        torch.from_numpy(np.stack([example.affine for example in examples])),
        torch.tensor([example.original_hw for example in examples]),
        torch.tensor([example.pixels.shape[1:] for example in examples]),
    )
    return Batch(
        images,
        Target(boxes_xyxy, labels),
        image_ids=tuple(example.image_id for example in examples),
        bad_samples=tuple(bad for example in examples for bad in example.replaces),
    )


def count_box_rows(most_boxes: int) -> int:
    """Return the rows that targets get where no image has more boxes: some more, in few sizes."""
    return max(1, -(-most_boxes // _BOX_ROWS)) * _BOX_ROWS


def _pad_pictures(examples: Sequence[Example]) -> Tensor:
    height = max(example.canvas_hw[0] for example in examples)
    width = max(example.canvas_hw[1] for example in examples)
    pixels = torch.empty(len(examples), 3, height, width, dtype=torch.uint8)
    for canvas, example in zip(pixels, examples, strict=True):
        rows, columns = example.pixels.shape[1:]
        canvas[:, :rows, :columns] = example.pixels
        canvas[:, :rows, columns:] = 0
        canvas[:, rows:] = 0
    return pixels
