"""The verb `quantize`: what it writes, when it writes nothing, and what it says of both.

The truth that AP is judged by is what the fp32 graph itself finds best, so it has one although it
has learnt nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image

from suite.data import build_workers, load_split
from suite.device import build_device
from suite.evaluation import evaluate
from suite.graph_file import load_graph
from suite.predict import detect_image
from suite.recipe import Recipe, load_recipe, recipe_to_dict
from suite.records import load_record
from suite.runtime import load_detect

Finished = Any

_NUM_IMAGES, _NUM_BOXES = 4, 12


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, small_graph: Path, small_checkpoint: Path
) -> Path:
    """A folder with a data set, a recipe for it and the graph."""
    folder = tmp_path_factory.mktemp("world")
    shutil.copy(small_graph, folder / "model.onnx")
    (folder / "images").mkdir()
    generator = np.random.default_rng(5)
    loaded = load_detect(small_graph, device=build_device("cpu", "fp32"))
    images, annotations = [], []
    for number in range(1, _NUM_IMAGES + 1):
        coarse = generator.integers(256, size=(7, 7, 3), dtype=np.uint8)
        picture = Image.fromarray(coarse).resize((300, 300), Image.Resampling.BICUBIC)
        picture.save(folder / "images" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": 300, "width": 300})
        found = detect_image(loaded, np.asarray(picture))
        for box, label in zip(found.boxes_xyxy[:_NUM_BOXES], found.labels, strict=False):
            x0, y0, x1, y1 = box.tolist()
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": loaded.category_ids[int(label)],
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": (x1 - x0) * (y1 - y0),
                    "iscrowd": 0,
                }
            )
    categories = [
        {"id": number, "name": name}
        for number, name in zip(loaded.category_ids, loaded.class_names, strict=True)
    ]
    truth = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "truth.json").write_text(json.dumps(truth))
    recipe = load_recipe(
        "demo",
        {
            "name": "world",
            "detector.num_classes": "3",
            "data.root": str(folder),
            "data.val.annotations": "truth.json",
            "data.val.images": "images",
        },
    )
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe_to_dict(recipe)))
    return folder


@pytest.fixture
def quantize(
    world: Path,
    tmp_path: Path,
    run_suite: Callable[..., Finished],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[..., Finished]:
    """Run the verb on the graph; what it writes goes to `tmp_path`. Ranking and timing cost much:

    the order is from the last convolution to the first, and two runs are timed.
    """
    monkeypatch.setattr(
        "suite.deploy.quantize.rank_blocks", lambda model, blocks, **_: list(blocks)[::-1]
    )
    monkeypatch.setattr("suite.deploy.quantize._RUNS", 2)

    def run(*more: str) -> Finished:
        return run_suite(
            "quantize", str(world / "model.onnx"),
            "--calibrate", str(world / "images"), "--recipe", str(world / "recipe.yaml"),
            "--output", str(tmp_path / "int8.onnx"), "--records", str(tmp_path / "runs"), *more,
        )  # fmt: skip

    return run


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_graph_inside_the_budget_is_written(
    quantize: Callable[..., Finished], world: Path, tmp_path: Path
) -> None:
    done = quantize("--max-drop", "0.9", "--calibration-images", "3")
    assert done.code == 0, done.stderr
    target = tmp_path / "int8.onnx"
    assert done.stdout.splitlines()[-1] == str(target)
    assert names(tmp_path) == {"int8.onnx", "int8.onnx.json", "runs"}
    graph, source = load_graph(target), load_graph(world / "model.onnx")
    assert graph.metadata.precision == "int8"
    assert graph.metadata.calibration is not None
    chosen = [world / "images" / f"{number}.png" for number in (1, 2, 3)]
    digests = sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in chosen)
    assert graph.metadata.calibration.num_images == 3
    assert graph.metadata.calibration.float_nodes == ()
    assert graph.metadata.calibration.sha256 == (
        hashlib.sha256("\n".join(digests).encode()).hexdigest()
    )
    sidecar = json.loads(Path(f"{target}.json").read_text(encoding="utf-8"))
    assert sidecar["sha256"] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert sidecar["precision"] == "int8"
    assert sidecar["quantization"]["fp32_sha256"] == source.sha256


def judge(path: Path, recipe: Recipe) -> float:
    loaded = load_detect(path, device=build_device("cpu", "fp32"))
    dataset, workers = load_split(recipe.data, "val"), build_workers(recipe.data)
    found, _ = evaluate(loaded.detect, dataset, sizing=loaded.sizing, batch_size=1, workers=workers)
    assert found.ap is not None
    return found.ap


def test_the_record_holds_what_eval_measures(
    quantize: Callable[..., Finished], world: Path, tmp_path: Path
) -> None:
    printed = json.loads(quantize("--max-drop", "0.9", "--json").stdout)
    record = load_record(tmp_path / "runs" / "quantize-model-1" / "record.json")
    assert printed["record"] == record
    metrics, conditions = record["metrics"], record["conditions"]
    recipe = load_recipe(str(world / "recipe.yaml"))
    assert metrics["ap_before"] == pytest.approx(judge(world / "model.onnx", recipe), abs=2e-3)
    assert metrics["ap_before"] > 0.3
    assert metrics["ap"] == pytest.approx(judge(tmp_path / "int8.onnx", recipe), abs=2e-3)
    assert metrics["ap_drop"] == pytest.approx(metrics["ap_before"] - metrics["ap"])
    assert metrics["size_bytes"] == (tmp_path / "int8.onnx").stat().st_size
    assert metrics["size_bytes"] < 0.6 * metrics["size_bytes_before"]
    assert conditions["within_budget"] is True
    assert [point["num_float"] for point in conditions["frontier"]] == [0, 0]
    assert record["subject"]["graph_sha256"] == load_graph(world / "model.onnx").sha256
    assert record["subject"]["calibration"]["num_images"] == _NUM_IMAGES


def test_outside_of_the_budget_nothing_is_written(
    quantize: Callable[..., Finished], tmp_path: Path
) -> None:
    older = tmp_path / "int8.onnx"
    older.write_text("an older graph")
    done = quantize("--max-drop", "0", "--max-evaluations", "2", "--force")
    assert done.code == 3
    assert "none of 2 int8 graphs keeps --max-drop 0; the best loses 0." in done.stderr
    assert "written" not in done.stdout
    assert names(tmp_path) == {"runs"}
    record = load_record(tmp_path / "runs" / "quantize-model-1" / "record.json")
    assert record["conditions"]["within_budget"] is False
    assert [point["num_float"] for point in record["conditions"]["frontier"]] == [0, 0, 1]


def test_the_search_ends_inside_the_budget(
    quantize: Callable[..., Finished], tmp_path: Path
) -> None:
    first = quantize("--max-drop", "0", "--max-evaluations", "1")
    lost = load_record(tmp_path / "runs" / "quantize-model-1" / "record.json")["metrics"]["ap_drop"]
    assert (first.code, lost > 0) == (3, True)
    budget = lost / 4
    done = quantize("--max-drop", str(budget))
    assert done.code == 0, done.stderr
    record = load_record(tmp_path / "runs" / "quantize-model-2" / "record.json")
    before, *points = record["conditions"]["frontier"]
    inside = [p for p in points if before["ap"] - p["ap"] <= budget]
    graph = load_graph(tmp_path / "int8.onnx")
    assert graph.metadata.calibration is not None
    float_nodes = graph.metadata.calibration.float_nodes
    assert len(float_nodes) == min(p["num_float"] for p in inside) > 0
    assert record["metrics"]["ap_drop"] <= budget
    makers = {name: n.op_type for n in graph.model.graph.node for name in n.output}
    convs = [n for n in graph.model.graph.node if n.op_type == "Conv"]
    staying = {n.name for n in convs if makers.get(n.input[1]) != "DequantizeLinear"}
    assert staying == set(float_nodes)


def test_two_runs_write_the_same_bytes(quantize: Callable[..., Finished], tmp_path: Path) -> None:
    contents = []
    for _ in range(2):
        assert quantize("--max-drop", "0.9", "--force").code == 0
        contents.append((tmp_path / "int8.onnx").read_bytes())
    assert contents[0] == contents[1]


def test_an_existing_target_stays_without_force(
    quantize: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "int8.onnx").write_text("precious")
    done = quantize()
    assert (done.code, (tmp_path / "int8.onnx").read_text()) == (2, "precious")
    assert "exists already; pass --force" in done.stderr


def test_an_int8_graph_is_not_quantised_again(
    quantize: Callable[..., Finished],
    world: Path,
    tmp_path: Path,
    run_suite: Callable[..., Finished],
) -> None:
    quantize("--max-drop", "0.9")
    done = run_suite(
        "quantize", str(tmp_path / "int8.onnx"), "--calibrate", str(world / "images"),
        "--recipe", str(world / "recipe.yaml"),
    )  # fmt: skip
    assert done.code == 2
    assert "int8.onnx: is int8; quantize the fp32 graph" in done.stderr


def test_a_folder_without_images_is_refused(
    quantize: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    done = quantize("--calibrate", str(tmp_path / "empty"))
    assert done.code == 2
    assert "no image there" in done.stderr
    assert names(tmp_path) == {"empty"}


def test_an_unreadable_image_leaves_nothing(
    quantize: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "1.jpg").write_bytes(b"no photo")
    done = quantize("--calibrate", str(tmp_path / "bad"))
    assert done.code == 1
    assert "1.jpg" in done.stderr
    assert names(tmp_path) == {"bad"}


def test_a_detector_that_finds_nothing_is_not_judged(
    quantize: Callable[..., Finished], world: Path, tmp_path: Path
) -> None:
    content: dict[str, Any] = json.loads((world / "truth.json").read_text())
    for annotation in content["annotations"]:
        annotation["bbox"] = [0, 0, 1.5, 1.5]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "truth.json").write_text(json.dumps(content))
    shutil.copytree(world / "images", tmp_path / "data" / "images")
    done = quantize("--data", str(tmp_path / "data"))
    assert done.code == 2
    assert "AP is 0 on 4 images of generated; there is nothing to lose" in done.stderr


def test_convolutions_without_names_are_refused(
    world: Path,
    run_suite: Callable[..., Finished],
    change_graph: Callable[[Path, Callable[[onnx.ModelProto], None]], Path],
) -> None:
    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = ""

    path = change_graph(world / "model.onnx", rename)
    done = run_suite("quantize", str(path), "--calibrate", str(world / "images"))
    assert done.code == 1
    assert "changed.onnx: its 51 convolutions are too few or have no names" in done.stderr
    assert names(path.parent) == {"changed.onnx"}
