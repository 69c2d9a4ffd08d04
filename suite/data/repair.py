"""The stated rules by which a box of an annotation file is kept, changed or dropped.

Every reader applies these and no others; a box falls under the first rule that fits it:

- ``not_finite``: a coordinate is NaN or infinite; dropped.
- ``degenerate``: width <= 0 or height <= 0 before clipping (or so thin that float32 cannot tell its
  two sides apart); dropped.
- ``outside``: nothing of it is left after clipping to the image; dropped.
- ``clipped``: it reaches over an edge of the image and was cut at it; kept.

Boxes are `_xyxy` in pixels, x1 and y1 exclusive. Shape letter: M boxes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

DROPPING_RULES: Final = ("not_finite", "degenerate", "outside")
RULES: Final = (*DROPPING_RULES, "clipped")
_ROUNDING: Final = 1e-6  # pixels; x + width of decimal numbers ends this far beyond the edge


@dataclass(frozen=True)
class Repaired:
    """What the rules made of M boxes.

    Attributes:
        boxes_xyxy: float32 [K,4]; the kept boxes, in their order.
        keep: bool [M]; which boxes were kept.
        masks: rule name -> bool [M]; which boxes fell under it, at most one rule each.
    """

    boxes_xyxy: NDArray[np.float32]
    keep: NDArray[np.bool_]
    masks: dict[str, NDArray[np.bool_]]

    def counts(self) -> Counter[str]:
        """Return how often each rule applied; rules that never did are absent."""
        return Counter({rule: int(mask.sum()) for rule, mask in self.masks.items() if mask.any()})


def repair_boxes(boxes_xyxy: NDArray[np.float64], image_hw: ArrayLike) -> Repaired:
    """Apply the rules of this module to raw boxes.

    Args:
        boxes_xyxy: float64 [M,4], as the annotation file states them.
        image_hw: [2] for boxes of one image, or [M,2] with the image size of each box.
    """
    clipped = clip_boxes(boxes_xyxy, image_hw)
    rounded = clipped.astype(np.float32)

    not_finite = ~np.all(np.isfinite(boxes_xyxy), axis=1)
    emptied = _is_empty(clipped)
    degenerate = ~not_finite & (_is_empty(boxes_xyxy) | (_is_empty(rounded) & ~emptied))
    outside = ~not_finite & ~degenerate & emptied
    keep = ~(not_finite | degenerate | outside)
    changed = keep & np.any(np.abs(clipped - boxes_xyxy) > _ROUNDING, axis=1)
    masks = dict(zip(RULES, (not_finite, degenerate, outside, changed), strict=True))
    return Repaired(rounded[keep], keep, masks)


def clip_boxes(boxes_xyxy: NDArray[np.float64], image_hw: ArrayLike) -> NDArray[np.float64]:
    """Cut boxes [M,4] at the edges of their images; `image_hw` as in `repair_boxes`."""
    height, width = np.moveaxis(np.asarray(image_hw, np.float64), -1, 0)
    limits = np.stack(np.broadcast_arrays(width, height, width, height), axis=-1)
    return np.clip(boxes_xyxy, 0.0, limits)


def _is_empty(boxes_xyxy: NDArray[np.floating]) -> NDArray[np.bool_]:
    # Compared, not subtracted: infinity minus infinity would warn.
    empty: NDArray[np.bool_] = np.any(boxes_xyxy[:, 2:] <= boxes_xyxy[:, :2], axis=1)
    return empty
