"""How an image is fitted to the network's input: how large it becomes, and how far it is padded.

The canvas is what the network sees; the picture lies in its upper left corner. Sizes are always
(height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from suite.recipe_sections import Resize

STRIDE_MULTIPLE = 32
"""Input sides are multiples of this: the backbone's last map is that much smaller."""


@dataclass(frozen=True, kw_only=True)
class Sizing:
    """The rule; see `Resize` for its meaning in a recipe.

    Attributes:
        keep_ratio: False stretches the image to the whole canvas.
        short_side, long_side: of the picture; as large as both allow.
        canvases: the only canvases there are: one for all images, or one for lying and one for
            standing ones. None given: any multiples of 32.
        resizes: False leaves images as they are, for a model that does all this itself.
    """

    keep_ratio: bool
    short_side: int
    long_side: int
    canvases: tuple[tuple[int, int], ...]
    resizes: bool = True

    @property
    def nominal_hw(self) -> tuple[int, int]:
        """The size that tables state for this rule: that of a lying picture, or the one canvas."""
        return self.canvases[0] if len(self.canvases) == 1 else (self.short_side, self.long_side)

    def resized_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the picture within its canvas."""
        if not self.resizes:
            return image_hw
        if not self.keep_ratio:
            return self.canvases[0]
        height, width = image_hw
        scale = min(self.long_side / max(image_hw), self.short_side / min(image_hw))
        if self.canvases:
            canvas = self.canvas_hw(image_hw)
            scale = min(scale, canvas[0] / height, canvas[1] / width)
        # mmdetection's rounding, which Python's own is not: a half goes up.
        return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))

    def canvas_hw(self, image_hw: tuple[int, int]) -> tuple[int, int]:
        """Return the size of the network's input for an image."""
        if not self.resizes:
            return image_hw
        if self.canvases:
            return self.canvases[0] if is_lying(image_hw) else self.canvases[-1]
        height, width = self.resized_hw(image_hw)
        return _round_up(height), _round_up(width)


def is_lying(image_hw: tuple[int, int]) -> bool:
    """Whether an image is wider than high; a square one is not."""
    return image_hw[1] > image_hw[0]


def build_sizing(resize: Resize, *, canvas_hw: Sequence[int] = ()) -> Sizing:
    """Turn a recipe's rule into sizes.

    Args:
        resize: of a recipe or a graph.
        canvas_hw: the one input size of a graph that has only one; images are fitted into it.
    """
    short, long = resize.short_side, resize.long_side
    canvases: tuple[tuple[int, int], ...] = ()
    if canvas_hw:
        canvases = ((canvas_hw[0], canvas_hw[1]),)
        short, long = min(short, *canvas_hw), min(long, max(canvas_hw))
    elif resize.mode == "stretch":
        canvases = ((short, long),)
    elif resize.mode == "fixed":
        lying = _round_up(short), _round_up(long)
        canvases = (lying, lying[::-1])
    return Sizing(
        keep_ratio=resize.mode != "stretch", short_side=short, long_side=long, canvases=canvases
    )


def _round_up(side: int) -> int:
    return -(-side // STRIDE_MULTIPLE) * STRIDE_MULTIPLE
