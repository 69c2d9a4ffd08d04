"""From an image file to what a batch is made of: decode, crop, resize, flip, draw the colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from suite.data.images import read_image
from suite.data.sample import BadSample, Sample
from suite.data.transforms import (
    CropRule,
    average_colour,
    choose_crop,
    crop_boxes,
    flip_boxes,
    jitter_affine,
    normalisation_affine,
    resize_image,
    scale_boxes,
)
from suite.sizing import Sizing

_NO_BOXES = np.zeros((0, 4), np.float32)
_NO_LABELS = np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """How training samples vary; see `suite.data.transforms`. `flip` is a probability."""

    crop: CropRule
    crop_factor: float
    flip: float
    jitter: bool


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prepared image.

    Attributes:
        pixels: uint8 [3,h,w], the resized picture without padding.
        affine: float32 [3,4], see `Images`.
        boxes_xyxy: float32 [M,4], in pixels of the picture.
        labels: int64 [M].
        original_hw: of the image before it was cropped and resized.
        canvas_hw: what the picture is padded to, unless its batch needs more.
        image_id: the dataset's own.
        replaces: images that could not be read, in whose place this one stands.
    """

    pixels: Tensor
    affine: NDArray[np.float32]
    boxes_xyxy: NDArray[np.float32]
    labels: NDArray[np.int64]
    original_hw: tuple[int, int]
    canvas_hw: tuple[int, int]
    image_id: int
    replaces: tuple[BadSample, ...] = ()


def prepare_image(
    image: NDArray[np.uint8],
    sizing: Sizing,
    *,
    boxes_xyxy: NDArray[np.float32] = _NO_BOXES,
    labels: NDArray[np.int64] = _NO_LABELS,
    image_id: int = 0,
) -> Example:
    """Resize a decoded image [H,W,3] and its boxes."""
    image_hw = image.shape[0], image.shape[1]
    picture_hw = sizing.resized_hw(image_hw)
    return Example(
        pixels=resize_image(image, picture_hw),
        affine=normalisation_affine(),
        boxes_xyxy=scale_boxes(boxes_xyxy, from_hw=image_hw, to_hw=picture_hw),
        labels=labels,
        original_hw=image_hw,
        canvas_hw=sizing.canvas_hw(image_hw),
        image_id=image_id,
    )


def prepare_for_evaluation(sample: Sample, sizing: Sizing) -> Example:
    """Decode and resize."""
    return prepare_image(
        read_image(sample.image, expected_hw=sample.image_hw),
        sizing,
        boxes_xyxy=sample.boxes_xyxy,
        labels=sample.labels,
        image_id=sample.image_id,
    )


def prepare_for_training(
    sample: Sample,
    sizing: Sizing,
    *,
    augmentation: Augmentation,
    rng: np.random.Generator,
    mark: Callable[[str], None] = lambda _: None,
) -> Example:
    """Decode, crop, resize, flip and draw the colour jitter.

    Args:
        mark: called with the name of each stage at its end; how `bench data` takes the time.
    """
    image = read_image(sample.image, expected_hw=sample.image_hw)
    mark("decode")
    window = choose_crop(
        rng,
        sample.boxes_xyxy,
        image_hw=sample.image_hw,
        rule=augmentation.crop,
        factor=augmentation.crop_factor,
    )
    boxes_xyxy, stays = crop_boxes(sample.boxes_xyxy, window)
    mark("crop")
    image = image[window[1] : window[3], window[0] : window[2]]
    example = prepare_image(
        image, sizing, boxes_xyxy=boxes_xyxy, labels=sample.labels[stays], image_id=sample.image_id
    )
    pixels, boxes_xyxy, affine = example.pixels, example.boxes_xyxy, example.affine
    mark("resize")
    if rng.random() < augmentation.flip:
        pixels, boxes_xyxy = pixels.flip(2), flip_boxes(boxes_xyxy, width=pixels.shape[2])
    if augmentation.jitter:
        affine = jitter_affine(rng, average_colour(pixels))
    mark("flip and colour")
    return replace(
        example,
        pixels=pixels,
        affine=affine,
        boxes_xyxy=boxes_xyxy,
        original_hw=sample.image_hw,
    )
