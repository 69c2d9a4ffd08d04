"""Running a verb on as many devices as asked for: in this process, or in ranks started for it."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from suite.errors import InputError, MissingEnvironment, UsageError
from suite.launch.worker import Patience

if TYPE_CHECKING:
    from suite.launch.worker import Node, Worker
    from suite.recipe import Recipe

RESTARTS = click.option(
    "--restarts",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="How often to go on from the last checkpoint when a process is lost.",
)


@dataclass(frozen=True, kw_only=True)
class Placement:
    """On what a verb runs.

    Attributes:
        num_devices: on all machines; one process each.
        data: a folder without which no process needs to be started, None where there is none.
        output: whose folder `launches` gets the logs of the processes.
    """

    device: Literal["auto", "cpu", "cuda", "npu"]
    num_devices: int
    output: Path
    data: Path | None = None
    restarts: int = 0
    patience: Patience = Patience()  # noqa: RUF009 - frozen, so it can be shared


def placement_of(recipe: Recipe, *, output: Path, restarts: int = 0) -> Placement:
    """Return what a recipe asks for."""
    return Placement(
        device=recipe.device,
        num_devices=recipe.devices,
        data=Path(recipe.data.root),
        output=output,
        restarts=restarts,
        patience=recipe.launch.patience,
    )


def on_devices(placement: Placement, run: Callable[[Worker], None]) -> None:
    """Run a function as the rank that this process is, or start the ranks of this machine.

    These are processes with the command line of this one, which come here again.
    """
    from suite.launch.failure import refuse_restart, writing_failure
    from suite.launch.starter import recognise
    from suite.launch.worker import Worker

    place = recognise(os.environ, num_ranks=placement.num_devices)
    if isinstance(place, Worker):
        if placement.restarts and placement.num_devices == 1:
            raise UsageError(
                "--restarts is for several devices; one alone: --resume its run folder"
            )
        with writing_failure():
            refuse_restart()
            run(place)
    else:
        start_ranks(place, placement, own_arguments())


def start_ranks(
    node: Node,
    placement: Placement,
    arguments: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Start the ranks of this machine and wait for them.

    Args:
        arguments: of `suite`, for each of them.
        environment: added to theirs.

    Raises:
        MissingEnvironment: this machine has fewer devices.
        SuiteError: the first failure of a rank, with its exit code.
    """
    from suite.launch.elastic import Start, run_node

    num_processes = placement.num_devices // node.num_nodes
    _require_devices(placement, num_processes)
    if placement.data is not None and not placement.data.is_dir():
        raise InputError(f"{placement.data}: no such folder; say where the data is with --data DIR")
    start = Start(
        command=[sys.executable, "-m", "suite", *arguments],
        num_processes=num_processes,
        log_folder=placement.output / "launches",
        restarts=placement.restarts,
        patience=placement.patience,
        environment=environment or {},
    )
    run_node(node, start)


def own_arguments() -> list[str]:
    """Return the arguments that this process was called with."""
    arguments = click.get_current_context().find_root().obj
    return list(sys.argv[1:] if arguments is None else arguments)


def _require_devices(placement: Placement, num_processes: int) -> None:
    from suite.device import count_devices

    if placement.device == "auto":
        return  # each rank finds out
    asked = f"{num_processes} x {placement.device} are asked for on this machine"
    try:
        there = count_devices(placement.device)
    except MissingEnvironment as error:
        raise MissingEnvironment(
            f"{asked}: {error}\nto run it elsewhere: --devices 1 --device cpu"
        ) from error
    if there is not None and there < num_processes:
        raise MissingEnvironment(
            f"{asked}, it has {there}\nto run it on those: --devices {there}, which keeps the "
            "images of each and scales the learning rate"
        )
