"""The verb launch: it prints what it would do, and starts this machine's part of it."""

from __future__ import annotations

import json
import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from suite.cli.ranks import Placement
from suite.launch.worker import Node

Run = Callable[..., Any]

LAUNCHERS = ("SLURM_", "PET_", "OMPI_", "PMI", "TORCHELASTIC", "HCCL", "ASCEND_RT", "RANK_TABLE")


class Started(NamedTuple):
    """What a machine was asked to start."""

    node: Node
    placement: Placement
    arguments: list[str]
    environment: dict[str, str]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(LAUNCHERS) or name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            monkeypatch.delenv(name)


@pytest.fixture(autouse=True)
def _no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, *_: object) -> list[Any]:
        raise socket.gaierror(f"{name} is not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Started]:
    """What is started from now on, in place of starting it."""
    calls: list[Started] = []

    def start_ranks(
        node: Node, placement: Placement, arguments: list[str], *, environment: dict[str, str]
    ) -> None:
        calls.append(Started(node, placement, arguments, environment))

    monkeypatch.setattr("suite.cli.launch_verbs.start_ranks", start_ranks)
    return calls


RECIPE = ("demo", "--device", "cpu", "--devices", "4", "--set", "seed=7")


def test_dry_run(run_suite: Run, started: list[Started]) -> None:
    done = run_suite("launch", "--hosts", "h1,h2", "--dry-run", *RECIPE)
    assert done.code == 0 and not started
    assert "machines  2, each with 2 processes" in done.stdout
    assert "ranks   2-3" in done.stdout
    assert "global batch" in done.stderr  # what --devices changes is said here


def test_printed_commands_are_the_plan(run_suite: Run, started: list[Started]) -> None:
    """Run what is printed for each machine: all belong to one job and have the same ranks."""
    plan = run_suite("launch", "--hosts", "h1,h2", "--format", "commands", *RECIPE)
    commands = [line for line in plan.stdout.splitlines() if not line.startswith("#")]
    for command in commands:
        program, *arguments = shlex.split(command)
        assert program == "suite"
        assert run_suite(*arguments, "--restarts", "2").code == 0
    assert [call.node.node_rank for call in started] == [0, 1]
    assert {(call.node.master_addr, call.node.master_port) for call in started} == {("h1", 29500)}
    assert len({call.node.run_id for call in started}) == 1
    for call in started:
        assert call.arguments == ["train", *RECIPE, "--restarts", "2"]
        assert call.placement.num_devices == 4 and call.placement.restarts == 2


def test_format_starts_nothing(run_suite: Run, started: list[Started]) -> None:
    for form in ("commands", "slurm"):
        assert run_suite("launch", "--hosts", "h1,h2", "--format", form, *RECIPE).code == 0
    done = run_suite("launch", "--nnodes", "2", "--format", "kubernetes", "--image", "i", *RECIPE)
    assert done.code == 0 and "kind: TrainJob" in done.stdout
    assert not started


def test_one_machine(run_suite: Run, started: list[Started]) -> None:
    assert run_suite("launch", *RECIPE).code == 0
    assert started[0].node.num_nodes == 1
    assert started[0].node.master_port == 0
    assert started[0].environment == {}


def test_says_what_to_start_elsewhere(run_suite: Run, started: list[Started]) -> None:
    done = run_suite("launch", "--nnodes", "2", "--node-rank", "1", "--master", "h1", *RECIPE)
    assert done.code == 0 and len(started) == 1
    lines = [line for line in done.stderr.splitlines() if line.startswith("on machine")]
    assert len(lines) == 1 and lines[0].startswith("on machine 0: suite launch --nnodes 2")


def test_rank_table(run_suite: Run, started: list[Started], tmp_path: Path) -> None:
    devices = [
        {"device_id": str(rank), "device_ip": f"192.168.1.{rank + 1}", "rank_id": str(rank)}
        for rank in range(4)
    ]
    server = {"server_id": "127.0.0.1", "device": devices}
    table = {"status": "completed", "version": "1.0", "server_count": "1", "server_list": [server]}
    (tmp_path / "hccl.json").write_text(json.dumps(table), encoding="utf-8")
    arguments = ["--devices", "4", "--device", "npu", "--output", str(tmp_path)]
    done = run_suite("launch", "--rank-table", tmp_path / "hccl.json", "demo", *arguments)
    assert done.code == 0, done.stderr
    environment = started[0].environment
    assert environment["HCCL_CONNECT_TIMEOUT"] == "300"
    written = Path(environment["RANK_TABLE_FILE"])
    assert written.parent == tmp_path / "launches"
    assert json.loads(written.read_text(encoding="utf-8")) == table


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--nnodes", "2", *RECIPE], "which of the 2 machines is this"),
        (["--nnodes", "2", "--node-rank", "0", *RECIPE], "is the first"),
        (["--nnodes", "3", "--dry-run", *RECIPE], "cannot share 4 devices"),
        (["--nnodes", "0", *RECIPE], "--nnodes"),
        (["--hosts", "h1.invalid,h2.invalid", *RECIPE], "none of --hosts"),
        (["--format", "kubernetes", *RECIPE], "--image"),
        (["--format", "plan", *RECIPE], "'plan' is not one of"),
        (["--image", "i", *RECIPE], "--image i: only --format kubernetes"),
        (["--format", "slurm", "--image", "i", *RECIPE], "--image i: only --format kubernetes"),
        *[
            (["--nnodes", "2", "--format", *form, flag, value, *RECIPE], f"{flag} {value}: with ")
            for form in (["slurm"], ["kubernetes", "--image", "i"])
            for flag, value in (
                ("--run-id", "r1"),
                ("--master", "h1:1"),
                ("--local-addr", "10.0.0.1"),
                ("--node-rank", "0"),
            )
        ],
        (["--set", "seed=7", "demo"], "No such option '--set'"),
        # Flags of training are read here, before anything starts.
        (["demo", "--devics", "2"], "--devics"),
        (["demo", "--set", "sed=7"], "sed"),
        (["demo", "--devices", "0"], "devices"),
        (["dmeo"], "dmeo"),
        ([], "RECIPE"),
    ],
)
def test_wrong_flags(
    run_suite: Run, started: list[Started], arguments: list[str], words: str
) -> None:
    done = run_suite("launch", *arguments)
    assert done.code == 2 and words in done.stderr and not started


def test_a_rank_starts_no_ranks(
    run_suite: Run, started: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = {"RANK": "3", "LOCAL_RANK": "3", "WORLD_SIZE": "4"}
    environ |= {"MASTER_ADDR": "h1", "MASTER_PORT": "1", "TORCHELASTIC_RUN_ID": "7"}
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    done = run_suite("launch", *RECIPE)
    assert done.code == 2 and not started
    assert "torch elastic has started this process as rank 3 of 4" in done.stderr


def test_flags_settle_what_the_environment_leaves_open(
    run_suite: Run, started: list[Started], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "4")
    done = run_suite("launch", "--nnodes", "4", "--node-rank", "1", "--master", "h1", *RECIPE)
    assert done.code == 0 and started[0].node.node_rank == 1


def test_help_of_training_is_within_reach(run_suite: Run) -> None:
    done = run_suite("launch", "demo", "--help")
    assert done.code == 0 and "--resume" in done.stdout


def test_printing_needs_no_torch() -> None:
    program = (
        "import sys; from suite.cli import main\n"
        "try: main(['launch', '--nnodes', '2', '--format', 'slurm', 'demo', '--devices', '2'])\n"
        "finally: print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "#SBATCH" in done.stdout, done.stderr
    assert done.stdout.endswith("False\n")
