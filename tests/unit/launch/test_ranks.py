"""What ranks do together: three real processes with gloo, started once; and one rank alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from suite.errors import RankLost, UsageError
from suite.launch.ranks import Ranks, join
from suite.launch.worker import Patience
from tests.once import build_once
from tests.ports import find_port

NUM_RANKS = 3
PROGRAM = Path(__file__).parent / "programs" / "ranks.py"

Seen = list[dict[str, Any]]


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """What each of the ranks saw."""

    def run(folder: Path) -> None:
        port = str(find_port())
        processes = [
            subprocess.Popen(
                [sys.executable, PROGRAM, str(rank), str(NUM_RANKS), port, folder],
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(NUM_RANKS)
        ]
        said = [process.communicate(timeout=120)[1] for process in processes]
        assert [process.returncode for process in processes] == [0] * NUM_RANKS, said

    folder = build_once(tmp_path_factory, "ranks", run)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(NUM_RANKS)]


def of_all(seen: Seen, key: str) -> Any:
    """Return what all ranks saw alike."""
    assert all(one[key] == seen[0][key] for one in seen), [one[key] for one in seen]
    return seen[0][key]


def test_plain_values_are_gathered_by_rank(seen: Seen) -> None:
    assert of_all(seen, "gathered") == [
        [0, 1, 2],
        [None, None, None],
        [{"name": "猫" * rank, "list": list(range(rank * 1000))} for rank in range(3)],
        [[0.1 + rank, 1e-300] for rank in range(3)],
        ["", "", ""],
    ]


def test_a_flag_of_one_is_seen_by_all_at_the_next_call(seen: Seen) -> None:
    assert of_all(seen, "raised_before") == [False, False, False, True, False]


def test_a_tensor_becomes_the_mean(seen: Seen) -> None:
    assert of_all(seen, "average") == [1.0, 5.0]


def test_only_the_main_rank_builds_what_is_shared(seen: Seen) -> None:
    assert [one["shared"] for one in seen] == [[{"of rank": 0}, rank == 0] for rank in range(3)]


def test_what_the_main_rank_builds_may_take_longer_than_a_step(seen: Seen) -> None:
    assert of_all(seen, "shared_slowly") is None


def test_facts_that_differ_are_named_on_all_ranks(seen: Seen) -> None:
    assert of_all(seen, "equal") is None
    assert "data is y on ranks 0, 2 but x on rank 1;" in of_all(seen, "unequal")


def test_a_text_is_left_for_who_waits_for_it(seen: Seen) -> None:
    assert of_all(seen, "store") == [None, "runs/demo-1", "runs/demo-1"]


def test_gradients_are_the_mean_and_buffers_the_main_ranks_when_shared(seen: Seen) -> None:
    modules = [one["module"] for one in seen]
    for key in ("weights", "gradient", "shared_mean"):
        assert modules[0][key] == modules[1][key] == modules[2][key]
    assert modules[1]["own_mean"] != modules[0]["own_mean"] == modules[0]["shared_mean"]
    gradients = [own_gradient(rank, modules[0]["weights"]) for rank in range(NUM_RANKS)]
    torch.testing.assert_close(torch.tensor(modules[0]["gradient"]), torch.stack(gradients).mean(0))


def own_gradient(rank: int, weights: list[list[float]]) -> torch.Tensor:
    """The gradient of one rank, as the program computes it."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    first = module[0]
    assert isinstance(first, nn.Linear)
    assert first.weight.tolist() == weights
    module(torch.arange(6.0).view(2, 3) * (1 + rank)).sum().backward()
    assert first.weight.grad is not None
    return first.weight.grad


def test_a_rank_that_has_gone_is_missed_by_the_others(seen: Seen) -> None:
    for rank in (0, 1):
        assert seen[rank]["lost"].startswith(f"rank {rank} lost another rank after step 7 (")
    assert "lost" not in seen[2]


# Alone


def test_who_trains_alone_waits_for_nobody() -> None:
    cpu = torch.device("cpu")
    with join(None, backend="gloo", device=cpu, facts={}, patience=Patience()) as ranks:
        assert (ranks.rank, ranks.num_ranks, ranks.is_main) == (0, 1, True)
        assert ranks.gather({"a": 1}) == [{"a": 1}]
        assert ranks.share(lambda: 5) == 5
        assert [ranks.any_before(flag) for flag in (False, True)] == [False, True]
        assert ranks.average(torch.tensor(3.0)) == 3.0
        assert ranks.published("folder") is None
        ranks.publish("folder", "runs")
        ranks.require_equal({"data": "abc"})
        ranks.mark(1)
        module = nn.Linear(1, 1)
        assert ranks.parallel(module) is module
        ranks.share_buffers(module)
        ranks.wait_for_all()


# What counts as a lost rank


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (RuntimeError("[gloo/tcp/pair.cc:538] Read error: Connection reset by peer"), RankLost),
        (RuntimeError("Timed out waiting 5000ms for recv operation to complete"), RankLost),
        (torch.distributed.DistStoreError("wait timeout after 300000ms"), RankLost),
        (RuntimeError("shape '[2]' is invalid for input of size 3"), RuntimeError),
        (torch.OutOfMemoryError("tried to allocate 2 GiB"), torch.OutOfMemoryError),
        (UsageError("the socket of the timeout"), UsageError),
    ],
)
def test_what_peers_say_is_told_from_other_errors(
    monkeypatch: pytest.MonkeyPatch, raised: Exception, kind: type[Exception]
) -> None:
    from suite.launch import ranks as module
    from suite.launch.heartbeat import Heart

    naming: Callable[..., Any] = module._naming_lost_peers
    heart = Heart(None)
    heart.mark(4)
    with pytest.raises(kind) as caught, naming(Ranks(), heart):
        raise raised
    assert type(caught.value) is kind
    if kind is RankLost:
        assert str(caught.value).startswith("rank 0 lost another rank after step 4 (")
