"""Detections drawn on photos, for eyes: the output of predict, the examples of a report and README.

Images are uint8 [H,W,3] RGB, boxes `_xyxy` in their pixels. Lines and letters grow with the image,
so a picture reads the same after it is scaled down to a thumbnail. Shape letter: D detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw, ImageFont

# Okabe and Ito's colours, told apart with every common kind of colour blindness; their black is the
# outline here.
PALETTE = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (0, 114, 178),
    (213, 94, 0),
    (204, 121, 167),
)
_OUTLINE = (0, 0, 0, 150)
_SHARP_PIXELS = 4_000_000  # above this a hard edge is too fine to be seen

_Box = tuple[float, float, float, float]
_Colour = tuple[int, int, int]


def draw_detections(
    image: NDArray[np.uint8],
    boxes_xyxy: ArrayLike,
    scores: ArrayLike | None,
    labels: ArrayLike,
    class_names: Sequence[str],
) -> Image.Image:
    """Return a copy of the image with a box and a tag "name 0.87" for every detection.

    Better detections lie on top, without scores the smaller boxes. Boxes are cut off at the border,
    tags are moved inside it.

    Args:
        boxes_xyxy: [D,4], pixels of `image`; boxes without a visible part are left out.
        scores: [D]; None: ground truth, whose tags say the name only.
        labels: [D], positions in `class_names`; a label has the same colour in every image.
    """
    height, width = image.shape[:2]
    # Drawn at twice the size and averaged, because Pillow's lines have hard edges.
    scale = 2 if height * width <= _SHARP_PIXELS else 1
    layer = Image.new("RGBA", (width * scale, height * scale))
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4) * scale
    marks = _marks_best_first(
        np.clip(boxes, 0, [*layer.size, *layer.size]),
        None if scores is None else np.asarray(scores, dtype=np.float64),
        [
            (class_names[int(label)], PALETTE[int(label) % len(PALETTE)])
            for label in np.asarray(labels)
        ],
    )
    _draw_marks(layer, marks, smallest_line=2 * scale)
    photo = Image.fromarray(image).convert("RGBA")
    photo.alpha_composite(layer.resize(photo.size, Image.Resampling.BOX))
    return photo.convert("RGB")


def tile_images(
    images: Sequence[Image.Image], columns: int, *, sheet_width: int = 1280
) -> Image.Image:
    """Put images side by side in rows of `columns`, every row scaled to the full width.

    The last row keeps the height of the one above it where it holds fewer images.
    """
    gap = max(2, sheet_width // 200)
    rows = [images[start : start + columns] for start in range(0, len(images), columns)]
    heights: list[float] = []
    for row in rows:
        room = sheet_width - gap * (len(row) - 1)
        height = room / sum(image.width / image.height for image in row)
        is_short = len(row) < columns and heights
        heights.append(min(height, heights[-1]) if is_short else height)
    sheet_height = round(sum(heights)) + gap * (len(rows) - 1)
    sheet = Image.new("RGB", (sheet_width, sheet_height), "white")
    top = 0.0
    for row, height in zip(rows, heights, strict=True):
        _paste_row(sheet, row, top=top, height=height, gap=gap)
        top += height + gap
    return sheet


@dataclass(frozen=True)
class _Mark:
    """One visible detection, in pixels of the layer that is drawn on."""

    box: _Box
    text: str
    colour: _Colour


def _marks_best_first(
    boxes: NDArray[np.float64],
    scores: NDArray[np.float64] | None,
    styles: list[tuple[str, _Colour]],
) -> list[_Mark]:
    marks = []
    ranks = -np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) if scores is None else scores
    for index in np.argsort(-ranks, kind="stable"):
        x0, y0, x1, y1 = boxes[index].tolist()
        if x0 < x1 and y0 < y1:
            name, colour = styles[index]
            text = name if scores is None else f"{name} {scores[index]:.2f}"
            marks.append(_Mark((x0, y0, x1, y1), text, colour))
    return marks


def _draw_marks(layer: Image.Image, marks: list[_Mark], *, smallest_line: int) -> None:
    pen = ImageDraw.Draw(layer)
    short_side = min(layer.size)
    line = max(smallest_line, round(short_side / 120))
    font_size = max(6 * smallest_line, round(short_side / 30))
    tags: list[_Box] = []
    fonts = []
    for mark in marks:
        font = _fitting_font(mark.text, font_size, layer.width - 2 * line)
        tags.append(_free_place(mark.box, _tag_size(mark.text, font, line), tags, layer.size))
        fonts.append(font)
    for mark in reversed(marks):
        _draw_box(pen, mark, line)
    for mark, tag, font in reversed(list(zip(marks, tags, fonts, strict=True))):
        pen.rectangle(tag, fill=mark.colour)
        middle = ((tag[0] + tag[2]) / 2, (tag[1] + tag[3]) / 2)
        pen.text(middle, mark.text, fill=_readable_on(mark.colour), font=font, anchor="mm")


def _draw_box(pen: ImageDraw.ImageDraw, mark: _Mark, line: int) -> None:
    x0, y0, x1, y1 = (round(value) for value in mark.box)
    x1, y1 = max(x0, x1 - 1), max(y0, y1 - 1)  # Pillow's last pixel is inclusive
    # A thin dark rim around it keeps a bright line visible on a bright background.
    rim = max(1, line // 3)
    pen.rectangle((x0 - rim, y0 - rim, x1 + rim, y1 + rim), outline=_OUTLINE, width=rim)
    pen.rectangle((x0, y0, x1, y1), outline=mark.colour, width=line)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def _fitting_font(text: str, size: int, room: float) -> ImageFont.FreeTypeFont:
    width = _font(size).getlength(text)
    return _font(size if width <= room else max(1, int(size * room / width)))


def _tag_size(text: str, font: ImageFont.FreeTypeFont, padding: int) -> tuple[float, float]:
    ascent, descent = font.getmetrics()
    return font.getlength(text) + 2 * padding, ascent + descent


def _free_place(
    box: _Box, tag_size: tuple[float, float], taken: list[_Box], layer_size: tuple[int, int]
) -> _Box:
    x0, y0, x1, y1 = box
    width, height = tag_size
    above, inside, below = y0 - height, y0, y1
    corners = [(x0, above), (x0, inside), (x1 - width, above), (x0, below), (x1 - width, below)]
    places = [_moved_inside(corner, tag_size, layer_size) for corner in corners]
    free = (place for place in places if not any(_overlap(place, other) for other in taken))
    return next(free, places[0])


def _moved_inside(
    corner: tuple[float, float], tag_size: tuple[float, float], layer_size: tuple[int, int]
) -> _Box:
    x, y = (
        round(max(0, min(start, room - extent - 1)))
        for start, extent, room in zip(corner, tag_size, layer_size, strict=True)
    )
    return x, y, x + tag_size[0], y + tag_size[1]


def _overlap(first: _Box, second: _Box) -> bool:
    return (
        first[0] < second[2]
        and second[0] < first[2]
        and first[1] < second[3]
        and second[1] < first[3]
    )


def _readable_on(colour: _Colour) -> str:
    # WCAG's relative luminance; black and white contrast equally with 0.179.
    linear = ((np.array(colour) / 255 + 0.055) / 1.055) ** 2.4
    return "black" if linear @ [0.2126, 0.7152, 0.0722] > 0.179 else "white"


def _paste_row(
    sheet: Image.Image, row: Sequence[Image.Image], *, top: float, height: float, gap: int
) -> None:
    left = 0.0
    for image in row:
        right = left + image.width / image.height * height
        size = (round(right) - round(left), round(top + height) - round(top))
        sheet.paste(image.resize(size, Image.Resampling.LANCZOS), (round(left), round(top)))
        left = right + gap
