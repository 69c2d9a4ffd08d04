"""A checkpoint and its graph, asked the same about whole images.

A graph that prepares images itself is given the images' bytes, its network what the checkpoint's
is given; so what differs in the one is told from what differs in the other.

Shape letters: N images, H W rows and columns of an image, h w those of the network's input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.detector import Detector
from models.postprocess import Candidates, PostprocessParameters
from suite.data.collating import collate
from suite.data.images import read_image
from suite.data.preparing import prepare_image
from suite.data.sample import DecodedImage, ImageFile
from suite.deploy.graph import INNER_NAMES
from suite.deploy.pairing import PairingLimits
from suite.deploy.parts import Outputs, open_part, open_whole
from suite.graph_file import (
    HEAD_NAMES,
    INPUT_NAME,
    NETWORK_INPUT_NAME,
    OUTPUT_NAMES,
    GraphFile,
    check_answer,
)
from suite.graph_metadata import GraphMetadata
from suite.graph_session import RunGraph
from suite.sizing import STRIDE_MULTIPLE, Sizing, build_sizing

Photo = Path | ImageFile | DecodedImage

_BATCH = 3
# Of generated images, which a graph that prepares images fits to its input.
_IMAGE_HW = (217, 290)


class Fed(NamedTuple):
    """Some images of one size, as both sides take them.

    Attributes:
        pixels: float32 [N,3,h,w], the network's input as the checkpoint has it.
        image_hw, picture_hw: of the image whose pixels boxes are in, and of the picture within
            `pixels`; both the input's where the graph does not know of any other image.
        images: uint8 [N,H,W,3], for a graph that prepares them.
    """

    pixels: Tensor
    image_hw: tuple[int, int]
    picture_hw: tuple[int, int]
    images: NDArray[np.uint8] | None

    def select(self, row: int) -> Fed:
        """Return one of the images."""
        images = None if self.images is None else self.images[row : row + 1]
        return self._replace(pixels=self.pixels[row : row + 1], images=images)

    @property
    def network_hw(self) -> tuple[int, int]:
        """Height and width of the network's input."""
        return self.pixels.shape[2], self.pixels.shape[3]


class Answer(NamedTuple):
    """One side's answer for a batch; the last two are empty where NMS is not in the graph.

    Candidates are in pixels of the network's input, what is padded in those of the image.
    """

    heads: Outputs
    candidates: Outputs
    padded: Outputs


@dataclass(frozen=True)
class Sides:
    """The checkpoint, and the graph as it is (`run`) and with its inner values (`inspect`).

    `run_heads` leads from the network's input to raw heads.
    """

    detector: Detector
    parameters: PostprocessParameters
    graph: GraphFile
    source: str
    run: RunGraph
    inspect: RunGraph
    run_heads: RunGraph

    @property
    def with_nms(self) -> bool:
        """Whether NMS is in the graph."""
        return self.graph.metadata.nms == "op"

    @property
    def network_input(self) -> str:
        """Name of what other graphs call `images`."""
        return NETWORK_INPUT_NAME if self.graph.metadata.prepares_images else INPUT_NAME

    @torch.inference_mode()
    def ask_checkpoint(self, fed: Fed) -> Answer:
        """Return what PyTorch makes of images."""
        heads = self.detector(fed.pixels)
        if not self.with_nms:
            return Answer(to_arrays(heads), [], [])
        candidates = self.detector.candidates(
            heads, image_hw=fed.network_hw, pre_topk=self.parameters.pre_topk
        )
        return Answer(to_arrays(heads), to_arrays(candidates), self.suppress(candidates, fed))

    def suppress(self, candidates: Candidates, fed: Fed) -> Outputs:
        """Run PyTorch's NMS stage on what either side found in these images."""
        padded = self.detector.suppress(candidates, self.parameters, image_hw=fed.network_hw)
        return in_image(to_arrays(padded), fed.image_hw, fed.picture_hw)

    def ask_graph(self, fed: Fed) -> Answer:
        """Return what the graph makes of images, from first to last stage."""
        if not self.with_nms:
            return Answer(self.ask_file(fed), [], [])
        names = INNER_NAMES + OUTPUT_NAMES
        found = self.inspect(names, {INPUT_NAME: self._feed(fed)})
        self._check(found[len(INNER_NAMES) :], fed)
        return Answer(found[:2], found[2:5], found[5:])

    def ask_network(self, pixels: Tensor) -> Outputs:
        """Return the raw heads of the network within the graph."""
        return self.run_heads(HEAD_NAMES, {self.network_input: pixels.numpy()})

    def ask_file(self, fed: Fed) -> Outputs:
        """Return the outputs of the graph as it is."""
        names = OUTPUT_NAMES if self.with_nms else HEAD_NAMES
        outputs = self.run(names, {INPUT_NAME: self._feed(fed)})
        self._check(outputs, fed)
        return outputs

    def limits(self, fed: Fed) -> PairingLimits:
        """Return what counts as equal detections of these images."""
        factors = (whole / part for whole, part in zip(fed.image_hw, fed.picture_hw, strict=True))
        return PairingLimits(
            score_threshold=self.parameters.score_threshold,
            iou_threshold=self.parameters.iou_threshold,
            max_detections=self.parameters.max_detections,
            max_box_difference=PairingLimits.max_box_difference * max(1, *factors),
        )

    def _feed(self, fed: Fed) -> NDArray[np.uint8] | NDArray[np.float32]:
        return fed.pixels.numpy() if fed.images is None else fed.images

    def _check(self, outputs: Outputs, fed: Fed) -> None:
        check_answer(outputs, self.graph.metadata, num_images=len(fed.pixels), source=self.source)


def open_sides(
    graph: GraphFile, detector: Detector, parameters: PostprocessParameters, *, source: str
) -> Sides:
    """Open a graph beside its checkpoint.

    Raises:
        InputError: the graph does not run or lacks its inner values.
    """
    run = open_whole(graph, source=source)
    inspect = heads = run
    if graph.metadata.nms == "op":
        names = INNER_NAMES + OUTPUT_NAMES
        inspect = open_part(graph, inputs=[INPUT_NAME], outputs=names, source=source)
        heads = inspect
    if graph.metadata.prepares_images:
        heads = open_part(graph, inputs=[NETWORK_INPUT_NAME], outputs=HEAD_NAMES, source=source)
    return Sides(detector, parameters, graph, source, run, inspect, heads)


def feed_images(photos: Sequence[Photo], metadata: GraphMetadata) -> Iterator[Fed]:
    """Yield a blank and noise, white and with the smooth structure of photos; then the photos.

    Raises:
        InputError: an image cannot be read.
    """
    sizing = build_sizing(metadata.resize, canvas_hw=metadata.image_hw)
    if metadata.prepares_images:
        yield from _feed_bytes(photos, sizing)
        return
    yield _feed_pixels(generate_pixels(metadata.image_hw or _probe_size(metadata)))
    examples = (prepare_image(read_image(path), sizing) for path in photos)
    for _, same_canvas in groupby(examples, key=lambda example: example.canvas_hw):
        while batch := list(islice(same_canvas, _BATCH)):
            yield _feed_pixels(collate(batch).images.normalised())


def generate_pixels(image_hw: tuple[int, ...]) -> Tensor:
    """Return float32 [3,3,h,w]: zeros, white noise and smooth noise, always the same."""
    height, width = image_hw
    generator = torch.Generator().manual_seed(0)
    white = torch.randn(1, 3, height, width, generator=generator)
    coarse = torch.randn(1, 3, 9, 9, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
    return torch.cat([torch.zeros(1, 3, height, width), white, smooth])


def generate_images(image_hw: tuple[int, int] = _IMAGE_HW) -> NDArray[np.uint8]:
    """Return uint8 [3,H,W,3]: a black image, white noise and smooth noise, always the same."""
    noise = (generate_pixels(image_hw)[1:] * 60 + 128).clamp(0, 255).byte()
    images = noise.permute(0, 2, 3, 1).numpy()
    return np.concatenate([np.zeros_like(images[:1]), images])


def in_image(padded: Outputs, image_hw: tuple[int, int], picture_hw: tuple[int, int]) -> Outputs:
    """Return detections with their boxes in pixels of the image, inside of it.

    Args:
        padded: boxes in pixels of the network's input, and what goes with them.
        image_hw, picture_hw: of the image, and of what it is in the network's input.
    """
    height, width = image_hw
    edges = np.array([width, height, width, height])
    factors = (edges / np.array([*picture_hw[::-1], *picture_hw[::-1]])).astype(np.float32)
    boxes_xyxy = np.minimum(padded[0] * factors, edges.astype(np.float32))
    return [boxes_xyxy, *padded[1:]]


def to_arrays(tensors: Sequence[Tensor]) -> Outputs:
    """Return tensors of the CPU as arrays."""
    return [tensor.numpy() for tensor in tensors]


def _feed_bytes(photos: Sequence[Photo], sizing: Sizing) -> Iterator[Fed]:
    yield feed_stack(generate_images(), sizing)
    images = (read_image(path) for path in photos)
    for _, same_size in groupby(images, key=lambda image: image.shape):
        while batch := list(islice(same_size, _BATCH)):
            yield feed_stack(np.stack(batch), sizing)


def feed_stack(images: NDArray[np.uint8], sizing: Sizing) -> Fed:
    """Prepare images [N,H,W,3] for both sides."""
    examples = [prepare_image(image, sizing) for image in images]
    image_hw = images.shape[1], images.shape[2]
    pixels = collate(examples).images.normalised()
    return Fed(pixels, image_hw, sizing.resized_hw(image_hw), images)


def _feed_pixels(pixels: Tensor) -> Fed:
    image_hw = pixels.shape[2], pixels.shape[3]
    return Fed(pixels, image_hw, image_hw, images=None)


def _probe_size(metadata: GraphMetadata) -> tuple[int, int]:
    """Return a small size, not square and not the one that the graph was exported with."""
    return metadata.min_side + 7 * STRIDE_MULTIPLE, metadata.min_side + 3 * STRIDE_MULTIPLE
