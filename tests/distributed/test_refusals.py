"""Ranks that must not train together, or cannot, and how each of them is told."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.launch.ports import await_listener
from tests.ports import find_port

# Runs that end as soon as they have trained at all.
SHORT = {"schedule__epochs": "0.5", "schedule__decay_epochs": "0.5", "schedule__warmup_epochs": "0"}


@pytest.fixture
def words(flags: Any, tmp_path: Path) -> Callable[..., list[str]]:
    def build(**changes: Any) -> list[str]:
        output = ["--output", str(tmp_path / "runs")]
        return ["train", *flags(**{**SHORT, "devices": "2", **changes}), "--no-eval", *output]

    return build


def by_hand(rank: int, port: int, *, num_ranks: int = 2, run_id: str = "") -> dict[str, str]:
    """The variables of a rank whose place is known to whoever starts it."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_RUN_ID": run_id,
    }


def test_a_recipe_that_was_edited_between_two_starts_is_refused_on_both(
    words: Any, start: Any, tmp_path: Path
) -> None:
    port = find_port()
    ranks = [start(*words(seed=str(rank)), **by_hand(rank, port)) for rank in range(2)]
    done = [rank.finish() for rank in ranks]
    assert [one.code for one in done] == [2, 2]
    told = "suite: the ranks do not train the same: seed is 0 on rank 0 but 1 on rank 1; "
    for one in done:
        assert one.stderr.startswith(told), one.stderr
    assert done[0].stderr == done[1].stderr
    assert not (tmp_path / "runs").exists()


def test_two_runs_on_one_port_are_told_apart(words: Any, start: Any) -> None:
    """The run that has the port goes on with its own rank, though the other's came first."""
    port = find_port()
    ours = [start(*words(), **by_hand(0, port, run_id="ours"))]
    assert await_listener("127.0.0.1", port, timeout_s=120)
    theirs = [start(*words(), **by_hand(rank, port, run_id="theirs")) for rank in range(2)]
    refused = [one.finish() for one in theirs]
    ours.append(start(*words(), **by_hand(1, port, run_id="ours")))
    done = [one.finish() for one in ours]
    assert [one.code for one in refused] == [4, 4], refused
    assert f"port {port} is taken by process {ours[0].pid} (" in refused[0].stderr
    told = f"at 127.0.0.1:{port} is run 'ours' (process {ours[0].pid} on "
    assert told in refused[1].stderr
    assert "and rank 1 is of run 'theirs': two runs use one port" in refused[1].stderr
    assert [one.code for one in done] == [0, 0], done


def test_a_main_rank_that_is_not_there_is_an_environment(words: Any, start: Any) -> None:
    port = find_port()
    done = start(*words(launch__join_timeout_s="1"), **by_hand(1, port)).finish()
    assert done.code == 4
    assert done.stderr.startswith(
        f"suite: rank 1 cannot reach the main rank at 127.0.0.1:{port} within 1 s; is it running"
    )
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.slow
def test_an_agent_whose_first_machine_is_not_there_is_told_in_time(words: Any, start: Any) -> None:
    port = find_port()
    machines = ["--nnodes", "2", "--node-rank", "1", "--master", f"127.0.0.1:{port}"]
    arguments = words(launch__join_timeout_s="1")[1:]
    done = start("launch", *machines, *arguments).finish()
    assert done.code == 4
    told = f"suite: machine 1 cannot reach the main rank at 127.0.0.1:{port} within 1 s; is it "
    assert told in done.stderr


@pytest.mark.slow
def test_more_processes_than_devices_are_refused_with_both_numbers(words: Any, start: Any) -> None:
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    done = start(*words(), by=(*torchrun, "--nproc-per-node", "3", "-m", "suite")).finish()
    assert done.code != 0
    assert "torch elastic started 3 processes for a recipe of 2 devices; give --devices 3, or " in (
        done.stderr
    )


def test_a_cpu_has_no_numbers(words: Any, run_suite: Any) -> None:
    done = run_suite(*words(), "--device-ids", "0,1")
    assert done.code == 2
    assert "--device-ids 0,1: device cpu has no numbers" in done.stderr


def test_a_lost_rank_of_another_machine_ends_both(words: Any, start: Any, tmp_path: Path) -> None:
    machines = ["--nnodes", "2", "--master", f"127.0.0.1:{find_port()}", "--run-id", "x"]
    arguments = words(schedule__epochs="1", schedule__decay_epochs="1")[1:]
    nodes = [
        start(
            "launch",
            *machines,
            "--node-rank",
            str(node),
            *arguments,
            SUITE_FAULT="kill9@rank1:step3",
        )
        for node in range(2)
    ]
    first, second = (node.finish() for node in nodes)
    assert (first.code, second.code) == (6, 6), (first, second)
    assert re.search(r"^suite: rank 0 on \S+, after step 2: rank 0 lost", first.stderr, re.M)
    killed = r"^suite: rank 1 on \S+ was killed by SIGKILL after step 2"
    assert re.search(killed, second.stderr, re.M)
    assert f"logs of the ranks: {tmp_path / 'runs' / 'launches'}" in second.stderr
