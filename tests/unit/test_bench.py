"""The benchmarks: what a record states; not how fast this machine is."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from models.structures import Images
from suite.bench.candidate import InferenceRequest
from suite.bench.data import bench_data, format_stages
from suite.bench.infer import bench_infer
from suite.bench.timing import summarise_ms
from suite.bench.train import bench_train
from suite.bench.train_text import format_training, format_versus
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
    path = request.getfixturevalue(model)
    asked = InferenceRequest(model=path, batch=2, runs=4, warmup=1, device="cpu")
    record = bench_infer(asked)
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
    asked = InferenceRequest(
        model=small_retinanet, images=small_photos, batch=3, runs=4, warmup=0, device="cpu"
    )
    record = bench_infer(asked)
    # Of 200 x 400 and 330 x 120 (height x width); then what the harness itself needs.
    lying, standing = (3, 3, 96, 160), (3, 3, 160, 64)
    assert canvases == [lying, standing] * (len(canvases) // 2)
    assert len(canvases) > 4
    assert record["conditions"]["image_hw"] == [96, 160]


def test_threads_are_of_onnxruntime(small_graph: Path, small_checkpoint: Path) -> None:
    asked = InferenceRequest(model=small_graph, runs=1, warmup=0, device="cpu", threads=1)
    assert bench_infer(asked)["conditions"]["threads"] == 1
    with pytest.raises(UsageError, match=r"--threads 1: .* OMP_NUM_THREADS"):
        bench_infer(replace(asked, model=small_checkpoint))


def test_precision_is_of_a_checkpoint(small_graph: Path, small_checkpoint: Path) -> None:
    asked = InferenceRequest(
        model=small_checkpoint, runs=1, warmup=0, device="cpu", precision="bf16"
    )
    assert bench_infer(asked)["conditions"]["precision"] == "bf16"
    with pytest.raises(UsageError, match=r"--precision bf16: .*\.onnx has its own"):
        bench_infer(replace(asked, model=small_graph))


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
    # All that an epoch of 6 images in pairs has.
    record = bench_train(short_recipe, steps=2, warmup=1)
    assert len(losses) == 3 * 3  # with the loader, without it, and with marks
    metrics, conditions = record["metrics"], record["conditions"]
    assert (conditions["scope"], conditions["data_included"]) == ("global", True)
    assert conditions["window"] == "2 steps after 1, data loading included"
    assert (conditions["n"], conditions["warmup"], conditions["batch"]) == (2, 1, 2)
    steps = record["series"]["step_ms"]
    assert metrics["images_per_second"] == pytest.approx(2 * 2 / (sum(steps) / 1000))
    assert metrics["images_per_second_per_device"] == metrics["images_per_second"]
    assert metrics["step_ms_p50"] == pytest.approx(sum(steps) / 2)
    parts = ("waiting", "moving", "forward", "backward", "exchange", "optimizer")
    spent = {part: metrics[f"{part}_ms"] for part in parts}
    assert sum(spent.values()) == pytest.approx(metrics["marked_step_ms"])
    assert metrics["data_share"] == pytest.approx(spent["waiting"] / sum(spent.values()))
    done = metrics["flops_per_image"] * metrics["images_per_second"]
    ceiling = metrics["ceiling_tflops"]
    assert metrics["model_flop_utilisation"] == pytest.approx(done / (1e12 * ceiling))
    assert ceiling == max(
        metrics["ceiling_matrix_product_tflops"], metrics["ceiling_convolution_tflops"]
    )
    assert metrics["energy_j_per_image"] is None
    text = format_training(record)
    assert max(map(len, text.splitlines())) <= 80
    assert "-bound: " in " ".join(text.split()) and "energy: not measured" in text
    with pytest.raises(UsageError, match=r"has 3 steps, fewer than 1 to warm up .*--steps 3"):
        bench_train(short_recipe, steps=3, warmup=1)


def test_steady_training_has_intervals(
    short_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("suite.bench.train.NUM_BLOCKS", 4)
    longer = replace(short_recipe, schedule=replace(short_recipe.schedule, epochs=2))
    record = bench_train(longer, steps=1, warmup=1, stable=True)
    metrics, conditions = record["metrics"], record["conditions"]
    assert (conditions["blocks"], conditions["n"]) == (4, 12)
    assert conditions["window"] == "4 blocks of 3 steps after 1, data loading included"
    for name in ("", "_model_only", "_loader_only"):
        rate = f"images_per_second{name}"
        assert 0 < metrics[f"{rate}_low"] <= metrics[rate] <= metrics[f"{rate}_high"]
    assert metrics["images_per_second"] == pytest.approx(2000 / metrics["step_ms_p50"], rel=0.5)
    assert "95 % of global" in format_training(record)


def test_two_recipes_are_trained_in_turn(
    short_recipe: Recipe,
    tmp_path: Path,
    run_suite: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("suite.bench.train_compare.NUM_BLOCKS", 3)
    words = [f"data.root={short_recipe.data.root}", "data.workers=0", "detector.width=0.125"]
    words += ["global_batch=2", "precision=fp32", "schedule.epochs=2"]
    arguments = [word for assignment in words for word in ("--set", assignment)]
    arguments += ["--steps", "3", "--warmup", "1", "--output", str(tmp_path / "runs")]
    done = run_suite("bench", "train", "demo", *arguments, "--vs", "detector.width=0.375", "--json")
    assert done.code == 0, done.stderr
    record = json.loads(done.stdout)
    metrics, conditions = record["metrics"], record["conditions"]
    assert record["kind"] == "bench-compare"
    assert (record["subject"]["a"]["width"], record["subject"]["b"]["width"]) == (0.125, 0.375)
    # b has more than twice the work; what disturbs a block of a may hide that, never turn it round.
    apart = metrics["a_images_per_second_low"] > metrics["b_images_per_second_high"]
    assert conditions["winner"] == ("a" if apart else "none, the intervals overlap")
    assert metrics["ratio"] < 1 / 1.3
    assert ("a is faster" if apart else "no winner") in format_versus(record)
    assert max(map(len, format_versus(record).splitlines())) <= 80
    alone = run_suite("bench", "train", "demo", *arguments, "--vs", "demo", "--devices", "2")
    assert (alone.code, "--vs: recipe demo is for 2 devices" in alone.stderr) == (2, True)


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
