"""The benchmarks: what a record states; not how fast this machine is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models.structures import Images
from suite.bench.data import bench_data, format_stages
from suite.bench.infer import InferenceRequest, bench_infer
from suite.bench.timing import summarise_ms
from suite.bench.train import bench_train
from suite.data.synthetic import write_synthetic
from suite.errors import UsageError
from suite.recipe import Recipe, load_recipe
from suite.records import load_record, write_record
from suite.training.optim import Updater


def test_percentiles_in_milliseconds() -> None:
    seconds = [i / 1000 for i in range(1, 102)]
    summary = summarise_ms(seconds, prefix="step")
    assert summary == pytest.approx({"step_ms_p50": 51, "step_ms_p90": 91, "step_ms_p99": 100})


@pytest.mark.parametrize("model", ["small_checkpoint", "small_graph"])
def test_inference_record(model: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    asked = InferenceRequest(batch=2, runs=4, warmup=1, device="cpu")
    record = bench_infer(request.getfixturevalue(model), asked)
    write_record(record, tmp_path / "record.json")
    record = load_record(tmp_path / "record.json")
    metrics, conditions = record["metrics"], record["conditions"]
    assert (conditions["n"], conditions["warmup"], conditions["batch"]) == (4, 1, 2)
    assert conditions["runtime"].startswith("torch" if "checkpoint" in model else "onnxruntime")
    stages = sum(metrics[f"{stage}_ms_p50"] for stage in ("pre", "infer", "post"))
    assert 0.5 * stages < metrics["latency_ms_p50"] < 2 * stages
    assert metrics["images_per_second"] == pytest.approx(2000 / metrics["infer_ms_p50"])
    assert metrics["images_per_second_end_to_end"] < metrics["images_per_second"]
    # Normalising two images alone reads and writes 4 MB.
    assert 0.02 < metrics["harness_ms_p50"] < metrics["infer_ms_p50"]
    assert conditions["precision"] == "fp32"
    assert conditions["threads"] == (torch.get_num_threads() if "point" in model else "default")
    assert metrics["detections_per_image"] > 1


def test_every_run_is_of_one_canvas_and_the_record_states_the_published_size(
    small_retinanet: Path, small_photos: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    canvases = []
    normalised = Images.normalised

    def watch(images: Images) -> torch.Tensor:
        canvases.append(tuple(images.pixels.shape))
        return normalised(images)

    monkeypatch.setattr(Images, "normalised", watch)
    asked = InferenceRequest(images=small_photos, batch=3, runs=4, warmup=0, device="cpu")
    record = bench_infer(small_retinanet, asked)
    # Of 200 x 400 and 330 x 120 (height x width); then what the harness itself needs.
    lying, standing = (3, 3, 96, 160), (3, 3, 160, 64)
    assert canvases == [lying, standing] * 2 + [lying] * 4
    assert record["conditions"]["image_hw"] == [96, 160]


def test_threads_are_of_onnxruntime(small_graph: Path, small_checkpoint: Path) -> None:
    asked = InferenceRequest(runs=1, warmup=0, device="cpu", threads=1)
    assert bench_infer(small_graph, asked)["conditions"]["threads"] == 1
    with pytest.raises(UsageError, match=r"--threads 1: .* OMP_NUM_THREADS"):
        bench_infer(small_checkpoint, asked)


def test_precision_is_of_a_checkpoint(small_graph: Path, small_checkpoint: Path) -> None:
    asked = InferenceRequest(runs=1, warmup=0, device="cpu", precision="bf16")
    assert bench_infer(small_checkpoint, asked)["conditions"]["precision"] == "bf16"
    with pytest.raises(UsageError, match=r"--precision bf16: .*\.onnx has its own"):
        bench_infer(small_graph, asked)


@pytest.fixture
def short_recipe(tmp_path: Path) -> Recipe:
    """Three steps of two generated images."""
    write_synthetic(tmp_path / "data", num_train=6, num_val=1, seed=0)
    overrides = {
        "data.root": str(tmp_path / "data"),
        "data.workers": "0",
        "detector.width": "0.125",
        "global_batch": "2",
        "precision": "fp32",
        "schedule.epochs": "1",
    }
    return load_recipe("demo", overrides)


def test_training_record(short_recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[torch.Tensor] = []
    step = Updater.step

    def count(updater: Updater, loss: torch.Tensor) -> object:
        losses.append(loss)
        return step(updater, loss)

    monkeypatch.setattr(Updater, "step", count)
    record = bench_train(
        short_recipe, steps=2, warmup=1
    )  # all that an epoch of 6 images in pairs has
    assert len(losses) == 2 * 3  # with the loader, then without
    assert record["conditions"]["scope"] == "global"
    assert record["conditions"]["window"] == "2 steps after 1, data loading included"
    per_step = 2 / record["metrics"]["images_per_second"]
    assert 0.3 < per_step / (record["metrics"]["step_ms_p50"] / 1000) < 3
    with pytest.raises(UsageError, match=r"has 3 steps, fewer than 1 to warm up .*--steps 3"):
        bench_train(short_recipe, steps=3, warmup=1)


@pytest.mark.parametrize("cache", ["none", "disk"])
def test_data_record(
    short_recipe: Recipe, cache: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = replace(short_recipe, data=replace(short_recipe.data, cache=cache))
    threads = torch.get_num_threads()
    record = bench_data(recipe, steps=2, warmup=1)
    assert torch.get_num_threads() == threads
    metrics = record["metrics"]
    assert record["conditions"]["n"] == 4
    assert record["conditions"]["image_cache"] == cache
    loading = ("read", "decode", "crop", "resize", "flip_and_colour", "batch")
    spent = sum(metrics[f"{stage}_ms"] for stage in loading)
    assert metrics["images_per_second_per_core"] == pytest.approx(1000 / spent)
    assert metrics["images_per_second_per_core_normalised"] == pytest.approx(
        1000 / (spent + metrics["normalise_ms"])
    )
    assert metrics["images_per_second"] > 0
    assert (metrics["read_ms"] > 0) == (cache == "none")
    table = format_stages(record)
    assert table.splitlines()[0].split() == ["stage", "ms/image", "share"]
    assert f"one core: {metrics['images_per_second_per_core']:.0f} images/s" in table
    with pytest.raises(UsageError, match=r"has 3 steps, fewer than 1 to warm up .*--steps 3"):
        bench_data(recipe, steps=3, warmup=1)


def test_what_was_loaded_ahead_is_not_counted(short_recipe: Recipe) -> None:
    """Two processes have loaded four batches before the first one is taken."""
    recipe = replace(short_recipe, data=replace(short_recipe.data, workers=2))
    with pytest.raises(UsageError, match="fewer than 5 to warm up"):
        bench_data(recipe, steps=1, warmup=1)
    with pytest.raises(UsageError, match="fewer than 5 to warm up"):
        bench_train(recipe, steps=1, warmup=1)
    longer = replace(recipe, schedule=replace(recipe.schedule, epochs=3.0))
    window = bench_data(longer, steps=2, warmup=1)["conditions"]["window"]
    assert window.startswith("2 batches after 5;")
