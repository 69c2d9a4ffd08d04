"""The verb `quantize`: what it writes, when it writes nothing, and what it says of both.

The truth that AP is judged by is what the fp32 graph itself finds best, so it has one although it
has learnt nothing.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image

from suite.data import build_workers, load_split
from suite.deploy.graph import describe_in
from suite.deploy.judge import Point
from suite.deploy.parity import MAX_AP_DIFFERENCE
from suite.deploy.quantization import NUM_CALIBRATION_IMAGES
from suite.deploy.quantize import Frontier, QuantizeRequest, format_refusal
from suite.deploy.timing import Timing
from suite.device import build_device
from suite.errors import UsageError
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

    the order is from the last convolution to the first, and one run is timed.
    """
    monkeypatch.setattr(
        "suite.deploy.quantize.rank_blocks", lambda model, blocks, **_: list(blocks)[::-1]
    )
    for name, count in {"ROUNDS": 1, "RUNS": 1, "WARMUP": 0}.items():
        monkeypatch.setattr(f"suite.deploy.timing.{name}", count)

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
    written = hashlib.sha256((tmp_path / "int8.onnx").read_bytes()).hexdigest()
    assert record["subject"]["graph_sha256"] == written
    assert record["subject"]["fp32_sha256"] == load_graph(world / "model.onnx").sha256
    assert [point["sha256"] for point in conditions["frontier"]] == [
        record["subject"]["fp32_sha256"],
        written,
    ]
    assert record["subject"]["calibration"]["num_images"] == _NUM_IMAGES
    assert conditions["input_shape"] == [1, 3, 300, 300]
    assert conditions["image_hw"] == [300, 300]


def test_outside_of_the_budget_nothing_is_written(
    quantize: Callable[..., Finished], tmp_path: Path
) -> None:
    older = tmp_path / "int8.onnx"
    older.write_text("an older graph")
    done = quantize("--max-drop", "0", "--max-evaluations", "2", "--force")
    assert done.code == 3
    assert "none of 2 int8 graphs keeps --max-drop 0; the best loses 0." in done.stderr
    assert "--max-evaluations 2 ended the search at 1 float convolutions: raise it" in done.stderr
    assert f"{older} is an older one, and stays" in done.stderr
    assert "written" not in done.stdout
    assert names(tmp_path) == {"int8.onnx", "runs"}
    assert older.read_text() == "an older graph"
    record = load_record(tmp_path / "runs" / "quantize-model-1" / "record.json")
    assert record["conditions"]["within_budget"] is False
    assert record["conditions"]["cut_short"] is True
    before, *points = record["conditions"]["frontier"]
    assert [point["num_float"] for point in (before, *points)] == [0, 0, 1]
    # Of those outside, the best alone is timed: the record's figures are its own.
    best = max(points, key=lambda point: point["ap"])
    timed = [point for point in points if point["latency_ms"] is not None]
    assert timed == [best]
    assert record["metrics"]["latency_ms_p50"] == best["latency_ms"]
    assert record["subject"]["graph_sha256"] == best["sha256"]


def build_point(num_float: int, ap: float) -> Point:
    return Point(
        path=Path(f"{num_float}.onnx"),
        sha256="0" * 64,
        float_nodes=("a",) * num_float,
        num_float=num_float,
        size_bytes=100,
        ap=ap,
    )


@pytest.mark.parametrize("cut_short", [True, False])
def test_the_advice_names_what_ended_the_search(tmp_path: Path, cut_short: bool) -> None:
    frontier = Frontier(
        target=tmp_path / "int8.onnx",
        before=build_point(0, 0.5),
        points=(build_point(0, 0.3), build_point(9, 0.4)),
        chosen=None,
        max_drop=0.01,
        num_convolutions=10,
        cut_short=cut_short,
        record={},
    )
    told = format_refusal(Path("m.onnx"), frontier)
    assert "the best loses 0.1000 AP with 9 of 10 convolutions float; nothing is written; " in told
    assert ("; --max-evaluations 2 ended the search at 9 float convolutions: " in told) is cut_short
    assert ("nothing is written; pass more --calibration-images" in told) is not cut_short
    assert "older" not in told


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
    assert [p["latency_ms"] is not None for p in points] == [p in inside for p in points]
    graph = load_graph(tmp_path / "int8.onnx")
    assert graph.metadata.calibration is not None
    float_nodes = graph.metadata.calibration.float_nodes
    (chosen,) = [p for p in inside if p["float_nodes"] == list(float_nodes)]
    assert chosen["num_float"] > 0
    # One round is timed here, so that only equally fast ones could be as good.
    assert chosen["latency_ms"] == min(p["latency_ms"] for p in inside)
    assert record["metrics"]["ap_drop"] <= budget
    makers = {name: n.op_type for n in graph.model.graph.node for name in n.output}
    convs = [n for n in graph.model.graph.node if n.op_type == "Conv"]
    staying = {n.name for n in convs if makers.get(n.input[1]) != "DequantizeLinear"}
    assert staying == set(float_nodes)


@pytest.mark.parametrize(
    ("rounds", "wanted"),
    [
        ({0: (5.0, 5.0), 1: (4.0, 4.0), 2: (3.0, 3.0)}, 2),  # the fastest, not the smallest
        ({0: (5.0, 2.9), 1: (4.0, 4.0), 2: (3.0, 3.0)}, 0),  # cannot be told from the fastest
    ],
)
def test_the_fastest_inside_the_budget_is_written(
    quantize: Callable[..., Finished],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    rounds: dict[int, tuple[float, ...]],
    wanted: int,
) -> None:
    def time_graphs(paths: Sequence[Path], feed: object) -> list[Timing]:
        numbers = [len(float_nodes_of(path)) for path in paths[1:]]
        return [Timing((9.0, 9.0)), *(Timing(rounds[number]) for number in numbers)]

    def float_nodes_of(path: Path) -> tuple[str, ...]:
        calibration = load_graph(path).metadata.calibration
        assert calibration is not None
        return calibration.float_nodes

    def judge_three(num_blocks: int, holds: Callable[[int], bool], *, max_evaluations: int) -> None:
        for number in (1, 0, 2):
            holds(number)

    monkeypatch.setattr("suite.deploy.quantize.time_graphs", time_graphs)
    monkeypatch.setattr("suite.deploy.quantize.find_fewest_float", judge_three)
    done = quantize("--max-drop", "0.9")
    assert done.code == 0, done.stderr
    assert len(float_nodes_of(tmp_path / "int8.onnx")) == wanted
    record = load_record(tmp_path / "runs" / "quantize-model-1" / "record.json")
    assert [point["num_float"] for point in record["conditions"]["frontier"]] == [0, 0, 1, 2]
    assert record["metrics"]["latency_ms_p50"] == np.median(rounds[wanted])


def test_images_are_hashed_once(
    quantize: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[Path] = []

    def file_sha256(path: Path) -> str:
        hashed.append(path)
        return "0" * 64

    monkeypatch.setattr("suite.deploy.quantization.file_sha256", file_sha256)
    quantize("--max-drop", "0", "--max-evaluations", "2")
    assert len(hashed) == len(set(hashed)) == _NUM_IMAGES


def test_a_sidecar_without_a_graph_stays_without_force(
    quantize: Callable[..., Finished], tmp_path: Path
) -> None:
    sidecar = tmp_path / "int8.onnx.json"
    sidecar.write_text("precious")
    done = quantize("--max-drop", "0", "--max-evaluations", "1")
    assert (done.code, sidecar.read_text()) == (2, "precious")
    assert "int8.onnx.json: exists already; pass --force" in done.stderr


@pytest.fixture
def unjudged(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the test fail where a graph is judged."""

    def evaluate(*_: object, **__: object) -> None:
        raise AssertionError("a graph is judged")

    monkeypatch.setattr("suite.deploy.judge.evaluate", evaluate)


@pytest.mark.usefixtures("unjudged")
def test_a_place_that_cannot_be_written_is_noticed_at_once(
    quantize: Callable[..., Finished], tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    done = quantize("--output", str(tmp_path / "file" / "int8.onnx"))
    assert done.code == 1
    assert done.stderr.endswith("int8.onnx: cannot be written: Not a directory\n")


@pytest.mark.usefixtures("unjudged")
@pytest.mark.parametrize("target", ["tensorrt", "cann"])
def test_a_graph_for_a_runtime_without_int8_is_refused_at_once(
    world: Path,
    run_suite: Callable[..., Finished],
    change_graph: Callable[[Path, Callable[[onnx.ModelProto], None]], Path],
    target: Any,
) -> None:
    metadata = replace(load_graph(world / "model.onnx").metadata, target=target)
    path = change_graph(world / "model.onnx", lambda model: describe_in(model, metadata))
    done = run_suite("quantize", str(path), "--calibrate", str(world / "images"))
    assert done.code == 2
    assert f"changed.onnx: exported with --target {target}, and " in done.stderr
    assert "takes fp32 and fp16, not int8; export it with --target ort or openvino" in done.stderr
    assert names(path.parent) == {"changed.onnx"}


def test_budget_and_number_of_images_are_those_of_verify_and_export(
    quantize: Callable[..., Finished], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[QuantizeRequest] = []

    def remember(model: Path, request: QuantizeRequest) -> None:
        asked.append(request)
        raise UsageError("enough")

    monkeypatch.setattr("suite.deploy.quantize.quantize", remember)
    quantize()
    quantize("--max-drop", "0.02", "--calibration-images", "3")
    assert [(request.max_drop, request.num_images) for request in asked] == [
        (MAX_AP_DIFFERENCE["int8"], NUM_CALIBRATION_IMAGES),
        (0.02, 3),
    ]


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
