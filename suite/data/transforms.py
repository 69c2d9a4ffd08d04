"""What happens to an image between decoding and the network: crop, resize, flip, colour.

Images are uint8 RGB; boxes are `_xyxy` in pixels. The published SSD augmentation (Google's MLPerf
v0.6 code and the Ascend ModelZoo port of it) with three departures: crops end on whole pixels,
every resize is antialiased, and the colour jitter is linear, so that it folds with the
normalisation into one 3x4 affine per image.

Shape letters: M boxes of one image, H W rows and columns.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

Boxes = NDArray[np.float32]
CropRule = Literal["none", "all_boxes", "any_box"]

# ImageNet statistics of RGB in [0, 1], as in every source of both detectors.
MEAN = np.array([0.485, 0.456, 0.406])
STD = np.array([0.229, 0.224, 0.225])

_MIN_OVERLAPS = np.array([0.0, 0.1, 0.3, 0.5, 0.7, 0.9])
_KEEP_WHOLE_PROBABILITY = 1 / 7
_NUM_CANDIDATES = 50
_ROUNDS_AT_ONCE = 4  # on average three are needed
_LUMA = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601
_IDENTITY = np.eye(3)
_TO_GREY = np.outer(np.ones(3), _LUMA)
_RGB_TO_YIQ = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
_YIQ_TO_RGB = np.linalg.inv(_RGB_TO_YIQ)


def resize_image(image: NDArray[np.uint8], image_hw: tuple[int, int]) -> Tensor:
    """Resize uint8 [H,W,3] to a uint8 tensor [3,h,w]: bilinear, antialiased, half-pixel centres.

    The one resize of training, evaluation and prediction.
    """
    # The view is channels-last, for which torch has a vectorised uint8 kernel. It copies a crop
    # first, which numpy does in a third of the time; and torch wants memory it could write to.
    whole = np.require(image, requirements=["C", "W"])
    pixels = torch.from_numpy(whole).permute(2, 0, 1)[None]
    return F.interpolate(pixels, size=image_hw, mode="bilinear", antialias=True)[0].contiguous()


def choose_crop(
    rng: np.random.Generator,
    boxes_xyxy: Boxes,
    *,
    image_hw: tuple[int, int],
    rule: CropRule,
    factor: float,
) -> tuple[int, int, int, int]:
    """Draw an SSD training crop and return it as (x0, y0, x1, y1) in whole pixels.

    Until one is accepted: with probability 1/7 the whole image, else a minimum overlap is drawn
    from {0, .1, .3, .5, .7, .9} and 50 windows, of which the last valid one wins. Their sides are
    0.3 to 1 of the image's and, in these units, neither is twice the other. A window is valid when
    it holds the centre of a box and, by rule:

    - `all_boxes` (published): every box overlaps it by more than `factor` x the minimum;
    - `any_box`: at least one does. Crowded images hardly ever satisfy the other rule.

    Overlap is the IoU of box and window. `none` returns the whole image.
    """
    height, width = image_hw
    while rule != "none":
        rounds = _draw_rounds(rng)
        # Rounded before they are judged: the crop that is taken holds a centre too.
        sides = np.array([width, height, width, height])
        windows = (rounds.windows * sides[:, None, None]).round()
        minimum = rounds.minimum * factor
        valid = _valid_windows(windows, boxes_xyxy, rule=rule, minimum=minimum)
        accepted = rounds.keeps_whole | valid.any(axis=1)
        if accepted.any():
            first = int(accepted.argmax())
            if rounds.keeps_whole[first]:
                break
            last = np.flatnonzero(valid[first])[-1]
            x0, y0, x1, y1 = windows[:, first, last].astype(int).tolist()
            return x0, y0, x1, y1
    return 0, 0, width, height


class _Rounds(NamedTuple):
    """Some rounds R of the published loop, drawn at once.

    Attributes:
        keeps_whole: bool [R].
        minimum: [R], the overlap asked for.
        windows: [4,R,50] `_xyxy` in fractions of the image; too narrow ones are empty.
    """

    keeps_whole: NDArray[np.bool_]
    minimum: NDArray[np.float64]
    windows: NDArray[np.float64]


def _draw_rounds(rng: np.random.Generator) -> _Rounds:
    keeps_whole = rng.random(_ROUNDS_AT_ONCE) < _KEEP_WHOLE_PROBABILITY
    minimum = _MIN_OVERLAPS[rng.integers(len(_MIN_OVERLAPS), size=_ROUNDS_AT_ONCE)]
    shape = (2, _ROUNDS_AT_ONCE, _NUM_CANDIDATES)
    sides = rng.uniform(0.3, 1.0, shape)
    corner = rng.random(shape) * (1 - sides)
    wide, high = sides
    sides *= (wide < 2 * high) & (high < 2 * wide)
    return _Rounds(keeps_whole, minimum, np.concatenate([corner, corner + sides]))


def _valid_windows(
    windows: NDArray[np.float64],
    boxes_xyxy: Boxes,
    *,
    rule: CropRule,
    minimum: NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Return [R,50]: which windows [4,R,50] may be taken, by the minimum [R] of their round."""
    # Coordinate by coordinate and boxes first, [M,R,50]: numpy is slow on a short last axis.
    x0, y0, x1, y1 = windows
    left, top, right, bottom = boxes_xyxy.T[:, :, None, None].astype(np.float64)
    wide = np.maximum(np.minimum(x1, right) - np.maximum(x0, left), 0)
    high = np.maximum(np.minimum(y1, bottom) - np.maximum(y0, top), 0)
    shared = wide * high
    union = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - shared
    enough = shared > minimum[:, None] * union
    fits = enough.all(axis=0) if rule == "all_boxes" else enough.any(axis=0)
    x, y = (left + right) / 2, (top + bottom) / 2
    centred = (x > x0) & (x < x1) & (y > y0) & (y < y1)
    return np.asarray(fits & centred.any(axis=0))


def average_colour(pixels: Tensor) -> NDArray[np.float64]:
    """Return each channel's mean of uint8 [3,H,W] in [0, 1]; equal on any number of threads."""
    # Row by row in 32 bits, which no row exceeds and which is the quickest.
    rows = pixels.numpy().sum(axis=2, dtype=np.uint32)
    return np.asarray(rows.sum(axis=1, dtype=np.uint64) / (255 * pixels[0].numel()))


def crop_boxes(
    boxes_xyxy: Boxes, window: tuple[int, int, int, int]
) -> tuple[Boxes, NDArray[np.bool_]]:
    """Clip boxes to a window and move its corner to the origin; also return which boxes stay.

    A box stays when its centre lies strictly inside the window.
    """
    edges = np.array(window, dtype=np.float32)
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    stays = np.all((centres > edges[:2]) & (centres < edges[2:]), axis=1)
    corner, end = edges[[0, 1, 0, 1]], edges[[2, 3, 2, 3]]
    return boxes_xyxy[stays].clip(corner, end) - corner, stays


def scale_boxes(boxes_xyxy: Boxes, *, from_hw: tuple[int, int], to_hw: tuple[int, int]) -> Boxes:
    """Move boxes along with a resize."""
    x, y = to_hw[1] / from_hw[1], to_hw[0] / from_hw[0]
    return boxes_xyxy * np.array([x, y, x, y], dtype=np.float32)


def flip_boxes(boxes_xyxy: Boxes, *, width: int) -> Boxes:
    """Mirror boxes left to right."""
    return np.stack(
        [width - boxes_xyxy[:, 2], boxes_xyxy[:, 1], width - boxes_xyxy[:, 0], boxes_xyxy[:, 3]],
        axis=1,
    )


def normalisation_affine() -> NDArray[np.float32]:
    """Return the [3,4] affine that maps RGB in [0, 1] to zero mean and unit deviation."""
    return _normalise(_IDENTITY, np.zeros(3))


def jitter_affine(rng: np.random.Generator, mean_rgb: NDArray[np.float64]) -> NDArray[np.float32]:
    """Draw a colour jitter and return it, folded with the normalisation, as a [3,4] affine.

    In the published order and ranges: brightness +U(-1/8, 1/8), contrast x U(.5, 1.5) about each
    channel's mean, saturation x U(.5, 1.5) about luma, hue turned by U(-.05, .05) of a circle;
    nothing is clipped. TensorFlow turns hue and saturation in HSV; here both are linear (luma and
    YIQ).

    Args:
        rng: the sample's own generator.
        mean_rgb: [3], the mean of each channel of the image in [0, 1].
    """
    brightness = rng.uniform(-0.125, 0.125)
    contrast, saturation = rng.uniform(0.5, 1.5, 2)
    angle = 2 * math.pi * rng.uniform(-0.05, 0.05)
    saturate = saturation * _IDENTITY + (1 - saturation) * _TO_GREY
    mix = _hue_rotation(angle) @ saturate
    return _normalise(mix * contrast, mix @ ((1 - contrast) * mean_rgb + brightness))


def _hue_rotation(angle: float) -> NDArray[np.float64]:
    turn = _IDENTITY.copy()
    turn[1:, 1:] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    return np.asarray(_YIQ_TO_RGB @ turn @ _RGB_TO_YIQ)


def _normalise(matrix: NDArray[np.float64], offset: NDArray[np.float64]) -> NDArray[np.float32]:
    columns = [matrix / STD[:, None], ((offset - MEAN) / STD)[:, None]]
    return np.concatenate(columns, axis=1).astype(np.float32)
