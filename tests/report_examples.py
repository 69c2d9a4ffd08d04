"""Records with everything beside them that a report can show, for its tests."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from suite.evaluation.analysis import ANALYSIS_PATH, analyse, write_analysis
from suite.evaluation.columns import read_columns
from suite.evaluation.matching import match_results
from suite.records import build_record, write_record
from suite.report import report

REFERENCE = Path(__file__).resolve().parents[1] / "reports" / "reference"
SSD = {"detector": "ssd_r34", "dataset": "COCO2017", "recipe": "ssd_r34_coco"}
NPU = {"device": "npu", "device_name": "Ascend 910", "scope": "global", "precision": "fp16"}
CPU = {"device": "cpu", "device_name": "AMD EPYC", "devices": 1, "batch": 1, "threads": 2}
CLASSES = ("cat", "dog", "a cow with a long name")


def make_record(kind: str, created: int, **parts: Any) -> dict[str, Any]:
    """Return a record that is the same on every machine."""
    return build_record(kind, **parts) | {
        "created": f"2026-11-{created:02d}T12:00:00Z",
        "command": f"suite {kind} example-{created}",
        "software": {"torch": "2.13.0"},
        "git": {"commit": "0123456789abcdef", "dirty": created == 1},
    }


def write_rich_records(folder: Path) -> Path:
    """Write records for every section below `folder`; return the folder to report on."""
    runs = folder / "runs"
    _write_training(runs / "ssd-1")
    for number, (sha, runtime, ap) in enumerate(
        (("a" * 64, "torch cpu", 0.2312), ("b" * 64, "onnxruntime CPUExecutionProvider", 0.2537))
    ):
        _write_evaluation(runs / f"eval-{number}", ap=ap, sha=sha, created=5 + number)
        _write_timing(runs / f"bench-{number}", sha=sha, runtime=runtime, created=7 + number)
    for position, count in enumerate((1, 2, 8)):
        record = make_record(
            "bench-train",
            10 + position,
            metrics={"images_per_second": 500.0 * count**0.95},
            subject=SSD,
            conditions=NPU | {"devices": count},
            series={"step_ms": [60.0 + 3 * math.sin(step) for step in range(50)]},
        )
        write_record(record, runs / f"scaling-{count}" / "record.json")
    return runs


def write_rich_page(folder: Path) -> dict[str, Path]:
    """Write a page with every section, and one of the published rows; return both by name."""
    pages = {name: folder / f"{name}.html" for name in ("rich", "published")}
    write_rich_records(folder)
    (folder / "empty").mkdir()
    before = Path.cwd()
    for page, place, records in ((pages["rich"], folder, ["runs"]),
                                 (pages["published"], folder / "empty", [])):  # fmt: skip
        os.chdir(place)
        try:
            report(records, compare="reference", reference_folder=REFERENCE, output=page,
                   output_format="csv")  # fmt: skip
        finally:
            os.chdir(before)
    return pages


def write_metrics(path: Path, *, num_steps: int = 600) -> None:
    """Write the curves of a training that has evaluated three times."""
    lines = []
    for step in range(10, num_steps + 1, 10):
        box, classification = 4 / math.sqrt(step), 30 / math.sqrt(step)
        values = {"loss": box + classification, "classification": classification, "box": box}
        lines.append({"step": step, **values, "lr": 0.02 * (1 - step / num_steps), "seconds": 1.0})
        if step % 200 == 0:
            lines.append({"event": "evaluated", "step": step, "ap": step / 5000, "ap50": 0.3})
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")


def build_analysis(*, num_images: int = 30, names: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    """Return what the evaluation itself says of results that are right in two of three cases."""
    random = np.random.default_rng(5)
    truth, found = [], []
    for image in range(1, num_images + 1):
        for box in range(4):
            x, y, side = (float(value) for value in random.uniform(20, 200, 3))
            label, is_hit = int(random.integers(len(names))), random.random() < 0.67
            guessed = label if is_hit else int(random.integers(len(names)))
            away = 0.0 if is_hit else side / 3
            score = random.uniform(0.4, 1) if is_hit else random.uniform(0, 1)
            about = {"image_id": image, "category_id": label + 1, "bbox": [x, y, side, side]}
            truth.append(about | {"id": 10 * image + box, "area": side * side, "iscrowd": 0})
            moved = {"category_id": guessed + 1, "bbox": [x + away, y, side, side]}
            found.append(about | moved | {"score": float(score)})
    ground_truth = {
        "images": [
            {"id": image, "width": 400, "height": 400} for image in range(1, num_images + 1)
        ],
        "categories": [{"id": place, "name": name} for place, name in enumerate(names, start=1)],
        "annotations": truth,
    }
    return analyse(match_results(read_columns(ground_truth, found)))


def _write_training(run: Path) -> None:
    record = make_record(
        "train",
        1,
        metrics={"ap": 0.2531, "images_per_second": 4620.5},
        subject=SSD | {"reference": ["seed-003"]},
        conditions=NPU | {"devices": 8, "epochs": 115.2, "seed": 3},
        notes=["unverified on Ascend hardware"],
    )
    write_record(record, run / "record.json")
    write_metrics(run / "metrics.jsonl")
    pictures = run / "predict-model-1"
    pictures.mkdir()
    for number in range(3):
        picture = Image.new("RGB", (900, 600 + 40 * number), (90, 60 + 50 * number, 120))
        picture.save(pictures / f"{number:06d}-photo.jpg")


def _write_evaluation(run: Path, *, ap: float, sha: str, created: int) -> None:
    record = make_record(
        "eval",
        created,
        metrics={"ap": ap, "ap_low": ap - 0.012, "ap_high": ap + 0.013, "ap50": 0.41},
        subject=SSD | {"checkpoint_sha256": sha},
        conditions=CPU | {"precision": "fp32", "analysis": ANALYSIS_PATH.as_posix()},
    )
    write_record(record, run / "record.json")
    write_analysis(build_analysis(), run / ANALYSIS_PATH)


def _write_timing(run: Path, *, sha: str, runtime: str, created: int) -> None:
    times = [20.0 + 1.7 * created + 6 * math.sin(call) ** 8 for call in range(200)]
    record = make_record(
        "bench-infer",
        created,
        metrics={"latency_ms_p50": float(np.median(times)), "images_per_second": 40.0 + created,
                 "images_per_second_low": 38.0, "images_per_second_high": 50.0},
        subject=SSD | {"checkpoint_sha256": sha},
        conditions=CPU | {"precision": "fp32", "runtime": runtime, "n": len(times), "warmup": 10},
        series={"latency_ms": times},
    )  # fmt: skip
    write_record(record, run / "record.json")
