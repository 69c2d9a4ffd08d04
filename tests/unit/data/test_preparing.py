"""Single images: pixels, boxes and sizes go together through crop, resize and flip."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from suite.data.images import read_image
from suite.data.preparing import (
    Augmentation,
    prepare_for_evaluation,
    prepare_for_training,
    prepare_image,
)
from suite.data.sample import ImageFile, Sample
from suite.data.transforms import average_colour, jitter_affine
from suite.recipe_sections import Resize
from suite.sizing import Sizing, build_sizing

PLAIN = Augmentation(crop="none", crop_factor=1.0, flip=0.0, jitter=False)
STRETCH = build_sizing(Resize(short_side=20, long_side=20))
PAD = build_sizing(Resize(mode="pad", short_side=60, long_side=100))


@pytest.fixture
def sample(tmp_path: Path) -> Sample:
    """Noise, 30 high and 40 wide, with two boxes."""
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "noise.png")
    boxes = np.array([[2, 3, 30, 20], [10, 5, 38, 28]], np.float32)
    labels = np.array([0, 2], np.int64)
    return Sample(
        100, ImageFile(tmp_path / "noise.png"), (30, 40), boxes, labels, np.zeros(2, np.bool_)
    )


def test_boxes_go_with_the_resize(sample: Sample) -> None:
    example = prepare_for_evaluation(sample, build_sizing(Resize(), canvas_hw=(60, 20)))
    assert example.pixels.shape == (3, 60, 20)
    assert example.boxes_xyxy.tolist() == [[1, 6, 15, 40], [5, 10, 19, 56]]
    assert (example.original_hw, example.image_id) == ((30, 40), 100)


def test_a_picture_keeps_its_shape_and_is_not_padded_yet(sample: Sample) -> None:
    example = prepare_for_evaluation(sample, PAD)
    assert example.pixels.shape == (3, 60, 80)
    assert example.canvas_hw == (64, 96)
    assert example.boxes_xyxy.tolist() == [[4, 6, 60, 40], [20, 10, 76, 56]]


def test_each_side_of_a_box_goes_with_its_own_rounded_scale(sample: Sample) -> None:
    sizing = build_sizing(Resize(mode="pad", short_side=25, long_side=100))
    example = prepare_for_evaluation(sample, sizing)
    assert example.pixels.shape == (3, 25, 33)
    np.testing.assert_allclose(example.boxes_xyxy[0], [2 * 33 / 40, 2.5, 30 * 33 / 40, 50 / 3])


def test_an_image_of_which_nothing_is_known_looks_the_same(sample: Sample) -> None:
    judged, bare = prepare_for_evaluation(sample, PAD), prepare_image(read_image(sample.image), PAD)
    assert torch.equal(bare.pixels, judged.pixels)
    assert (bare.original_hw, bare.canvas_hw) == (judged.original_hw, judged.canvas_hw)
    assert (bare.boxes_xyxy.shape, bare.labels.shape) == ((0, 4), (0,))


@pytest.mark.parametrize("sizing", [STRETCH, PAD])
def test_without_variation_training_sees_what_evaluation_sees(
    sample: Sample, sizing: Sizing
) -> None:
    judged = prepare_for_evaluation(sample, sizing)
    rng = np.random.default_rng(0)
    trained = prepare_for_training(sample, sizing, augmentation=PLAIN, rng=rng)
    for name, value in vars(judged).items():
        assert np.array_equal(value, vars(trained)[name]), name


@pytest.mark.parametrize("sizing", [STRETCH, PAD])
def test_a_flip_mirrors_pixels_and_boxes_within_the_picture(sample: Sample, sizing: Sizing) -> None:
    flip = Augmentation(crop="none", crop_factor=1.0, flip=1.0, jitter=False)
    straight = prepare_for_evaluation(sample, sizing)
    rng = np.random.default_rng(0)
    mirrored = prepare_for_training(sample, sizing, augmentation=flip, rng=rng)
    assert torch.equal(mirrored.pixels, straight.pixels.flip(2))
    x0, y0, x1, y1 = straight.boxes_xyxy.T
    width = straight.pixels.shape[2]
    assert np.array_equal(mirrored.boxes_xyxy, np.stack([width - x1, y0, width - x0, y1], axis=1))


def test_jitter_turns_about_the_pictures_own_colour(sample: Sample) -> None:
    varied = Augmentation(crop="none", crop_factor=1.0, flip=0.0, jitter=True)
    rng, again = np.random.default_rng(4), np.random.default_rng(4)
    example = prepare_for_training(sample, PAD, augmentation=varied, rng=rng)
    again.random()  # of the flip
    assert np.array_equal(example.affine, jitter_affine(again, average_colour(example.pixels)))


def test_a_crop_shows_the_part_that_its_boxes_say(tmp_path: Path) -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:50, 30:70] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    box = np.array([[30, 20, 70, 50]], np.float32)
    sample = Sample(
        1, tmp_path / "a.png", (60, 80), box, np.zeros(1, np.int64), np.zeros(1, np.bool_)
    )
    cropping = Augmentation(crop="all_boxes", crop_factor=1.0, flip=0.5, jitter=False)
    sizing = build_sizing(Resize(), canvas_hw=(120, 160))
    for seed in range(30):
        rng = np.random.default_rng(seed)
        example = prepare_for_training(sample, sizing, augmentation=cropping, rng=rng)
        x0, y0, x1, y1 = example.boxes_xyxy[0]
        inside = example.pixels[:, int(y0) + 4 : int(y1) - 4, int(x0) + 4 : int(x1) - 4]
        assert inside.numel()
        assert (inside == 255).all()
        assert abs(int((example.pixels[0] > 127).sum()) - (x1 - x0) * (y1 - y0)) < 500
        assert example.original_hw == (60, 80)
