"""Batches: the same on any number of workers and ranks, padded to one size; how loading ends."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from suite.data.batching import RankSteps, Turn, build_training_order
from suite.data.collating import Batch, collate
from suite.data.loading import (
    EvaluationSet,
    TrainingStream,
    iterate_evaluation,
    iterate_training,
)
from suite.data.preparing import Augmentation, Example, prepare_for_evaluation
from suite.data.sample import ImageFile, Sample
from suite.data.workers import Workers
from suite.errors import InputError, SuiteError
from suite.recipe_sections import Resize
from suite.sizing import Sizing, build_sizing

PLAIN = Augmentation(crop="none", crop_factor=1.0, flip=0.0, jitter=False)
VARIED = Augmentation(crop="any_box", crop_factor=0.3, flip=0.5, jitter=True)
STRETCH = build_sizing(Resize(short_side=24, long_side=24))
SAME = build_sizing(Resize(mode="pad", short_side=30, long_side=40))
PAD = build_sizing(Resize(mode="pad", short_side=60, long_side=100))
NUM_SAMPLES = 12


def build_sample(path: Path, image_id: int, *, crowd: tuple[bool, ...] = (False, False)) -> Sample:
    boxes = np.array([[2, 3, 30, 20], [10, 5, 38, 28]], np.float32)[: len(crowd)]
    labels = np.array([0, image_id % 3], np.int64)[: len(crowd)]
    return Sample(image_id, ImageFile(path), (30, 40), boxes, labels, np.array(crowd, np.bool_))


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
    samples: tuple[Sample, ...],
    *,
    augmentation: Augmentation = VARIED,
    seed: int = 5,
    sizing: Sizing = STRETCH,
) -> TrainingStream:
    return TrainingStream(samples=samples, sizing=sizing, augmentation=augmentation, seed=seed)


def steps(
    stream: TrainingStream,
    count: int,
    *,
    batch: int,
    first: int = 0,
    ranks: tuple[int, int] = (0, 1),
) -> RankSteps:
    """The first `count` steps of rank `ranks[0]` of `ranks[1]`."""
    order = build_training_order(
        stream.samples, stream.sizing, seed=stream.seed, global_batch=batch
    )
    rank, num_ranks = ranks
    return RankSteps(order=order, first_step=first, num_steps=count, rank=rank, num_ranks=num_ranks)


def assert_equal(first: Batch, second: Batch) -> None:
    assert first.image_ids == second.image_ids
    for part in ("images", "target"):
        for name, tensor in vars(getattr(first, part)).items():
            assert torch.equal(tensor, getattr(getattr(second, part), name)), name


# Training


@pytest.mark.parametrize(("num_ranks", "workers"), [(1, 0), (1, 2), (2, 1), (3, 2), (8, 0)])
def test_every_sample_comes_once_an_epoch(
    samples: tuple[Sample, ...], num_ranks: int, workers: int
) -> None:
    # Batches of 24 over 10 samples: epochs end inside of batches.
    stream, seen = build_stream(samples[:10], augmentation=PLAIN), []
    ranks = [steps(stream, 5, batch=24, ranks=(rank, num_ranks)) for rank in range(num_ranks)]
    streams = [iterate_training(stream, share, workers=Workers(num=workers)) for share in ranks]
    for batches in zip(*streams, strict=True):
        interleaved = zip(*(batch.image_ids for batch in batches), strict=True)
        seen += [image_id for row in interleaved for image_id in row]
    assert len(seen) == 120
    for epoch in range(12):
        assert sorted(seen[epoch * 10 : epoch * 10 + 10]) == list(range(100, 110))


def order(samples: tuple[Sample, ...], *, seed: int, epoch: int) -> list[int]:
    stream = build_stream(samples, augmentation=PLAIN, seed=seed)
    (batch,) = iterate_training(
        stream, steps(stream, epoch + 1, batch=NUM_SAMPLES, first=epoch), workers=Workers(num=0)
    )
    return list(batch.image_ids)


def test_the_order_depends_on_seed_and_epoch(samples: tuple[Sample, ...]) -> None:
    orders = [order(samples, seed=seed, epoch=epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(ids) for ids in orders}) == 9
    assert order(samples, seed=1, epoch=2) == orders[5]


def test_a_sample_varies_by_epoch_and_not_by_batch(samples: tuple[Sample, ...]) -> None:
    stream = build_stream(samples[:1])
    first, again, later = (stream.load(Turn(epoch, 0), lambda _: None) for epoch in (0, 0, 1))
    assert isinstance(first, Example)
    assert isinstance(again, Example)
    assert isinstance(later, Example)
    assert np.array_equal(first.affine, again.affine)
    assert torch.equal(first.pixels, again.pixels)
    assert not np.array_equal(first.affine, later.affine)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("sizing", [STRETCH, PAD])
def test_workers_change_nothing(samples: tuple[Sample, ...], sizing: Sizing, workers: int) -> None:
    varied = replace(VARIED, crop="none") if sizing.keep_ratio else VARIED
    stream = build_stream(samples, sizing=sizing, augmentation=varied)
    alone = iterate_training(stream, steps(stream, 6, batch=5), workers=Workers(num=0))
    shared = iterate_training(stream, steps(stream, 6, batch=5), workers=Workers(num=workers))
    for first, second in zip(alone, shared, strict=True):
        assert_equal(first, second)


@pytest.mark.parametrize("first", [1, 4])
def test_a_stream_can_begin_at_any_step(samples: tuple[Sample, ...], first: int) -> None:
    stream = build_stream(samples)
    whole = list(iterate_training(stream, steps(stream, 6, batch=5), workers=Workers(num=0)))
    rest = list(
        iterate_training(stream, steps(stream, 6, batch=5, first=first), workers=Workers(num=2))
    )
    assert len(rest) == 6 - first
    for early, late in zip(whole[first:], rest, strict=True):
        assert_equal(early, late)


# Evaluation


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("batch_size", [1, 5, 12, 50])
def test_evaluation_takes_every_image_once_in_order(
    samples: tuple[Sample, ...], batch_size: int, workers: int
) -> None:
    evaluation_set = EvaluationSet(samples, STRETCH)
    batches = list(
        iterate_evaluation(evaluation_set, batch_size=batch_size, workers=Workers(num=workers))
    )
    ids = [image_id for batch in batches for image_id in batch.image_ids]
    assert ids == [sample.image_id for sample in samples]
    assert all(len(batch.images.pixels) == batch_size for batch in batches[:-1])
    assert all(batch.images.original_hw.tolist() == [[30, 40]] * len(batch.image_ids)
               for batch in batches)  # fmt: skip


def test_images_without_boxes_are_evaluated_too(samples: tuple[Sample, ...]) -> None:
    empty = build_sample(samples[0].image.path, 1, crowd=())
    (batch,) = iterate_evaluation(
        EvaluationSet((empty,), STRETCH), batch_size=4, workers=Workers(num=0)
    )
    assert batch.image_ids == (1,)
    assert batch.target.labels.tolist() == [[-1] * 32]
    assert batch.target.boxes_xyxy.tolist() == [[[0, 0, 0, 0]] * 32]


# Putting together


def test_batches_are_padded_to_the_largest_count(samples: tuple[Sample, ...]) -> None:
    few = build_sample(samples[0].image.path, 1, crowd=(False,))
    none = build_sample(samples[0].image.path, 2, crowd=())
    batch = collate([prepare_for_evaluation(s, SAME) for s in (few, samples[4], none)])
    # To rows of 32: few shapes for devices that compile each.
    assert batch.target.labels.shape == (3, 32)
    assert batch.target.labels[:, :2].tolist() == [[0, -1], [0, 2], [-1, -1]]
    assert (batch.target.labels[:, 2:] == -1).all()
    assert batch.target.boxes_xyxy[:, 1].tolist() == [[0] * 4, [10, 5, 38, 28], [0] * 4]
    assert batch.images.pixels.dtype == torch.uint8
    assert batch.images.affine.shape == (3, 3, 4)


def test_pictures_lie_in_the_corner_of_the_largest_canvas(tmp_path: Path) -> None:
    made = []
    for number, image_hw in enumerate([(30, 40), (40, 30), (50, 50)]):
        noise = np.random.default_rng(number).integers(1, 256, (*image_hw, 3), np.uint8)
        Image.fromarray(noise).save(tmp_path / f"{number}.png")
        made.append(replace(build_sample(tmp_path / f"{number}.png", 7), image_hw=image_hw))
    examples = [prepare_for_evaluation(sample, PAD) for sample in made]
    images = collate(examples).images
    # 60 x 80 in 64 x 96, 80 x 60 in 96 x 64, 60 x 60 in 64 x 64.
    assert images.pixels.shape == (3, 3, 96, 96)
    assert images.original_hw.tolist() == [[30, 40], [40, 30], [50, 50]]
    assert images.resized_hw.tolist() == [[60, 80], [80, 60], [60, 60]]
    for canvas, example in zip(images.pixels, examples, strict=True):
        height, width = example.pixels.shape[1:]
        assert torch.equal(canvas[:, :height, :width], example.pixels)
        assert not canvas[:, height:].any()
        assert not canvas[:, :, width:].any()
    assert collate(examples[:1]).images.pixels.shape == (1, 3, 64, 96)


# How loading ends


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_image_is_named(samples: tuple[Sample, ...], tmp_path: Path, workers: int) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(samples[0].image.path.read_bytes()[:200])
    mixed = (*samples[:6], build_sample(broken, 7))
    stream = build_stream(mixed)
    with pytest.raises(InputError, match=r"broken\.png: cannot be decoded"):
        list(iterate_training(stream, steps(stream, 9, batch=2), workers=Workers(num=workers)))
    evaluation = iterate_evaluation(
        EvaluationSet(mixed, STRETCH), batch_size=4, workers=Workers(num=workers)
    )
    assert next(evaluation).image_ids == (100, 101, 102, 103)
    with pytest.raises(InputError, match=r"broken\.png: cannot be decoded"):
        next(evaluation)


def with_bad(samples: tuple[Sample, ...], folder: Path, *places: int) -> tuple[Sample, ...]:
    """Let the images of these samples be no images."""
    (folder / "bad.png").write_bytes(b"<html>404</html>")
    bad = ImageFile(folder / "bad.png")
    return tuple(
        replace(sample, image=bad) if place in places else sample
        for place, sample in enumerate(samples)
    )


def replacing(samples: tuple[Sample, ...], *, batch: int) -> TrainingStream:
    stream = build_stream(samples, augmentation=PLAIN)
    order = build_training_order(samples, STRETCH, seed=stream.seed, global_batch=batch)
    return replace(stream, replacing=order)


@pytest.mark.parametrize(("num_ranks", "workers"), [(1, 0), (2, 1), (3, 0), (8, 0), (1, 2)])
def test_bad_samples_are_replaced_and_the_same_on_any_number_of_ranks(
    samples: tuple[Sample, ...], tmp_path: Path, num_ranks: int, workers: int
) -> None:
    stream = replacing(with_bad(samples, tmp_path, 3, 4), batch=24)
    alone = list(iterate_training(stream, steps(stream, 3, batch=24), workers=Workers(num=0)))
    assert all(len(batch.image_ids) == 24 for batch in alone)
    assert not {103, 104} & {image_id for batch in alone for image_id in batch.image_ids}
    found = {bad.image_id for batch in alone for bad in batch.bad_samples}
    assert found == {103, 104}

    bad_of_ranks = set()
    for rank in range(num_ranks):
        share = steps(stream, 3, batch=24, ranks=(rank, num_ranks))
        batches = iterate_training(stream, share, workers=Workers(num=workers))
        for step, batch in enumerate(batches):
            assert batch.image_ids == alone[step].image_ids[rank::num_ranks]
            bad_of_ranks |= set(batch.bad_samples)
    assert {bad.image_id for bad in bad_of_ranks} == found
    assert all("bad.png: not an image" in bad.reason for bad in bad_of_ranks)


def test_where_every_sample_is_bad_replacing_ends(
    samples: tuple[Sample, ...], tmp_path: Path
) -> None:
    stream = replacing(with_bad(samples, tmp_path, *range(NUM_SAMPLES)), batch=4)
    with pytest.raises(InputError, match=r"bad\.png: not an image"):
        list(iterate_training(stream, steps(stream, 3, batch=4), workers=Workers(num=0)))


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_closing_ends_the_workers(samples: tuple[Sample, ...], workers: int) -> None:
    stream = build_stream(samples)
    batches = iterate_training(stream, steps(stream, 10**6, batch=2), workers=Workers(num=workers))
    with pytest.raises(ZeroDivisionError), closing(batches):
        next(batches)
        assert len(multiprocessing.active_children()) == workers
        _ = 1 / 0
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_go_on_after_a_signal_to_the_group(
    samples: tuple[Sample, ...], number: signal.Signals
) -> None:
    stream = build_stream(samples)
    batches = iterate_training(stream, steps(stream, 20, batch=2), workers=Workers(num=2))
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
    alone = iterate_training(stream, steps(stream, 20, batch=2), workers=Workers(num=0))
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
    stream = build_stream(samples)
    batches = iterate_training(stream, steps(stream, 10**6, batch=2), workers=Workers(num=2))
    next(batches)
    kill_a_worker()
    time.sleep(pause)  # where torch would raise: in the midst of other work
    with pytest.raises(SuiteError, match=r"a loader process failed.*--set data\.workers=0"):
        for _ in range(1000):
            next(batches)
    assert signal.getsignal(signal.SIGCHLD) == before


@pytest.mark.slow
def test_a_worker_that_hangs_does_not_keep_the_run_from_ending(samples: tuple[Sample, ...]) -> None:
    stream = build_stream(samples)
    batches = iterate_training(stream, steps(stream, 10**6, batch=2), workers=Workers(num=2))
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
