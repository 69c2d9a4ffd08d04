"""Batches: which samples, in which order, on any number of workers and ranks; how loading ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from suite.data.loading import (
    Augmentation,
    Batch,
    EvaluationSet,
    Example,
    StepPositions,
    TrainingStream,
    collate,
    iterate_evaluation,
    iterate_training,
    prepare_for_evaluation,
    prepare_for_training,
    trainable_samples,
)
from suite.data.sample import Dataset, Sample
from suite.errors import InputError, SuiteError

PLAIN = Augmentation(crop="none", crop_factor=1.0, flip=0.0, jitter=False)
VARIED = Augmentation(crop="any_box", crop_factor=0.3, flip=0.5, jitter=True)
IMAGE_HW = (16, 24)
NUM_SAMPLES = 12


def build_sample(path: Path, image_id: int, *, crowd: tuple[bool, ...] = (False, False)) -> Sample:
    boxes = np.array([[2, 3, 30, 20], [10, 5, 38, 28]], np.float32)[: len(crowd)]
    labels = np.array([0, image_id % 3], np.int64)[: len(crowd)]
    return Sample(image_id, path, (30, 40), boxes, labels, np.array(crowd, np.bool_))


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> tuple[Sample, ...]:
    """Twelve photos of noise; ids are not positions."""
    folder = tmp_path_factory.mktemp("photos")
    made = []
    for index in range(NUM_SAMPLES):
        noise = np.random.default_rng(index).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{index}.png")
        made.append(build_sample(folder / f"{index}.png", 100 + index))
    return tuple(made)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == []


def build_stream(
    samples: tuple[Sample, ...], *, augmentation: Augmentation = VARIED, seed: int = 5
) -> TrainingStream:
    return TrainingStream(samples=samples, image_hw=IMAGE_HW, augmentation=augmentation, seed=seed)


def steps(count: int, *, batch: int, first: int = 0) -> StepPositions:
    return StepPositions(first_step=first, num_steps=count, global_batch=batch)


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.image_ids == second.image_ids
    for part in ("images", "target"):
        for name, tensor in vars(getattr(first, part)).items():
            assert torch.equal(tensor, getattr(getattr(second, part), name)), name


# The order of training


@given(st.integers(1, 9), st.integers(1, 8), st.integers(0, 5), st.integers(1, 6))
def test_ranks_share_every_position_exactly_once(
    num_ranks: int, rank_batch: int, first: int, count: int
) -> None:
    batch = num_ranks * rank_batch
    shares = [
        StepPositions(
            first_step=first,
            num_steps=first + count,
            global_batch=batch,
            rank=rank,
            num_ranks=num_ranks,
        )
        for rank in range(num_ranks)
    ]
    assert {len(share) for share in shares} == {count}
    for step, batches in enumerate(zip(*shares, strict=True), start=first):
        assert {len(positions) for positions in batches} == {rank_batch}
        together = sorted(position for positions in batches for position in positions)
        assert together == list(range(step * batch, (step + 1) * batch))


@pytest.mark.parametrize(("num_ranks", "workers"), [(1, 0), (1, 2), (2, 1), (3, 2), (8, 0)])
def test_every_sample_comes_once_an_epoch(
    samples: tuple[Sample, ...], num_ranks: int, workers: int
) -> None:
    # Batches of 24 over 10 samples: epochs end inside of batches.
    stream, seen = build_stream(samples[:10], augmentation=PLAIN), []
    ranks = [
        StepPositions(first_step=0, num_steps=5, global_batch=24, rank=rank, num_ranks=num_ranks)
        for rank in range(num_ranks)
    ]
    streams = [iterate_training(stream, positions, workers=workers) for positions in ranks]
    for batches in zip(*streams, strict=True):
        interleaved = zip(*(batch.image_ids for batch in batches), strict=True)
        seen += [image_id for row in interleaved for image_id in row]
    assert len(seen) == 120
    for epoch in range(12):
        assert sorted(seen[epoch * 10 : epoch * 10 + 10]) == list(range(100, 110))


def order(samples: tuple[Sample, ...], *, seed: int, epoch: int) -> list[int]:
    stream = build_stream(samples, augmentation=PLAIN, seed=seed)
    examples = [stream[epoch * NUM_SAMPLES + place] for place in range(NUM_SAMPLES)]
    return [example.image_id for example in examples if isinstance(example, Example)]


def test_the_order_depends_on_seed_and_epoch(samples: tuple[Sample, ...]) -> None:
    orders = [order(samples, seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(ids) for ids in orders}) == 9
    assert order(samples, seed=1, epoch=2) == orders[5]


def test_a_sample_varies_by_epoch_and_not_by_batch(samples: tuple[Sample, ...]) -> None:
    stream = build_stream(samples[:1])
    first, again, later = stream[0], stream[0], stream[1]
    assert isinstance(first, Example)
    assert isinstance(again, Example)
    assert isinstance(later, Example)
    assert np.array_equal(first.affine, again.affine)
    assert torch.equal(first.pixels, again.pixels)
    assert not np.array_equal(first.affine, later.affine)


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(samples: tuple[Sample, ...], workers: int) -> None:
    stream = build_stream(samples)
    alone = iterate_training(stream, steps(6, batch=5), workers=0)
    shared = iterate_training(stream, steps(6, batch=5), workers=workers)
    for first, second in zip(alone, shared, strict=True):
        assert_equal(first, second)


@pytest.mark.parametrize("first", [1, 4])
def test_a_stream_can_begin_at_any_step(samples: tuple[Sample, ...], first: int) -> None:
    stream = build_stream(samples)
    whole = list(iterate_training(stream, steps(6, batch=5), workers=0))
    rest = list(iterate_training(stream, steps(6, batch=5, first=first), workers=2))
    assert len(rest) == 6 - first
    for early, late in zip(whole[first:], rest, strict=True):
        assert_equal(early, late)


# Evaluation


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 12, 50])
def test_evaluation_takes_every_image_once_in_order(
    samples: tuple[Sample, ...], batch_size: int, workers: int
) -> None:
    evaluation_set = EvaluationSet(samples, IMAGE_HW)
    batches = list(iterate_evaluation(evaluation_set, batch_size=batch_size, workers=workers))
    ids = [image_id for batch in batches for image_id in batch.image_ids]
    assert ids == [sample.image_id for sample in samples]
    assert all(len(batch.images.pixels) == batch_size for batch in batches[:-1])
    assert all(batch.images.original_hw.tolist() == [[30, 40]] * len(batch.image_ids)
               for batch in batches)  # fmt: skip


def test_images_without_boxes_are_evaluated_too(samples: tuple[Sample, ...]) -> None:
    empty = build_sample(samples[0].path, 1, crowd=())
    (batch,) = iterate_evaluation(EvaluationSet((empty,), IMAGE_HW), batch_size=4, workers=0)
    assert batch.image_ids == (1,)
    assert batch.target.labels.tolist() == [[-1]]
    assert batch.target.boxes_xyxy.tolist() == [[[0, 0, 0, 0]]]


# Single samples


def test_boxes_go_with_the_resize(samples: tuple[Sample, ...]) -> None:
    example = prepare_for_evaluation(samples[0], (60, 20))
    assert example.pixels.shape == (3, 60, 20)
    assert example.boxes_xyxy.tolist() == [[1, 6, 15, 40], [5, 10, 19, 56]]
    assert (example.original_hw, example.image_id) == ((30, 40), 100)


def test_without_variation_training_sees_what_evaluation_sees(samples: tuple[Sample, ...]) -> None:
    rng = np.random.default_rng(0)
    judged = prepare_for_evaluation(samples[0], IMAGE_HW)
    trained = prepare_for_training(samples[0], IMAGE_HW, PLAIN, rng)
    assert_equal(collate([judged]), collate([trained]))


def test_a_flip_mirrors_pixels_and_boxes(samples: tuple[Sample, ...]) -> None:
    flip = Augmentation(crop="none", crop_factor=1.0, flip=1.0, jitter=False)
    straight = prepare_for_evaluation(samples[0], (30, 40))
    mirrored = prepare_for_training(samples[0], (30, 40), flip, np.random.default_rng(0))
    assert torch.equal(mirrored.pixels, straight.pixels.flip(2))
    assert mirrored.boxes_xyxy.tolist() == [[10, 3, 38, 20], [2, 5, 30, 28]]


def test_a_crop_shows_the_part_that_its_boxes_say(tmp_path: Path) -> None:
    image = np.zeros((60, 80, 3), np.uint8)
    image[20:50, 30:70] = 255
    Image.fromarray(image).save(tmp_path / "a.png")
    box = np.array([[30, 20, 70, 50]], np.float32)
    sample = Sample(
        1, tmp_path / "a.png", (60, 80), box, np.zeros(1, np.int64), np.zeros(1, np.bool_)
    )
    cropping = Augmentation(crop="all_boxes", crop_factor=1.0, flip=0.5, jitter=False)
    for seed in range(30):
        example = prepare_for_training(sample, (120, 160), cropping, np.random.default_rng(seed))
        x0, y0, x1, y1 = example.boxes_xyxy[0]
        inside = example.pixels[:, int(y0) + 4 : int(y1) - 4, int(x0) + 4 : int(x1) - 4]
        assert inside.numel()
        assert (inside == 255).all()
        assert abs(int((example.pixels[0] > 127).sum()) - (x1 - x0) * (y1 - y0)) < 500


def test_batches_are_padded_to_the_largest_count(samples: tuple[Sample, ...]) -> None:
    few = build_sample(samples[0].path, 1, crowd=(False,))
    none = build_sample(samples[0].path, 2, crowd=())
    batch = collate([prepare_for_evaluation(s, (30, 40)) for s in (few, samples[4], none)])
    assert batch.target.labels.tolist() == [[0, -1], [0, 2], [-1, -1]]
    assert batch.target.boxes_xyxy[:, 1].tolist() == [[0] * 4, [10, 5, 38, 28], [0] * 4]
    assert batch.images.pixels.dtype == torch.uint8
    assert batch.images.affine.shape == (3, 3, 4)


def test_crowd_boxes_are_targets_where_asked(samples: tuple[Sample, ...]) -> None:
    path = samples[0].path
    dataset = Dataset(
        samples=(
            build_sample(path, 1, crowd=(False, True)),
            build_sample(path, 2, crowd=(True, True)),
            build_sample(path, 3, crowd=()),
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


# How loading ends


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named(samples: tuple[Sample, ...], tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(samples[0].path.read_bytes()[:200])
    mixed = (*samples[:6], build_sample(broken, 7))
    with pytest.raises(InputError, match=r"broken\.png: cannot be decoded"):
        list(iterate_training(build_stream(mixed), steps(9, batch=2), workers=workers))
    evaluation = iterate_evaluation(EvaluationSet(mixed, IMAGE_HW), batch_size=4, workers=workers)
    assert next(evaluation).image_ids == (100, 101, 102, 103)
    with pytest.raises(InputError, match=r"broken\.png: cannot be decoded"):
        next(evaluation)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_closing_ends_the_workers(samples: tuple[Sample, ...], workers: int) -> None:
    batches = iterate_training(build_stream(samples), steps(10**6, batch=2), workers=workers)
    with pytest.raises(ZeroDivisionError), closing(batches):
        next(batches)
        assert len(multiprocessing.active_children()) == workers
        _ = 1 / 0
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_go_on_after_a_signal_to_the_group(
    samples: tuple[Sample, ...], number: signal.Signals
) -> None:
    batches = iterate_training(build_stream(samples), steps(20, batch=2), workers=2)
    # Signals come from before the workers' first instruction on, and all the time.
    command = [sys.executable, "-c", SEND_FOR_EVER, str(os.getpid()), str(int(number))]
    killer = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert killer.stdout is not None
    killer.stdout.readline()
    try:
        seen = list(batches)
    finally:
        killer.kill()
        killer.communicate()
    alone = iterate_training(build_stream(samples), steps(20, batch=2), workers=0)
    for first, second in zip(alone, seen, strict=True):
        assert_equal(first, second)


SEND_FOR_EVER = """
import os, sys
from pathlib import Path
parent, number = int(sys.argv[1]), int(sys.argv[2])
print("ready", flush=True)
while True:
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if int(child) != os.getpid():
            try:
                os.kill(int(child), number)
            except ProcessLookupError:
                pass
"""


def kill_a_worker() -> None:
    child = multiprocessing.active_children()[0]
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)


@pytest.mark.parametrize("pause", [0.2, 0.0])
def test_a_lost_worker_is_explained_at_the_next_batch(
    samples: tuple[Sample, ...], pause: float
) -> None:
    before = signal.getsignal(signal.SIGCHLD)
    batches = iterate_training(build_stream(samples), steps(10**6, batch=2), workers=2)
    next(batches)
    kill_a_worker()
    time.sleep(pause)  # where torch would raise: in the midst of other work
    with pytest.raises(SuiteError, match=r"a loader process failed.*--set data\.workers=0"):
        for _ in range(1000):
            next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before


@pytest.mark.slow
def test_a_worker_that_hangs_does_not_keep_the_run_from_ending(samples: tuple[Sample, ...]) -> None:
    batches = iterate_training(build_stream(samples), steps(10**6, batch=2), workers=2)
    next(batches)
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGSTOP)
    started = time.monotonic()
    batches.close()
    assert time.monotonic() - started < 60
    deadline = time.monotonic() + 10
    while multiprocessing.active_children() and time.monotonic() < deadline:
        time.sleep(0.1)
