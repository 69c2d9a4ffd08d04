"""The command `suite bench scaling`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from suite.cli.flags import FILE, print_json
from suite.errors import UsageError

if TYPE_CHECKING:
    from suite.bench.step_time import Network
    from suite.recipe import Recipe

_POSITIVE = click.FloatRange(min=0, min_open=True)
_COUNT = click.IntRange(min=1)


class _Measured(click.ParamType[tuple[int, float]]):
    name = "measured"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, float]:
        found = re.fullmatch(r"([1-9]\d{0,5})=(\d{1,9}(?:\.\d{1,9})?)", value)
        if found is None or int(found[1]) < 2 or float(found[2]) <= 0:
            self.fail(f"{value!r}: expected devices=images/s, such as 8=112", param, ctx)
        return int(found[1]), float(found[2])


@click.command("scaling")
@click.argument("recipe")
@click.option("--record", type=FILE, help="A record of `bench train` on one device.")
@click.option("--images-per-second", "rate", type=_POSITIVE, help="Of one device, instead.")
@click.option("--batch", type=_COUNT, help="Images a device and step; by default the recipe's.")
@click.option("--devices", type=_COUNT, multiple=True, default=(1, 8, 64, 512, 1024),
              show_default=True)  # fmt: skip
@click.option("--devices-per-machine", type=_COUNT, default=8, show_default=True)
@click.option("--inside", type=_POSITIVE, default=18.0, show_default=True,
              help="GB/s of one device's link inside a machine.")  # fmt: skip
@click.option("--between", type=_POSITIVE, default=12.5, show_default=True,
              help="GB/s of one device's link between machines.")  # fmt: skip
@click.option("--latency-us", type=(click.FloatRange(0), click.FloatRange(0)), default=(10.0, 20.0),
              show_default=True, metavar="INSIDE BETWEEN",
              help="Of one message, inside a machine and between machines.")  # fmt: skip
@click.option("--algorithm", type=click.Choice(["hierarchical", "ring"]), default="hierarchical",
              show_default=True)  # fmt: skip
@click.option("--bucket-mib", type=_POSITIVE,
              help="Gradients in one message; by default torch's 25, the first one 1.")  # fmt: skip
@click.option("--backward-share", type=click.FloatRange(0, 1), default=2 / 3,
              help="Of the computing time; by default 2/3.")  # fmt: skip
@click.option("--loader", type=_POSITIVE, help="Images/s that the loaders of one machine give.")
@click.option("--lost-ms", type=click.FloatRange(0), default=0.0, show_default=True,
              help="Lost in every step of several devices.")  # fmt: skip
@click.option("--dataset-size", type=_COUNT,
              help="Training images, where the recipe has no nominal_epoch_images.")  # fmt: skip
@click.option("--measured", type=_Measured(), metavar="DEVICES=RATE",
              help="A measured run to explain.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the answer as one JSON document.")
def scaling(recipe: str, as_json: bool, **asked: Any) -> None:
    """Work out on paper how RECIPE's step time grows with devices; nothing is run."""
    from suite.bench.scaling import ScalingRequest, predict_scaling, scaling_to_dict
    from suite.bench.scaling_text import format_scaling
    from suite.recipe import load_recipe
    from suite.shipped import shipped_folder

    loaded = load_recipe(recipe)
    rate, batch = _find_rate(loaded, asked["record"], asked["rate"], asked["batch"])
    request = ScalingRequest(
        images_per_second=rate,
        network=_build_network(asked),
        devices=asked["devices"],
        backward_share=asked["backward_share"],
        rank_batch=batch,
        bucket_mib=asked["bucket_mib"],
        loader_images_per_second=asked["loader"],
        lost_s=asked["lost_ms"] / 1000,
        dataset_size=asked["dataset_size"],
        measured=asked["measured"],
    )
    answer = predict_scaling(loaded, request, reference=shipped_folder("reference"))
    if as_json:
        print_json("suite.scaling/1", **scaling_to_dict(answer, request))
    else:
        click.echo(format_scaling(answer))


def _find_rate(
    recipe: Recipe, record: Path | None, rate: float | None, batch: int | None
) -> tuple[float, int | None]:
    from suite.bench.scaling import rate_of_record

    if (record is None) == (rate is None):
        raise UsageError("give the speed of one device: either --record or --images-per-second")
    if record is None:
        assert rate is not None
        return rate, batch
    recorded, recorded_batch = rate_of_record(record, recipe)
    if batch not in (None, recorded_batch):
        raise UsageError(f"--batch {batch}: the record is of {recorded_batch}; leave it out")
    return recorded, recorded_batch


def _build_network(asked: dict[str, Any]) -> Network:
    from suite.bench.step_time import Link, Network

    inside_us, between_us = asked["latency_us"]
    return Network(
        devices_per_machine=asked["devices_per_machine"],
        inside=Link(asked["inside"] * 1e9, inside_us * 1e-6),
        between=Link(asked["between"] * 1e9, between_us * 1e-6),
        algorithm=asked["algorithm"],
    )
