"""Which samples, in which order: every image once an epoch, on any ranks, from any step."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.data.batching import (
    RankSteps,
    TrainingOrder,
    Turn,
    build_training_order,
    evaluation_batches,
    trainable_samples,
)
from suite.data.sample import Dataset, ImageFile, Sample
from suite.recipe_sections import Resize
from suite.sizing import Sizing, build_sizing, is_lying

STRETCH = build_sizing(Resize())
PAD = build_sizing(Resize(mode="pad", short_side=64, long_side=96))
FIXED = build_sizing(Resize(mode="fixed", short_side=64, long_side=96))

LYING, STANDING, SQUARE = (30, 40), (40, 30), (40, 40)
# Lying, standing and square images in any mixture.
SHAPES = st.lists(st.sampled_from([LYING, STANDING, SQUARE]), min_size=1, max_size=25)


def build_sample(
    image_hw: tuple[int, int], *, image_id: int = 0, crowd: tuple[bool, ...] = (False, False)
) -> Sample:
    boxes = np.array([[2, 3, 30, 20], [10, 5, 28, 28]], np.float32)[: len(crowd)]
    labels = np.array([0, 1], np.int64)[: len(crowd)]
    return Sample(
        image_id, ImageFile(Path("none.png")), image_hw, boxes, labels, np.array(crowd, np.bool_)
    )


def build_order(shapes: list[tuple[int, int]], *, batch: int, seed: int = 5) -> TrainingOrder:
    samples = [build_sample(shape) for shape in shapes]
    return build_training_order(samples, PAD, seed=seed, global_batch=batch)


# Training


@pytest.mark.parametrize("shapes", [[LYING] * 7, [LYING, STANDING, LYING, SQUARE, STANDING]])
def test_images_that_are_stretched_are_one_stream_whatever_their_shape(
    shapes: list[tuple[int, int]],
) -> None:
    samples = [build_sample(shape) for shape in shapes]
    order = build_training_order(samples, STRETCH, seed=3, global_batch=4)
    turns = [turn for step in range(10) for turn in order.turns(step)]
    expected = []
    for epoch in range(9):
        shuffled = np.random.default_rng([3, epoch, 0, 1]).permutation(len(shapes))
        expected += [Turn(epoch, int(index)) for index in shuffled]
    assert turns == expected[:40]


@given(SHAPES, st.integers(1, 9), st.integers(0, 5))
def test_lying_images_are_never_with_others(
    shapes: list[tuple[int, int]], batch: int, seed: int
) -> None:
    order = build_order(shapes, batch=batch, seed=seed)
    for step in range(30):
        turns = order.turns(step)
        assert len(turns) == batch
        assert len({is_lying(shapes[turn.sample_index]) for turn in turns}) == 1


@given(SHAPES, st.integers(1, 9), st.integers(0, 60))
def test_after_any_step_every_image_was_seen_as_often_as_its_share(
    shapes: list[tuple[int, int]], batch: int, num_steps: int
) -> None:
    order = build_order(shapes, batch=batch)
    turns = [turn for step in range(num_steps) for turn in order.turns(step)]
    assert len(set(turns)) == len(turns)  # an image is seen once in each epoch of its kind
    seen = Counter(turn.sample_index for turn in turns)
    for lying in (True, False):
        kind = [index for index, shape in enumerate(shapes) if is_lying(shape) == lying]
        if not kind:
            continue
        counts = [seen[index] for index in kind]
        assert max(counts) - min(counts) <= 1
        share = num_steps * batch * len(kind) / len(shapes)
        assert abs(sum(counts) - share) <= batch / 2


@given(SHAPES, st.integers(1, 9))
def test_epochs_of_a_kind_follow_one_another(shapes: list[tuple[int, int]], batch: int) -> None:
    order = build_order(shapes, batch=batch)
    turns = [turn for step in range(30) for turn in order.turns(step)]
    for lying in (True, False):
        epochs = [turn.epoch for turn in turns if is_lying(shapes[turn.sample_index]) == lying]
        assert epochs == sorted(epochs)
        if epochs:
            assert sorted(set(epochs)) == list(range(epochs[-1] + 1))


@given(SHAPES, st.integers(1, 6), st.integers(1, 4), st.integers(0, 5), st.integers(1, 6))
def test_ranks_share_every_batch(
    shapes: list[tuple[int, int]], num_ranks: int, rank_batch: int, first: int, count: int
) -> None:
    order = build_order(shapes, batch=num_ranks * rank_batch)
    shares = [
        RankSteps(
            order=order, first_step=first, num_steps=first + count, rank=rank, num_ranks=num_ranks
        )
        for rank in range(num_ranks)
    ]
    assert {len(share) for share in shares} == {count}
    for step, batches in enumerate(zip(*shares, strict=True), start=first):
        assert {len(turns) for turns in batches} == {rank_batch}
        interleaved = [turn for row in zip(*batches, strict=True) for turn in row]
        assert interleaved == order.turns(step)


@given(SHAPES, st.integers(1, 9), st.integers(0, 20), st.integers(0, 20))
def test_steps_can_begin_and_end_anywhere(
    shapes: list[tuple[int, int]], batch: int, first: int, count: int
) -> None:
    order = build_order(shapes, batch=batch)
    whole = list(RankSteps(order=order, first_step=0, num_steps=50))
    part = RankSteps(order=order, first_step=first, num_steps=first + count)
    assert list(part) == whole[first : first + count]


def test_the_order_depends_on_seed_epoch_and_kind() -> None:
    orders = [build_order([LYING] * 12 + [SQUARE] * 12, batch=12, seed=seed) for seed in range(3)]
    batches = [order.turns(step) for order in orders for step in range(6)]
    assert len({tuple(turn.sample_index % 12 for turn in turns) for turns in batches}) == 18
    again = build_order([LYING] * 12 + [SQUARE] * 12, batch=12, seed=1)
    assert again.turns(4) == orders[1].turns(4)


def test_the_kinds_take_turns() -> None:
    order = build_order([LYING] * 6 + [STANDING] * 2, batch=2)
    kinds = ["L" if order.turns(step)[0].sample_index < 6 else "S" for step in range(16)]
    assert "".join(kinds) == "LLSLLLSL" * 2


# Evaluation


@given(SHAPES, st.integers(1, 9), st.sampled_from([STRETCH, PAD, FIXED]))
def test_an_evaluation_batch_has_one_canvas(
    shapes: list[tuple[int, int]], batch_size: int, sizing: Sizing
) -> None:
    samples = [build_sample(shape) for shape in shapes]
    batches = evaluation_batches(samples, sizing, batch_size=batch_size)
    assert sorted(index for batch in batches for index in batch) == list(range(len(shapes)))
    canvases = [{sizing.canvas_hw(shapes[index]) for index in batch} for batch in batches]
    assert all(len(canvas) == 1 for canvas in canvases)
    for batch, canvas, later in zip(batches, canvases, [*canvases[1:], None], strict=True):
        assert batch == sorted(batch)
        assert len(batch) == batch_size or canvas != later


def test_stretched_images_are_evaluated_in_order() -> None:
    samples = [build_sample(shape) for shape in (LYING, STANDING, SQUARE, LYING, SQUARE)]
    assert evaluation_batches(samples, STRETCH, batch_size=2) == [[0, 1], [2, 3], [4]]


def test_the_largest_canvas_comes_first() -> None:
    samples = [build_sample(shape) for shape in (SQUARE, (20, 80), LYING, SQUARE, LYING)]
    # 64 x 64; 32 x 96; 64 x 96.
    assert evaluation_batches(samples, PAD, batch_size=8) == [[2, 4], [0, 3], [1]]


# Which samples are trained


def test_crowd_boxes_are_targets_where_asked() -> None:
    dataset = Dataset(
        samples=(
            build_sample(LYING, image_id=1, crowd=(False, True)),
            build_sample(LYING, image_id=2, crowd=(True, True)),
            build_sample(LYING, image_id=3, crowd=()),
        ),
        category_ids=(1, 2, 3),
        class_names=("a", "b", "c"),
        digest="",
        coco={},
    )
    (single,) = trainable_samples(dataset, use_crowd=False)
    assert (single.image_id, single.boxes_xyxy.tolist()) == (1, [[2, 3, 30, 20]])
    assert (len(single.labels), len(single.crowd)) == (1, 1)
    both = trainable_samples(dataset, use_crowd=True)
    assert [(sample.image_id, len(sample.labels)) for sample in both] == [(1, 2), (2, 2)]
