"""The verbs that measure speed: bench infer, train, data, scaling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from suite.cli.bench_scaling import scaling
from suite.cli.flags import (
    BENCH_STRICT_DEVICE,
    CACHE,
    DEVICES,
    FILE,
    load_recipe_with,
    load_request,
    recipe_flags,
)
from suite.cli.ranks import on_devices, placement_of


@click.group()
def bench() -> None:
    """Measure speed."""


@bench.command("infer")
@click.argument("model", type=FILE)
@click.option(
    "--images", multiple=True, metavar="SOURCE", help="Photos; by default generated ones."
)
@click.option("--batch", type=click.IntRange(min=1), default=1, show_default=True)
@click.option(
    "--runs", type=click.IntRange(min=1), default=50, show_default=True, help="Counted runs."
)
@click.option("--warmup", type=click.IntRange(min=0), default=10, show_default=True)
@click.option("--device", type=DEVICES, default="auto", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]),
              help="Of a checkpoint, or of a graph in OpenVINO; fp32 by default.")  # fmt: skip
@click.option("--runtime", type=click.Choice(["ort", "openvino"]),
              help="What runs a graph: ONNX Runtime (default) or OpenVINO.")  # fmt: skip
@click.option("--threads", type=click.IntRange(min=1), help="CPU threads of a graph's runtime.")
@BENCH_STRICT_DEVICE
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the record.")
def bench_infer(
    model: Path, images: Sequence[str], output: Path, as_json: bool, **request: Any
) -> None:
    """Measure latency and images/s of MODEL (.pth or .onnx)."""
    from suite.bench.infer import InferenceRequest
    from suite.bench.infer import bench_infer as measure
    from suite.predict import find_images

    record = measure(model, InferenceRequest(images=find_images(images), **request))
    _keep_record(record, output, f"bench-infer-{model.stem}", as_json)


@bench.command("train")
@click.argument("recipe")
@recipe_flags
@CACHE
@click.option(
    "--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Counted steps."
)
@click.option("--warmup", type=click.IntRange(min=1), default=3, show_default=True)
@BENCH_STRICT_DEVICE
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the record.")
def bench_train(recipe: str, output: Path, as_json: bool, **request: Any) -> None:
    """Measure training images/s of RECIPE on its own data."""
    from suite.launch.worker import Worker

    loaded, notes, request = load_request(recipe, request)

    def run(worker: Worker) -> None:
        from suite.bench.train import bench_train as measure

        record = measure(loaded, worker=worker, **request)
        record["notes"] += notes
        if worker.rank == 0:
            _keep_record(record, output, f"bench-train-{loaded.name}", as_json)

    on_devices(placement_of(loaded, output=output), run)


@bench.command("data")
@click.argument("recipe")
@recipe_flags
@CACHE
@click.option(
    "--steps", type=click.IntRange(min=1), default=8, show_default=True, help="Counted batches."
)
@click.option("--warmup", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the record.")
def bench_data(
    recipe: str, steps: int, warmup: int, output: Path, as_json: bool, **where: Any
) -> None:
    """Measure how fast RECIPE's training images load, and where the time goes."""
    from suite.bench.data import bench_data as measure
    from suite.bench.data import format_stages

    loaded, notes = load_recipe_with(recipe, **where)
    record = measure(loaded, steps=steps, warmup=warmup)
    record["notes"] += notes
    if not as_json:
        click.echo(format_stages(record) + "\n")
    _keep_record(record, output, f"bench-data-{loaded.name}", as_json)


def _keep_record(record: dict[str, Any], output: Path, name: str, as_json: bool) -> None:
    from suite.records import format_metrics, write_record
    from suite.run_folder import new_record_path

    path = new_record_path(output, name)
    write_record(record, path)
    if as_json:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    click.echo(format_metrics(record))
    click.echo(str(path))


bench.add_command(scaling)

VERBS = (bench,)
