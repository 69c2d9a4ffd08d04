"""Flags and output that several verbs share."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from suite.launch.heartbeat import LAUNCHED

if TYPE_CHECKING:
    from suite.recipe import Recipe

FILE = click.Path(path_type=Path)
DEVICES = click.Choice(["auto", "cpu", "cuda", "npu"])


class _ImageSize(click.ParamType[tuple[int, int]]):
    name = "size"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", value)
        if found is None:
            self.fail(f"{value!r}: expected height x width, such as 800x1344", param, ctx)
        return int(found[1]), int(found[2])


IMAGE_SIZE = _ImageSize()


class _Batch(click.ParamType[int]):
    name = "batch"

    def convert(self, value: Any, param: Any, ctx: Any) -> int:
        if value in ("dynamic", 0):
            return 0
        if not re.fullmatch(r"[1-9]\d{0,3}", str(value)):
            self.fail(f"{value!r}: expected a number from 1 to 9999, or dynamic", param, ctx)
        return int(value)


BATCH = _Batch()


def recipe_flags(function: Callable[..., None]) -> Callable[..., None]:
    """Add the flags that say where a recipe runs."""
    for option in (
        click.option("--set", "assignments", multiple=True, metavar="KEY=VALUE",
                     help="Override one field of the recipe, such as schedule.epochs=2."),
        click.option("--devices", type=click.IntRange(min=1),
                     help="Override the number of devices, on all machines together."),
        click.option("--device-ids", metavar="N,N,...",
                     help="Which devices of this machine to use, such as 0,1."),
        click.option("--device", type=DEVICES, help="Override the recipe's device."),
        click.option("--data", metavar="DIR", help="Override where the data is (data.root)."),
    ):  # fmt: skip
        function = option(function)
    return function


CACHE = click.option(
    "--cache",
    type=click.Choice(["none", "ram", "disk"]),
    help="Keep training images decoded (data.cache).",
)


_STRICT_HELP = "Let an operator that the device lacks fail, instead of computing it on the CPU."
STRICT_DEVICE = click.option("--strict-device", is_flag=True, help=_STRICT_HELP)
BENCH_STRICT_DEVICE = click.option(
    "--strict-device/--no-strict-device", default=True, show_default=True, help=_STRICT_HELP
)

# Of torch, Slurm, Open MPI, and MPICH and its kin.
_RANK_VARIABLES = ("RANK", "SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "PMI_RANK")

_RATES = ("schedule.base_lr", "schedule.base_batch")
_WHERE = ("data", "device", "devices", "device_ids", "assignments", "cache")


def load_request(recipe: str, request: dict[str, Any]) -> tuple[Recipe, list[str], dict[str, Any]]:
    """Load a recipe with those of a verb's flags that override it; also return the other ones."""
    where = {name: value for name, value in request.items() if name in _WHERE}
    loaded, notes = load_recipe_with(recipe, **where)
    return loaded, notes, {k: v for k, v in request.items() if k not in _WHERE}


def load_recipe_with(
    recipe: str,
    *,
    data: str | None,
    device: str | None,
    devices: int | None,
    device_ids: str | None,
    assignments: Sequence[str],
    cache: str | None = None,
) -> tuple[Recipe, list[str]]:
    """Load a recipe with what the flags override; also return what that changed, as sentences."""
    from suite.placement import place_recipe
    from suite.recipe import load_recipe, parse_overrides

    assigned = parse_overrides(assignments)
    # The learning rates that notes tell are those that are trained with.
    written = load_recipe(recipe, {key: assigned[key] for key in _RATES if key in assigned})
    if device_ids is not None:
        devices = _choose_devices(device_ids, device or written.device, devices)
    overrides, notes = place_recipe(
        written, device=device, devices=devices, keep_batch="global_batch" in assigned
    )
    if data is not None:
        overrides["data.root"] = data
    if cache is not None:
        overrides["data.cache"] = cache
    if is_speaking():
        for note in notes:
            click.echo(note, err=True)
    return load_recipe(recipe, overrides | assigned), notes


def _choose_devices(device_ids: str, kind: str, devices: int | None) -> int:
    """Let this process and those it starts see these devices only; return how many they are."""
    from suite.device_problems import VISIBLE

    if not re.fullmatch(r"\d{1,3}(,\d{1,3})*", device_ids):
        raise click.UsageError(f"--device-ids {device_ids}: expected numbers, such as 0,1")
    ids = [int(number) for number in device_ids.split(",")]
    if ids != sorted(set(ids)):  # torch_npu would see none of them
        raise click.UsageError(f"--device-ids {device_ids}: they have to rise, such as 0,1")
    if devices is not None and devices % len(ids):
        raise click.UsageError(f"--device-ids {device_ids}: {len(ids)} a machine are not {devices}")
    kinds: tuple[Literal["cuda", "npu"], ...] = ("cuda", "npu")
    chosen = [k for k in kinds if kind in (k, "auto")]
    if not chosen:
        raise click.UsageError(f"--device-ids {device_ids}: device {kind} has no numbers")
    for vendor in chosen:
        os.environ[VISIBLE[vendor]] = device_ids
    return devices or len(ids)


def is_speaking() -> bool:
    """Whether this process is the one of its run that speaks, as far as its starter tells."""
    numbers = (os.environ.get(name, "0") for name in _RANK_VARIABLES)
    return LAUNCHED not in os.environ and all(number in ("0", "") for number in numbers)


def print_json(schema: str, **content: Any) -> None:
    """Print one JSON document with its schema."""
    click.echo(json.dumps({"schema": schema, **content}, indent=2))


@contextmanager
def progress_of(total: int, label: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress; yields the function to call with the work done and the total."""
    from suite.progress import Progress

    progress = Progress(total, label=label)
    try:
        yield lambda done, _: progress.update(done)
    finally:
        progress.close()
