"""The verbs that measure speed: bench infer, train, device, data, scaling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

if TYPE_CHECKING:
    from suite.launch.worker import Worker


@click.group()
def bench() -> None:
    """Measure speed."""


@bench.command("infer")
@click.argument("model", type=FILE)
@click.option(
    "--images", multiple=True, metavar="SOURCE", help="Photos; by default generated ones."
)
@click.option("--scenario", type=click.Choice(["single-stream", "offline"]),
              default="single-stream", show_default=True,
              help="One batch after the other, or all at once with loaders beside it.")  # fmt: skip
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
@click.option("--workers", type=click.IntRange(min=0), default=1, show_default=True,
              help="Loader processes of --scenario offline.")  # fmt: skip
@click.option("--stable", is_flag=True, help="Spread the runs over blocks and give intervals.")
@click.option("--vs", metavar="OTHER",
              help="Measure in turn with another MODEL, or with KEY=VALUE,... (device, precision, "
              "runtime, threads, batch), or both.")  # fmt: skip
@BENCH_STRICT_DEVICE
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the record.")
def bench_infer(
    images: Sequence[str], vs: str | None, output: Path, as_json: bool, **request: Any
) -> None:
    """Measure latency and images/s of MODEL (.pth or .onnx)."""
    from suite.bench.candidate import InferenceRequest
    from suite.bench.infer import bench_infer as measure
    from suite.bench.infer import compare_infer, format_comparison
    from suite.cli.versus import read_versus
    from suite.predict import find_images

    asked = InferenceRequest(images=find_images(images), **request)
    if vs is None:
        _keep_record(measure(asked), output, f"bench-infer-{asked.model.stem}", as_json)
        return
    record = compare_infer(asked, read_versus(vs, asked))
    name = f"bench-compare-{asked.model.stem}"
    _keep_record(record, output, name, as_json, text=format_comparison(record))


@bench.command("train")
@click.argument("recipe")
@recipe_flags
@CACHE
@click.option(
    "--steps", type=click.IntRange(min=1), default=10, show_default=True, help="Counted steps."
)
@click.option("--warmup", type=click.IntRange(min=1), default=3, show_default=True)
@click.option("--stable", is_flag=True, help="Spread the steps over blocks and give intervals.")
@click.option(
    "--vs", metavar="OTHER", help="Measure in turn with another recipe, or KEY=VALUE,... of this."
)
@BENCH_STRICT_DEVICE
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the record.")
def bench_train(recipe: str, vs: str | None, output: Path, as_json: bool, **request: Any) -> None:
    """Measure training images/s of RECIPE on its own data, and what holds it back."""
    loaded, notes, counts = load_request(recipe, request)
    if vs is not None:
        other, more, _ = load_request(*_read_recipe_versus(vs, recipe, request))
        counts.pop("stable")  # blocks in any case
        from suite.bench.train_compare import compare_training
        from suite.bench.train_text import format_versus

        record = compare_training(loaded, other, **counts)
        text = format_versus(record)
        record["notes"] += [*notes, *more]
        _keep_record(record, output, f"bench-compare-{loaded.name}", as_json, text=text)
        return

    def run(worker: Worker) -> None:
        from suite.bench.train import bench_train as measure
        from suite.bench.train_text import format_training

        record = measure(loaded, worker=worker, **counts)
        text = format_training(record)
        record["notes"] += notes
        if worker.rank == 0:
            _keep_record(record, output, f"bench-train-{loaded.name}", as_json, text=text)

    on_devices(placement_of(loaded, output=output), run)


def _read_recipe_versus(
    vs: str, recipe: str, request: dict[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return the other recipe and its flags: those given hold for both, but what --vs sets."""
    other, *settings = vs.split(",")
    if "=" in other:
        other, settings = recipe, [other, *settings]
    keys = {setting.partition("=")[0] for setting in settings}
    kept = [one for one in request["assignments"] if one.partition("=")[0] not in keys]
    return other, request | {"assignments": (*kept, *settings)}


@bench.command("device")
@click.option("--device", "kind", type=DEVICES, default="auto", show_default=True)
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), default=8.0,
              show_default=True, help="That it may take.")  # fmt: skip
@BENCH_STRICT_DEVICE
@click.option("--output", type=FILE, default=Path("runs"), show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print the record.")
def bench_device(
    kind: str, minutes: float, strict_device: bool, output: Path, as_json: bool
) -> None:
    """Measure this machine: both detectors, training and inference, on generated data."""
    from suite.bench.device import bench_device as measure
    from suite.bench.device import format_rows

    record = measure(kind, minutes=minutes, strict=strict_device)
    _keep_record(record, output, "bench-device", as_json, text=format_rows(record))


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


def _keep_record(
    record: dict[str, Any], output: Path, name: str, as_json: bool, *, text: str | None = None
) -> None:
    from suite.records import format_metrics, write_record
    from suite.run_folder import new_record_path

    path = new_record_path(output, name)
    write_record(record, path)
    if as_json:
        click.echo(path.read_text(encoding="utf-8"), nl=False)
        return
    click.echo(format_metrics(record) if text is None else text)
    click.echo(str(path))


bench.add_command(scaling)

VERBS = (bench,)
