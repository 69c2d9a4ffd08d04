"""What a run of up to 1,024 ranks is made of, with torch's process group that only pretends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore

from suite.data.batching import RankSteps, TrainingOrder
from suite.events import Events
from suite.launch.ranks import Ranks
from suite.launch.worker import Worker
from suite.placement import place_recipe
from suite.recipe import Recipe, load_recipe
from suite.schedule import learning_rate, peak_learning_rate, steps_per_epoch, total_steps

NUM_RANKS = 1024
# COCO 2017's training images with a box that is no crowd, and how many of them stand.
COCO_IMAGES, COCO_STANDING = 117_266, 30_000


@pytest.fixture(params=[0, 1023])
def ranks(request: pytest.FixtureRequest) -> Iterator[Ranks]:
    """The first and the last rank of 1,024."""
    rank: int = request.param
    dist.init_process_group("fake", store=FakeStore(), rank=rank, world_size=NUM_RANKS)
    worker = Worker(
        rank=rank,
        num_ranks=NUM_RANKS,
        local_rank=rank % 8,
        master_addr="node0",
        master_port=29500,
        run_id="run-1",
        attempt=0,
        starter="test",
    )
    yield Ranks(worker)
    dist.destroy_process_group()


def coco_order(*, global_batch: int) -> TrainingOrder:
    indices = np.random.default_rng(0).permutation(COCO_IMAGES)
    return TrainingOrder(
        lying=np.sort(indices[COCO_STANDING:]),
        standing=np.sort(indices[:COCO_STANDING]),
        seed=0,
        global_batch=global_batch,
    )


@pytest.mark.parametrize("num_ranks", [8, 64, 512, 1024])
def test_ranks_share_out_each_step_equally(num_ranks: int) -> None:
    """With unequal numbers of steps the last of some would wait for ever."""
    order = coco_order(global_batch=2 * num_ranks)
    step = 17
    shares = []
    for rank in range(num_ranks):
        steps = RankSteps(
            order=order, first_step=step, num_steps=step + 40, rank=rank, num_ranks=num_ranks
        )
        assert len(steps) == 40
        shares.append(next(iter(steps)))
    assert {len(share) for share in shares} == {2}
    assert sorted(turn for share in shares for turn in share) == sorted(order.turns(step))


@pytest.mark.parametrize("num_ranks", [8, 64, 512, 1024])
def test_all_ranks_together_see_every_image_once_an_epoch(num_ranks: int) -> None:
    order = coco_order(global_batch=4 * num_ranks)
    seen = np.zeros((3, COCO_IMAGES), dtype=np.int64)  # by epoch of the image's kind
    for step in range(COCO_IMAGES // order.global_batch + 3):
        turns = order.turns(step)
        assert len(turns) == order.global_batch
        np.add.at(seen, tuple(np.array(turns).T), 1)
    for kind in (order.lying, order.standing):
        assert seen[:, kind].max() == 1
        # Each kind ends its epoch within a few steps of the other.
        assert (seen[0, kind] == 0).sum() < 3 * order.global_batch
        assert seen[2, kind].max() == 0


def place(name: str, devices: int) -> Recipe:
    overrides, _ = place_recipe(load_recipe(name), device=None, devices=devices)
    return load_recipe(name, overrides)


@pytest.mark.parametrize("name", ["ssd_r34_8p", "retinanet_r50_fpn_8p"])
@pytest.mark.parametrize("num_ranks", [8, 64, 512, 1024])
def test_the_learning_rate_follows_the_global_batch(name: str, num_ranks: int) -> None:
    written, recipe = load_recipe(name), place(name, num_ranks)
    rank_batch = written.global_batch // 8
    assert recipe.global_batch == rank_batch * num_ranks
    schedule, of_run = recipe.schedule, {"global_batch": recipe.global_batch}
    peak = peak_learning_rate(schedule, **of_run)
    factor = num_ranks / 8
    assert peak == pytest.approx(
        peak_learning_rate(written.schedule, global_batch=written.global_batch) * factor
    )
    sized = {**of_run, "dataset_size": COCO_IMAGES}
    num_steps = total_steps(schedule, **sized)
    assert num_steps >= 1
    assert steps_per_epoch(schedule, **sized) * recipe.global_batch <= 120_000
    rates = [learning_rate(step, schedule, **sized) for step in range(min(num_steps, 2000))]
    assert all(0 <= rate <= peak * (1 + 1e-12) for rate in rates)


def test_only_the_main_rank_writes(
    ranks: Ranks, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Events(
        tmp_path, num_steps=4, first_step=0, global_batch=4096, log_every=2, ranks=ranks
    ) as events:
        for step in range(4):
            loss = torch.tensor(1024.0 * (step + 1))
            events.stepped({"box": loss}, lr=0.1, skipped=torch.tensor(0.0))
        events.say("done")
        state = events.state()
    if not ranks.is_main:
        assert not list(tmp_path.iterdir())
        return
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # The pretended sum leaves a rank's own value, of which the mean over 1,024 is a 1,024th.
    assert [line["loss"] for line in lines] == [1.5, 3.5]
    assert "done" in (tmp_path / "log.txt").read_text()
    assert state["steps"] == 0
    assert capsys.readouterr().err.count("done") == 1


def test_a_mean_is_over_all_ranks(ranks: Ranks) -> None:
    assert ranks.average(torch.tensor([2048.0])).tolist() == [2.0]


def test_gathering_costs_little_where_ranks_say_little(
    ranks: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The buffer is as wide as the longest answer; nothing else grows with the ranks."""
    sizes: list[int] = []

    def gather(output: torch.Tensor, value: torch.Tensor) -> None:
        output.view(NUM_RANKS, -1).copy_(value.expand(NUM_RANKS, -1))
        sizes.append(output.numel() * output.element_size())

    monkeypatch.setattr(dist, "all_gather_single", gather)
    start = time.perf_counter()
    found = ranks.gather({"id": "abc", "rank": ranks.rank})
    assert time.perf_counter() - start < 5
    assert found == [{"id": "abc", "rank": ranks.rank}] * NUM_RANKS
    assert sum(sizes) < NUM_RANKS * 100
