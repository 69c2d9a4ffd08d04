"""Write a small COCO detection set that is generated: lit still-lifes of six kinds of shape.

Everything about an image follows from (seed, split, index), so the same seed and the same
versions of numpy and Pillow give the same bytes, and a longer set begins with the images of a
shorter one.

The box of an object is the box of all its visible pixels: later objects hide earlier ones and the
image border cuts, and pieces that are apart still belong to one box. A place that would leave less
than `MIN_VISIBLE` of the outline of any object in sight is not taken, so every object that is drawn
stays annotated.
"""

from __future__ import annotations

import colorsys
import itertools
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from suite.data import synthetic_drawing as drawing
from suite.data import synthetic_shapes as shapes
from suite.data.synthetic_drawing import Light, Sprite
from suite.data.synthetic_shapes import Floats, Rng, Shape
from suite.errors import SuiteError, UsageError

GENERATOR_VERSION = "1"
MIN_VISIBLE = 0.4
SPLITS = ("train", "val")

# label -> name, shape, category id. The ids have gaps, as those of COCO do.
CLASSES: tuple[tuple[str, Shape, int], ...] = (
    ("ball", shapes.ball, 1),
    ("brick", shapes.brick, 2),
    ("ring", shapes.ring, 3),
    ("star", shapes.star, 5),
    ("leaf", shapes.leaf, 7),
    ("cone", shapes.cone, 11),
)

_NUM_TRIES = 12
_DIAMETERS = ((16, 40), (40, 130), (130, 190))  # pixels: small, usual and large objects
_CLUTTER: tuple[tuple[Shape, tuple[int, int]], ...] = (
    (shapes.twig, (40, 130)),
    (shapes.pebble, (10, 36)),
)

# A diameter, and the centres [T,2] to try in turn.
_Plan: TypeAlias = tuple[float, NDArray[np.float64]]


@dataclass(frozen=True)
class Scene:
    """One drawn image and its ground truth; M objects.

    Attributes:
        image: uint8 RGB [H,W,3].
        owner: int16 [H,W], which object is seen at a pixel; -1 is the ground.
        boxes_xyxy: int64 [M,4], x1 and y1 exclusive, tight around the pixels of `owner`.
        labels: int64 [M], positions in `CLASSES`.
    """

    image: NDArray[np.uint8]
    owner: NDArray[np.int16]
    boxes_xyxy: NDArray[np.int64]
    labels: NDArray[np.int64]


def write_synthetic(
    folder: Path,
    *,
    num_train: int,
    num_val: int,
    seed: int,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a generated training and validation set in COCO's format.

    `folder` appears complete or not at all: annotations/instances_{train,val}.json, train/, val/.

    Args:
        folder: new, or empty.
        num_train: images of the training split.
        num_val: images of the validation split.
        seed: 0 or more.
        progress: called after each image with the images done and the images in all.

    Raises:
        UsageError: `folder` is a file or holds something.
        SuiteError: the place cannot be written.
    """
    target = folder.resolve()
    drawn, total = itertools.count(1), num_train + num_val

    def advance() -> None:
        if progress is not None:
            progress(next(drawn), total)

    try:
        if target.is_file() or (target.is_dir() and any(target.iterdir())):
            raise UsageError(
                f"{folder}: exists and is not an empty folder; name a new or an empty one"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
            build = Path(scratch) / "set"
            for split, num_images in zip(SPLITS, (num_train, num_val), strict=True):
                _write_split(build, split, num_images=num_images, seed=seed, advance=advance)
            build.replace(target)
    except OSError as error:
        cause = error.strerror or error  # Pillow's have a message alone
        raise SuiteError(f"{folder}: cannot be written: {cause}; name another folder") from None


def _write_split(
    folder: Path, split: str, *, num_images: int, seed: int, advance: Callable[[], None]
) -> None:
    (folder / split).mkdir(parents=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(num_images):
        scene = render_scene(scene_rng(seed, split, index))
        image_id, name = index + 1, f"{index + 1:06d}.jpg"
        Image.fromarray(scene.image).save(folder / split / name, quality=90)
        height, width = scene.owner.shape
        images.append({"id": image_id, "file_name": name, "height": height, "width": width})
        for annotation in _annotate(scene):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **annotation})
        advance()
    document = {
        "info": {
            "description": f"Generated still-lifes, {split} split",
            "version": GENERATOR_VERSION,
            "seed": seed,
        },
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [{"id": number, "name": name} for name, _, number in CLASSES],
    }
    (folder / "annotations").mkdir(exist_ok=True)
    path = folder / "annotations" / f"instances_{split}.json"
    path.write_text(json.dumps(document) + "\n", encoding="utf-8")


def _annotate(scene: Scene) -> Iterator[dict[str, Any]]:
    for index, (box_xyxy, label) in enumerate(zip(scene.boxes_xyxy, scene.labels, strict=True)):
        x0, y0, x1, y1 = (float(edge) for edge in box_xyxy)
        yield {
            "category_id": CLASSES[label][2],
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": int((scene.owner == index).sum()),
            "iscrowd": 0,
        }


def scene_rng(seed: int, split: str, index: int) -> Rng:
    """Build the source of randomness of one image."""
    return np.random.default_rng(np.random.SeedSequence((seed, SPLITS.index(split), index)))


def render_scene(rng: Rng) -> Scene:
    """Draw one image and its ground truth."""
    image_hw = _draw_image_hw(rng)
    light = drawing.draw_light(rng)
    stage = _Stage(drawing.draw_ground(image_hw, rng), np.full(image_hw, -1, np.int16))
    _strew_clutter(stage, light, rng)
    for diameter, centres_xy in _plan_objects(image_hw, rng):
        label = int(rng.integers(len(CLASSES)))
        colours = _draw_colours(rng)
        sprite = drawing.draw_sprite(
            CLASSES[label][1], diameter=diameter, colours=colours, light=light, rng=rng
        )
        _place(stage, sprite, centres_xy, label=label)
    return Scene(
        image=drawing.develop(stage.canvas, light, rng),
        owner=stage.owner,
        boxes_xyxy=_boxes_xyxy(stage.owner, len(stage.labels)),
        labels=np.array(stage.labels, np.int64),
    )


@dataclass
class _Stage:
    """A scene while it is being drawn; `seen` and `whole` are areas in pixels, one per object."""

    canvas: Floats
    owner: NDArray[np.int16]
    labels: list[int] = field(default_factory=list)
    seen: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)


def _draw_image_hw(rng: Rng) -> tuple[int, int]:
    long, short = int(rng.integers(320, 401)), int(rng.integers(240, 321))
    return (short, long) if rng.random() < 0.75 else (long, short)


def _strew_clutter(stage: _Stage, light: Light, rng: Rng) -> None:
    """Lay twigs and pebbles in the colours of the ground; they are not annotated."""
    height, width = stage.owner.shape
    tone = stage.canvas.mean((1, 2))
    for _ in range(rng.integers(1, 7)):
        shape, sizes = _CLUTTER[rng.integers(len(_CLUTTER))]
        shifted = tone * rng.uniform(0.5, 1.3) + rng.normal(0, 8, 3)
        colour = np.clip(shifted, 20, 235).astype(np.float32)
        sprite = drawing.draw_sprite(
            shape, diameter=rng.uniform(*sizes), colours=(colour, colour), light=light, rng=rng
        )
        patch = _patch(sprite, rng.uniform((0, 0), (width, height)), stage.owner.shape)
        drawing.paint(stage.canvas[:, *patch.image], sprite, patch.sprite)


def _plan_objects(image_hw: tuple[int, int], rng: Rng) -> list[_Plan]:
    """Choose the objects of a scene: none, a heap, or a few that lie anywhere."""
    kind = rng.random()
    if kind < 0.02:
        return []
    if kind < 0.12:
        return _plan_crowd(image_hw, rng)
    num_objects = min(1 + int(rng.poisson(3)), 9)
    return [_plan_single(image_hw, rng) for _ in range(num_objects)]


def _plan_crowd(image_hw: tuple[int, int], rng: Rng) -> list[_Plan]:
    """Heap 12 to 20 smaller objects around one spot."""
    extent = np.array(image_hw[::-1])
    focus = extent * rng.uniform(0.35, 0.65, 2)
    spread = extent * rng.uniform(0.14, 0.24)
    diameters = np.exp(rng.uniform(np.log(30), np.log(84), rng.integers(12, 21)))
    return [
        (diameter, np.clip(rng.normal(focus, spread, (_NUM_TRIES, 2)), 0, extent))
        for diameter in -np.sort(-diameters)
    ]


def _plan_single(image_hw: tuple[int, int], rng: Rng) -> _Plan:
    """Put one object anywhere; one in eight may be cut by the border."""
    smallest, largest = _DIAMETERS[rng.choice(len(_DIAMETERS), p=(0.08, 0.82, 0.1))]
    diameter = np.exp(rng.uniform(np.log(smallest), np.log(largest)))
    extent = np.array(image_hw[::-1])
    margin = 0 if rng.random() < 0.125 else diameter / 2
    return diameter, rng.uniform(margin, extent - margin, (_NUM_TRIES, 2))


def _draw_colours(rng: Rng) -> tuple[Floats, Floats]:
    """Draw a vivid colour and one that stands out on it: near white, dark, or another hue."""
    hue = rng.random()
    first = colorsys.hsv_to_rgb(hue, rng.uniform(0.55, 0.95), rng.uniform(0.6, 1))
    second = (
        colorsys.hsv_to_rgb(hue, 0.08, 1),
        colorsys.hsv_to_rgb(hue, 0.8, 0.3),
        colorsys.hsv_to_rgb((hue + rng.uniform(0.3, 0.7)) % 1, 0.8, 0.95),
    )[rng.integers(3)]
    return np.array(first, np.float32) * 255, np.array(second, np.float32) * 255


class _Patch(NamedTuple):
    """Where sprite and image overlap, as indices into either."""

    image: tuple[slice, slice]
    sprite: tuple[slice, slice]


def _patch(sprite: Sprite, centre_xy: NDArray[np.float64], image_hw: tuple[int, ...]) -> _Patch:
    side = len(sprite.mask)
    spans = []
    for centre, length in zip(centre_xy[::-1], image_hw, strict=True):
        first = round(float(centre) - side / 2)
        start, stop = max(first, 0), min(first + side, length)
        spans.append((slice(start, stop), slice(start - first, stop - first)))
    (rows, sprite_rows), (columns, sprite_columns) = spans
    return _Patch((rows, columns), (sprite_rows, sprite_columns))


def _place(stage: _Stage, sprite: Sprite, centres_xy: NDArray[np.float64], *, label: int) -> None:
    """Paint the sprite at the first centre that leaves enough of every object in sight."""
    whole = [*stage.whole, int(sprite.mask.sum())]
    for centre_xy in centres_xy:
        patch = _patch(sprite, centre_xy, stage.owner.shape)
        owner, mask = stage.owner[patch.image], sprite.mask[patch.sprite]
        hidden = np.bincount(owner[mask] + 1, minlength=len(whole))[1:]
        seen = [*(np.array(stage.seen, np.int64) - hidden).tolist(), int(mask.sum())]
        if all(part >= MIN_VISIBLE * area for part, area in zip(seen, whole, strict=True)):
            owner[mask] = len(stage.labels)
            drawing.paint(stage.canvas[:, *patch.image], sprite, patch.sprite)
            stage.labels.append(label)
            stage.seen, stage.whole = seen, whole
            return


def _boxes_xyxy(owner: NDArray[np.int16], num_objects: int) -> NDArray[np.int64]:
    boxes = np.zeros((num_objects, 4), np.int64)
    for index in range(num_objects):
        mask = owner == index
        columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
        boxes[index] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
    return boxes
