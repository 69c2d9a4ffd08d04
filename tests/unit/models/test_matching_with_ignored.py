"""RetinaNet's matcher against plain loops written from the definitions of both rules."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import models.matching
from models.anchors import build_retinanet_anchors, build_retinanet_shapes
from models.boxes import cxcywh_to_xyxy, intersection_over_union
from models.matching import IGNORED, UNMATCHED, LowQuality, match_with_ignored
from models.structures import Target

Box = tuple[float, float, float, float]
RULES: tuple[LowQuality, ...] = get_args(LowQuality)
IMAGE_HW = (160, 224)


def match_slowly(
    overlaps: list[list[float]], *, positive: float, negative: float, low_quality: LowQuality
) -> list[int]:
    """Match one image by its overlaps, a row for each box."""
    num_anchors = len(overlaps[0])
    matches, best_of = [], []
    for anchor in range(num_anchors):
        column = [row[anchor] for row in overlaps]
        best_of.append(column.index(max(column)))
        if max(column) >= positive:
            matches.append(best_of[-1])
        elif max(column) < negative:
            matches.append(UNMATCHED)
        else:
            matches.append(IGNORED)
    for box, row in enumerate(overlaps):  # the box listed last has the last word
        most = max(row)
        for anchor in range(num_anchors):
            if row[anchor] == most > 0:
                matches[anchor] = box if low_quality == "forced" else best_of[anchor]
    return matches


def overlap(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second)]
    return width * height / (sum(areas) - width * height)


class Elsewhere(Tensor):
    """A tensor that says it is not on the CPU, which sends it the way of accelerators."""

    is_cpu = False


def move(target: Target, place: str) -> Target:
    """Return what is matched image by image, as on the `cpu`, or all at once, as `elsewhere`."""
    if place == "cpu":
        return target
    return Target(target.boxes_xyxy, target.labels.as_subclass(Elsewhere))


both_places = pytest.mark.parametrize("place", ["cpu", "elsewhere"])


def pad(images: list[list[Box]], *, extra: int = 0) -> Target:
    """Pad to the largest number of boxes and `extra` rows more."""
    rows = max([len(boxes) for boxes in images]) + extra
    boxes_xyxy = torch.zeros(len(images), rows, 4)
    labels = torch.full((len(images), rows), -1)
    for place, boxes in enumerate(images):
        boxes_xyxy[place, : len(boxes)] = torch.tensor(boxes).reshape(-1, 4)
        labels[place, : len(boxes)] = 0
    return Target(boxes_xyxy, labels)


def match(
    images: list[list[Box]],
    anchors_xyxy: list[Box],
    low_quality: LowQuality,
    *,
    place: str = "cpu",
    extra: int = 0,
    limits: tuple[float, float] = (0.5, 0.4),
) -> list[list[int]]:
    corners = torch.tensor(anchors_xyxy).float().reshape(-1, 4)
    sizes = corners[:, 2:] - corners[:, :2]
    found = match_with_ignored(
        move(pad(images, extra=extra), place),
        torch.cat([corners[:, :2] + sizes / 2, sizes], dim=1),
        positive_iou=limits[0],
        negative_iou=limits[1],
        low_quality=low_quality,
    )
    assert found.dtype == torch.int64
    matches: list[list[int]] = found.tolist()
    return matches


# Whole and half pixels: overlaps are fractions of small numbers, so ties are exact and common, and
# float32 orders them as float64 does.
halves = st.integers(0, 24).map(lambda number: number / 2)
drawn_boxes = (
    st.tuples(halves, halves, halves, halves)
    .map(lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3])))
    .filter(lambda box: box[2] > box[0] and box[3] > box[1])
)
drawn_images = st.lists(drawn_boxes, max_size=5)
drawn_batches = st.lists(drawn_images, min_size=1, max_size=3).filter(any)
drawn_anchors = st.lists(drawn_boxes, min_size=2, max_size=14)


@settings(deadline=None, max_examples=120)
@given(
    drawn_batches,
    drawn_anchors,
    st.sampled_from(RULES),
    st.sampled_from([(0.5, 0.4), (0.5, 0.5), (0.75, 0.25)]),
)
def test_matcher_equals_the_plain_loop(
    images: list[list[Box]],
    anchors: list[Box],
    low_quality: LowQuality,
    limits: tuple[float, float],
) -> None:
    found = match(images, anchors, low_quality, limits=limits)
    for boxes, matches in zip(images, found, strict=True):
        if not boxes:
            assert matches == [UNMATCHED] * len(anchors)
            continue
        table = [[overlap(box, anchor) for anchor in anchors] for box in boxes]
        assert matches == match_slowly(
            table, positive=limits[0], negative=limits[1], low_quality=low_quality
        )


@settings(deadline=None, max_examples=60)
@given(drawn_batches, drawn_anchors, st.sampled_from(RULES), st.integers(0, 3))
def test_padded_and_looped_agree_whatever_the_padding(
    images: list[list[Box]], anchors: list[Box], low_quality: LowQuality, extra: int
) -> None:
    looped = match(images, anchors, low_quality)
    for place in ("cpu", "elsewhere"):
        assert match(images, anchors, low_quality, place=place, extra=extra) == looped


def test_elsewhere_nothing_is_done_image_by_image(monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = []

    def record(first: Tensor, second: Tensor) -> Tensor:
        shapes.append(first.shape)
        return intersection_over_union(first, second)

    monkeypatch.setattr(models.matching, "intersection_over_union", record)
    images = [[TEN], [TEN, TEN, TEN], []]
    found = [match(images, STRIPES, "forced", place=place) for place in ("cpu", "elsewhere")]
    assert found[0] == found[1]
    assert shapes[-1] == (3, 3, 4)
    assert {shape[0] for shape in shapes[:-1]} == {1, 3}


def random_target(seed: int) -> Target:
    """Boxes of 4 to 120 px; five, one, none and thirty of them."""
    generator = torch.Generator().manual_seed(seed)
    counts = (5, 1, 0, 30)
    boxes_xyxy = torch.zeros(len(counts), 30, 4)
    labels = torch.full((len(counts), 30), -1)
    for place, count in enumerate(counts):
        corner = torch.rand(count, 2, generator=generator) * torch.tensor([200.0, 140.0])
        sides = 4 + torch.rand(count, 2, generator=generator) ** 2 * 116
        boxes_xyxy[place, :count] = torch.cat([corner, corner + sides], dim=1)
        labels[place, :count] = 0
    return Target(boxes_xyxy, labels)


@both_places
@pytest.mark.parametrize("low_quality", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_real_anchors_are_matched_as_by_the_loop(
    place: str, low_quality: LowQuality, seed: int
) -> None:
    anchors_cxcywh = torch.cat(build_retinanet_anchors(IMAGE_HW, build_retinanet_shapes()))
    target = random_target(seed)
    found = match_with_ignored(
        move(target, place),
        anchors_cxcywh,
        positive_iou=0.5,
        negative_iou=0.4,
        low_quality=low_quality,
    )
    # Ties are those of float32, so its overlaps are what the loop sees; test_boxes holds them.
    overlaps = intersection_over_union(target.boxes_xyxy, cxcywh_to_xyxy(anchors_cxcywh))
    for row, count in enumerate((5, 1, 0, 30)):
        if count == 0:
            assert (found[row] == UNMATCHED).all()
            continue
        wanted = match_slowly(
            overlaps[row, :count].tolist(), positive=0.5, negative=0.4, low_quality=low_quality
        )
        assert found[row].tolist() == wanted
        assert max(wanted) >= 0 and UNMATCHED in wanted
    assert (found == IGNORED).any()


# A box of 10 x 10 and anchors that share 0.5, 0.4 and less of it; the first anchor is its best.
TEN = (0.0, 0.0, 10.0, 10.0)
STRIPES = [TEN, (0.0, 0.0, 5.0, 10.0), (0.0, 0.0, 4.9, 10.0), (0.0, 0.0, 4.0, 10.0),
           (0.0, 0.0, 3.9, 10.0), (20.0, 0.0, 30.0, 10.0)]  # fmt: skip


@both_places
@pytest.mark.parametrize("low_quality", RULES)
def test_the_ignored_zone_begins_with_its_lower_edge(place: str, low_quality: LowQuality) -> None:
    found = match([[TEN]], STRIPES, low_quality, place=place)
    assert found == [[0, 0, IGNORED, IGNORED, UNMATCHED, UNMATCHED]]


@both_places
@pytest.mark.parametrize("low_quality", RULES)
def test_all_anchors_that_tie_at_the_best_overlap_learn_a_small_box(
    place: str, low_quality: LowQuality
) -> None:
    anchors = [(0.0, 0.0, 8.0, 8.0), (2.0, 2.0, 10.0, 10.0), (0.0, 0.0, 9.0, 9.0)]
    assert match([[(4.0, 4.0, 6.0, 6.0)]], anchors, low_quality, place=place) == [[0, 0, UNMATCHED]]


@both_places
@pytest.mark.parametrize(("low_quality", "learnt"), [("forced", 1), ("own_best", 0)])
def test_what_a_shared_best_anchor_learns(place: str, low_quality: LowQuality, learnt: int) -> None:
    # The anchor is the first box, and the best that the second, inside of it, has.
    boxes = [(0.0, 0.0, 8.0, 8.0), (2.0, 2.0, 4.0, 4.0)]
    assert match([boxes], [(0.0, 0.0, 8.0, 8.0)], low_quality, place=place) == [[learnt]]


@both_places
def test_the_later_of_two_boxes_takes_an_anchor_that_both_want(place: str) -> None:
    inside = [(1.0, 1.0, 3.0, 3.0), (5.0, 5.0, 7.0, 7.0)]
    anchors = [(0.0, 0.0, 8.0, 8.0)]
    assert match([inside], anchors, "forced", place=place) == [[1]]
    assert match([inside[::-1]], anchors, "forced", place=place) == [[1]]
    assert match([inside], anchors, "own_best", place=place) == [[0]]  # equal overlaps: the first


@both_places
def test_equal_overlaps_above_the_threshold_go_to_the_first_box(place: str) -> None:
    # Each box shares three quarters of the first anchor, and has a better one of its own.
    boxes = [(0.0, 0.0, 6.0, 8.0), (2.0, 0.0, 8.0, 8.0)]
    anchors = [(0.0, 0.0, 8.0, 8.0), *boxes]
    for low_quality in RULES:
        assert match([boxes], anchors, low_quality, place=place) == [[0, 0, 1]]


@both_places
@pytest.mark.parametrize("low_quality", RULES)
def test_a_box_that_overlaps_nothing_takes_nothing(place: str, low_quality: LowQuality) -> None:
    found = match([[(50.0, 50.0, 60.0, 60.0), TEN]], STRIPES, low_quality, place=place)
    assert found == [[1, 1, IGNORED, IGNORED, UNMATCHED, UNMATCHED]]


@both_places
@pytest.mark.parametrize("low_quality", RULES)
def test_images_without_boxes_are_background(place: str, low_quality: LowQuality) -> None:
    assert match([[], [TEN]], STRIPES, low_quality, place=place)[0] == [UNMATCHED] * len(STRIPES)
    assert match([[]], STRIPES, low_quality, place=place, extra=1) == [[UNMATCHED] * len(STRIPES)]
