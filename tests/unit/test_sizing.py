"""How large images become, and how far they are padded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.recipe_sections import Resize
from suite.sizing import build_sizing, is_lying

PUBLISHED = build_sizing(Resize(mode="pad", short_side=800, long_side=1333))
FIXED = build_sizing(Resize(mode="fixed", short_side=800, long_side=1333))
IMAGES = st.tuples(st.integers(1, 5000), st.integers(1, 5000))
RULES = st.tuples(st.integers(1, 1500), st.integers(0, 1500)).map(
    lambda sides: (sides[0], sides[0] + sides[1])
)


@pytest.mark.parametrize(
    ("image_hw", "resized_hw", "canvas_hw"),
    [
        ((480, 640), (800, 1067), (800, 1088)),
        ((640, 480), (1067, 800), (1088, 800)),
        ((427, 640), (800, 1199), (800, 1216)),
        ((375, 500), (800, 1067), (800, 1088)),
        ((333, 500), (800, 1201), (800, 1216)),
        ((612, 612), (800, 800), (800, 800)),
        ((240, 640), (500, 1333), (512, 1344)),
        ((1600, 2400), (800, 1200), (800, 1216)),
        ((2, 3000), (1, 1333), (32, 1344)),
        ((3000, 1), (1333, 1), (1344, 32)),
    ],
)
def test_images_keep_their_shape_and_are_as_large_as_both_sides_allow(
    image_hw: tuple[int, int], resized_hw: tuple[int, int], canvas_hw: tuple[int, int]
) -> None:
    assert PUBLISHED.resized_hw(image_hw) == resized_hw
    assert PUBLISHED.canvas_hw(image_hw) == canvas_hw
    assert FIXED.resized_hw(image_hw) == resized_hw


def test_a_half_is_rounded_up() -> None:
    sizing = build_sizing(Resize(mode="pad", short_side=50, long_side=1000))
    assert sizing.resized_hw((100, 201)) == (50, 101)
    assert sizing.resized_hw((100, 205)) == (50, 103)


def test_fixed_canvases_are_two_and_square_images_are_not_lying() -> None:
    assert FIXED.canvas_hw((480, 640)) == FIXED.canvas_hw((10, 5000)) == (800, 1344)
    assert FIXED.canvas_hw((640, 480)) == FIXED.canvas_hw((600, 600)) == (1344, 800)
    assert (is_lying((480, 640)), is_lying((640, 480)), is_lying((600, 600))) == (
        True,
        False,
        False,
    )


def test_stretching_knows_one_size() -> None:
    sizing = build_sizing(Resize())
    for image_hw in ((480, 640), (1, 1), (5000, 30)):
        assert sizing.resized_hw(image_hw) == sizing.canvas_hw(image_hw) == (300, 300)
    assert (sizing.keep_ratio, sizing.nominal_hw) == (False, (300, 300))


def test_a_graph_of_one_size_takes_lying_and_standing_images() -> None:
    resize = Resize(mode="pad", short_side=800, long_side=1333)
    sizing = build_sizing(resize, canvas_hw=[800, 1344])
    assert sizing.resized_hw((480, 640)) == (800, 1067)
    assert sizing.resized_hw((640, 480)) == (800, 600)
    assert sizing.canvas_hw((480, 640)) == sizing.canvas_hw((640, 480)) == (800, 1344)
    small = build_sizing(resize, canvas_hw=(320, 320))
    assert small.resized_hw((480, 640)) == (240, 320)
    large = build_sizing(resize, canvas_hw=(1600, 1600))
    assert large.resized_hw((480, 640)) == (800, 1067)


def test_tables_state_the_sides_of_a_lying_picture() -> None:
    resize = Resize(mode="pad", short_side=800, long_side=1333)
    assert PUBLISHED.nominal_hw == FIXED.nominal_hw == (800, 1333)
    assert build_sizing(resize, canvas_hw=(800, 1344)).nominal_hw == (800, 1344)
    assert build_sizing(resize, canvas_hw=(1344, 800)).nominal_hw == (1344, 800)
    assert build_sizing(resize, canvas_hw=(320, 320)).nominal_hw == (320, 320)
    assert build_sizing(Resize(), canvas_hw=(300, 300)).nominal_hw == (300, 300)


@given(IMAGES, RULES, st.sampled_from(["pad", "fixed"]), st.booleans())
def test_a_picture_lies_within_its_canvas(
    image_hw: tuple[int, int], sides: tuple[int, int], mode: str, one_canvas: bool
) -> None:
    resize = Resize(mode=mode, short_side=sides[0], long_side=sides[1])  # type: ignore[arg-type]
    sizing = build_sizing(resize, canvas_hw=(96, 160) if one_canvas else ())
    picture, canvas = sizing.resized_hw(image_hw), sizing.canvas_hw(image_hw)
    assert all(1 <= side <= room for side, room in zip(picture, canvas, strict=True))
    assert canvas[0] % 32 == canvas[1] % 32 == 0
    assert min(picture) <= sizing.short_side
    assert max(picture) <= sizing.long_side
    # One scale for both sides, within the rounding to whole pixels.
    scale = max(picture) / max(image_hw)
    assert abs(min(picture) - max(1, min(image_hw) * scale)) <= 1 + min(image_hw) / max(image_hw)
    if not one_canvas:
        assert min(picture) == sides[0] or max(picture) == sides[1]
