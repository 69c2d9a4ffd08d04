"""One of several ranks that do everything together that ranks do; writes what it saw as JSON.

Arguments: rank, number of ranks, port of the main rank, folder of the answers. At the end the last
rank goes without a word.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from suite.errors import RankLost, UsageError
from suite.launch.ranks import Ranks, join
from suite.launch.worker import LOOPBACK, Patience, Worker

STEP_S = 8


def observe(ranks: Ranks) -> dict[str, Any]:
    return {
        "gathered": [ranks.gather(value) for value in of_each_rank(ranks.rank)],
        "raised_before": [ranks.any_before(ranks.rank == 1 and call == 2) for call in range(5)],
        "average": ranks.average(torch.tensor([float(ranks.rank), 5.0])).tolist(),
        "shared": share(ranks),
        "shared_slowly": ranks.share(lambda: time.sleep(STEP_S + 1)),
        "equal": tell(lambda: ranks.require_equal({"data": "abc"})),
        "unequal": tell(lambda: ranks.require_equal({"data": "x" if ranks.rank == 1 else "y"})),
        "store": use_store(ranks),
        "module": train_together(ranks),
    }


def of_each_rank(rank: int) -> list[Any]:
    return [
        rank,
        None,
        {"name": "猫" * rank, "list": list(range(rank * 1000))},
        [0.1 + rank, 1e-300],
        "",
    ]


def share(ranks: Ranks) -> list[Any]:
    calls = []

    def build() -> dict[str, int]:
        calls.append(1)
        return {"of rank": ranks.rank}

    return [ranks.share(build), len(calls)]


def tell(act: Callable[[], None]) -> str | None:
    try:
        act()
    except UsageError as error:
        return str(error)
    return None


def use_store(ranks: Ranks) -> list[Any]:
    before = ranks.published("folder")
    ranks.wait_for_all()
    if ranks.is_main:
        ranks.publish("folder", "runs/demo-1")
    return [before, ranks.wait_for("folder"), ranks.published("folder")]


def train_together(ranks: Ranks) -> dict[str, Any]:
    torch.manual_seed(ranks.rank)  # the weights of the main rank are those of all
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
    network = ranks.parallel(module)
    weights = module[0].weight.detach().clone()
    images = torch.arange(6.0).view(2, 3) * (1 + ranks.rank)
    network(images).sum().backward()
    own_mean = module[1].running_mean.clone()
    ranks.share_buffers(module)
    return {
        "weights": weights.tolist(),
        "gradient": module[0].weight.grad.tolist(),
        "own_mean": own_mean.tolist(),
        "shared_mean": module[1].running_mean.tolist(),
    }


def lose_the_last(ranks: Ranks) -> None:
    ranks.mark(7)
    if ranks.rank == ranks.num_ranks - 1:
        os._exit(0)
    ranks.wait_for_all()


def main(rank: int, num_ranks: int, port: int, folder: Path) -> None:
    worker = Worker(
        rank=rank,
        num_ranks=num_ranks,
        local_rank=rank,
        master_addr=LOOPBACK,
        master_port=port,
        run_id="run-1",
        attempt=0,
        starter="test",
    )
    patience = Patience(join_s=60, step_s=STEP_S)
    seen: dict[str, Any] = {}
    try:
        of_run = {"device": torch.device("cpu"), "facts": {"recipe": "demo"}, "patience": patience}
        with join(worker, backend="gloo", **of_run) as ranks:
            seen |= observe(ranks)
            (folder / f"{rank}.json").write_text(json.dumps(seen))
            lose_the_last(ranks)
    except RankLost as error:
        seen["lost"] = str(error)
    (folder / f"{rank}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    rank, num_ranks, port = (int(word) for word in sys.argv[1:4])
    main(rank, num_ranks, port, Path(sys.argv[4]))
