"""What can be seen of a detection: its colour on its edges, its tag inside the image."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from suite.drawing import PALETTE, draw_detections, tile_images

NAMES = ("cat", "dog", "a class with a rather long name", *(f"class {n}" for n in range(20)))


def grey(height: int = 300, width: int = 400) -> NDArray[np.uint8]:
    return np.full((height, width, 3), 128, dtype=np.uint8)


def draw(image: NDArray[np.uint8], *boxes: list[float], label: int = 0) -> NDArray[np.uint8]:
    count = len(boxes)
    picture = draw_detections(
        image, np.array(boxes).reshape(-1, 4), np.full(count, 0.87), [label] * count, NAMES
    )
    return np.asarray(picture)


def changed_area(drawn: NDArray[np.uint8], image: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero((drawn != image).any(axis=2))
    return columns.min(), rows.min(), columns.max() + 1, rows.max() + 1


def test_no_detections_give_an_unchanged_copy() -> None:
    image = grey()
    picture = draw_detections(image, np.zeros((0, 4)), np.zeros(0), np.zeros(0), NAMES)
    assert picture.mode == "RGB"
    assert picture.size == (400, 300)
    np.testing.assert_array_equal(np.asarray(picture), image)


def test_box_edges_have_the_colour_of_the_class_and_the_inside_stays() -> None:
    image = grey()
    for label in (0, 1, 8):
        drawn = draw(image, [100, 100, 300, 250], label=label)
        for row, column in ((175, 100), (175, 299), (100, 250), (249, 200)):
            assert tuple(drawn[row, column]) == PALETTE[label % len(PALETTE)]
        np.testing.assert_array_equal(drawn[130:240, 110:290], image[130:240, 110:290])
    np.testing.assert_array_equal(image, grey())


def test_tag_lies_above_the_box_and_says_something() -> None:
    drawn = draw(grey(), [100, 100, 300, 250])
    tag = drawn[88:96, 102:140]
    assert (tag == PALETTE[0]).all(axis=2).any()
    assert (tag.sum(axis=2) < 90).any(), "dark letters on a bright colour"


@pytest.mark.parametrize("box", [[0, 0, 80, 60], [350, 0, 400, 300], [0, 290, 400, 300]])
def test_tag_of_a_box_at_the_border_is_whole(box: list[float]) -> None:
    whole = draw(grey(), [150, 150, 250, 250])
    letters = (whole[100:150].sum(axis=2) < 60).sum()
    at_border = draw(grey(), box)
    assert (at_border.sum(axis=2) < 60).sum() == pytest.approx(letters, rel=0.25)


def test_partly_outside_boxes_are_cut_off_and_invisible_ones_left_out() -> None:
    image = grey()
    drawn = draw(image, [-50, 150, 120, 9999])
    assert tuple(drawn[298, 60]) == PALETTE[0], "bottom edge along the border"
    assert tuple(drawn[200, 1]) == PALETTE[0], "left edge along the border"
    nothing: tuple[list[float], ...] = (
        [500, 10, 600, 20],
        [-9, -9, -1, -1],
        [50, 50, 50, 80],
        [80, 50, 60, 70],
    )
    np.testing.assert_array_equal(draw(image, *nothing), image)
    np.testing.assert_array_equal(draw(image, [np.nan] * 4), image)


def test_better_detection_lies_on_top_whatever_the_order() -> None:
    box = [100.0, 100.0, 300.0, 250.0]
    for scores, labels in (([0.9, 0.3], [0, 1]), ([0.3, 0.9], [1, 0])):
        drawn = np.asarray(draw_detections(grey(), [box, box], scores, labels, NAMES))
        assert tuple(drawn[200, 100]) == PALETTE[0]


def test_lines_and_letters_grow_with_the_image() -> None:
    thin = draw(grey(300, 400), [100, 100, 300, 250])
    thick = draw(grey(2100, 2800), [700, 700, 2100, 1750])

    def line(drawn: NDArray[np.uint8], row: int) -> int:
        return int((drawn[row, : drawn.shape[1] // 2] == PALETTE[0]).all(axis=1).sum())

    assert 2 <= line(thin, 200) <= 3
    assert 15 <= line(thick, 1400) <= 20
    assert changed_area(thin, grey(300, 400))[1] > 80
    assert changed_area(thick, grey(2100, 2800))[1] < 640


def test_long_names_shrink_to_fit_a_small_image() -> None:
    drawn = draw(grey(40, 60), [20, 20, 50, 38], label=2)
    assert drawn.shape == (40, 60, 3)
    assert tuple(drawn[30, 20]) == PALETTE[2]


def test_tensors_are_accepted() -> None:
    picture = draw_detections(
        grey(),
        torch.tensor([[100.0, 100, 300, 250]]),
        torch.tensor([0.87]),
        torch.tensor([0]),
        NAMES,
    )
    np.testing.assert_array_equal(np.asarray(picture), draw(grey(), [100, 100, 300, 250]))


coordinates = st.floats(-1e4, 1e4, allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 90),
    st.integers(1, 90),
    st.lists(st.tuples(*[coordinates] * 4, st.floats(0, 1), st.integers(0, 22)), max_size=6),
)
def test_any_detection_can_be_drawn(height: int, width: int, detections: list[Any]) -> None:
    table = np.array(detections).reshape(-1, 6)
    picture = draw_detections(
        grey(height, width), table[:, :4], table[:, 4], table[:, 5].astype(int), NAMES
    )
    assert picture.size == (width, height)


def test_tiles_fill_every_row_and_keep_order_and_shape() -> None:
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200), (90, 90, 0), (0, 90, 90)]
    sizes = [(640, 480), (480, 640), (300, 300), (640, 480), (640, 480)]
    images = [Image.new("RGB", size, colour) for size, colour in zip(sizes, colours, strict=True)]
    sheet = tile_images(images, 3, sheet_width=900)
    assert sheet.width == 900
    pixels = np.asarray(sheet)
    for colour, size in zip(colours, sizes, strict=True):
        rows, columns = np.nonzero((pixels == colour).all(axis=2))
        shape = (np.ptp(columns) + 1) / (np.ptp(rows) + 1)
        assert shape == pytest.approx(size[0] / size[1], rel=0.02)
    assert tuple(pixels[0, 0]) == colours[0]
    assert tuple(pixels[0, -1]) == colours[2]
    assert tuple(pixels[-1, 0]) == colours[3]
    assert tuple(pixels[-1, -1]) == (255, 255, 255)


def test_one_tile_is_the_image_at_the_width_of_the_sheet() -> None:
    assert tile_images([Image.new("RGB", (64, 48))], 1, sheet_width=640).size == (640, 480)
