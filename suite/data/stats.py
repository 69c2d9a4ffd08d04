"""Counting a split: images, boxes, sizes, shapes, classes; in one pass, in little memory.

Sizes and shapes are of the boxes as annotated, crowd regions left out, in pixels of the image as it
is annotated. A bin holds values from its lower edge to below the upper one.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from suite.data.formats.annotated import AnnotatedBox, AnnotatedImage, AnnotatedSet

_SIDES: Final = (0.0, 8.0, 16.0, 32.0, 64.0, 96.0, 128.0, 192.0, 256.0, 384.0, 512.0)
_ASPECTS: Final = (0.0, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 4 / 3, 2.0, 4.0, 8.0)
_NUMBERS: Final = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 11.0, 21.0, 51.0, 101.0)
_LONG_SIDES: Final = (0.0, 256.0, 384.0, 512.0, 640.0, 800.0, 1024.0, 1536.0, 2048.0, 4096.0)
_COCO_AREAS: Final = (0.0, 32.0**2, 96.0**2)  # small, medium, large


@dataclass(frozen=True)
class Histogram:
    """Counts by bin.

    Attributes:
        edges: the lower edge of each bin; the last bin has no upper one.
        counts: of each bin.
    """

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class ClassCount:
    """How often a class occurs: its boxes, crowd included, and the images with at least one."""

    category_id: int
    name: str
    num_boxes: int
    num_images: int


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What is in a split.

    Attributes:
        num_boxes: all, crowd included.
        num_sizeless: boxes without a size, since a side is not more than 0 or not finite.
        smallest_hw, largest_hw: the images with the fewest and with the most pixels.
        long_side: of images, pixels.
        objects_per_image: crowd left out.
        box_side: square root of width x height, pixels.
        box_area: small, medium and large as COCO's evaluation has them, by the area that the
            annotations state, which may be that of a mask.
        box_aspect: width / height.
        classes: by category id.
        effective_classes: how many classes of equal frequency would be as even as these (the
            exponential of the entropy of their shares).
        problems: what the annotations hold that could not be read, by rule.
    """

    num_images: int
    num_boxes: int
    num_crowd: int
    num_sizeless: int
    num_images_without_boxes: int
    smallest_hw: tuple[int, int]
    largest_hw: tuple[int, int]
    long_side: Histogram
    objects_per_image: Histogram
    box_side: Histogram
    box_area: Histogram
    box_aspect: Histogram
    classes: tuple[ClassCount, ...]
    effective_classes: float
    problems: Mapping[str, int]


def count_split(
    annotated: AnnotatedSet,
    *,
    num_examples: int = 0,
    problems: Mapping[str, int],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Statistics, list[AnnotatedImage]]:
    """Count a split; also return some of its images, drawn by lot, the same at every call.

    Args:
        annotated: read once.
        num_examples: how many images to return, fewer where the split has fewer.
        problems: by rule; what a report has collected once all images are read.
        progress: called with (images done, images) after each image.
    """
    counting = _Counting()
    examples = _Examples(num_examples)
    for number, image in enumerate(annotated.images(), start=1):
        counting.add(image)
        examples.offer(image)
        if progress:
            progress(number, annotated.num_images)
    return counting.finish(annotated.category_names, problems), examples.chosen


class _Bins:
    def __init__(self, edges: tuple[float, ...]) -> None:
        self._edges = edges
        self._counts = [0] * len(edges)

    def add(self, value: float) -> None:
        self._counts[bisect_right(self._edges, value) - 1] += 1

    def finish(self) -> Histogram:
        return Histogram(self._edges, tuple(self._counts))


class _Counting:
    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.boxes_of: Counter[int] = Counter()
        self.images_of: Counter[int] = Counter()
        self.sizes: list[tuple[int, int]] = []
        self.long_side, self.numbers = _Bins(_LONG_SIDES), _Bins(_NUMBERS)
        self.side, self.area, self.aspect = _Bins(_SIDES), _Bins(_COCO_AREAS), _Bins(_ASPECTS)

    def add(self, image: AnnotatedImage) -> None:
        self.counts["images"] += 1
        self.counts["without_boxes"] += not image.boxes
        self.sizes = _smallest_and_largest([*self.sizes, image.image_hw])
        self.long_side.add(max(image.image_hw))
        self.numbers.add(sum(not box.crowd for box in image.boxes))
        for box in image.boxes:
            self._add_box(box)
        self.images_of.update({box.category_id for box in image.boxes})

    def _add_box(self, box: AnnotatedBox) -> None:
        self.counts["boxes"] += 1
        self.counts["crowd"] += box.crowd
        self.boxes_of[box.category_id] += 1
        width, height = box.box_xywh[2:]
        if not (0 < width < math.inf and 0 < height < math.inf):
            self.counts["sizeless"] += 1
        elif not box.crowd:
            self.side.add(math.sqrt(width * height))
            self.aspect.add(width / height)
            area = width * height if box.area is None else box.area
            self.area.add(max(area, 0.0))

    def finish(self, names: Mapping[int, str], problems: Mapping[str, int]) -> Statistics:
        smallest, largest = self.sizes or [(0, 0), (0, 0)]
        return Statistics(
            num_images=self.counts["images"],
            num_boxes=self.counts["boxes"],
            num_crowd=self.counts["crowd"],
            num_sizeless=self.counts["sizeless"],
            num_images_without_boxes=self.counts["without_boxes"],
            smallest_hw=smallest,
            largest_hw=largest,
            long_side=self.long_side.finish(),
            objects_per_image=self.numbers.finish(),
            box_side=self.side.finish(),
            box_area=self.area.finish(),
            box_aspect=self.aspect.finish(),
            classes=tuple(
                ClassCount(key, name, self.boxes_of[key], self.images_of[key])
                for key, name in names.items()
            ),
            effective_classes=_effective_number(list(self.boxes_of.values())),
            problems=dict(problems),
        )


def _smallest_and_largest(sizes: list[tuple[int, int]]) -> list[tuple[int, int]]:
    by_pixels = sorted(sizes, key=math.prod)
    return [by_pixels[0], by_pixels[-1]]


def _effective_number(counts: list[int]) -> float:
    total = sum(counts)
    if not total:
        return 0.0
    return math.exp(-sum(count / total * math.log(count / total) for count in counts if count))


class _Examples:
    """A fair lot over a stream of unknown length (reservoir sampling, algorithm R)."""

    def __init__(self, number: int) -> None:
        self.chosen: list[AnnotatedImage] = []
        self._number, self._seen = number, 0
        self._lot = random.Random(0)  # noqa: S311  (pictures, not secrets)

    def offer(self, image: AnnotatedImage) -> None:
        self._seen += 1
        if len(self.chosen) < self._number:
            self.chosen.append(image)
        elif self._number and (place := self._lot.randrange(self._seen)) < self._number:
            self.chosen[place] = image
