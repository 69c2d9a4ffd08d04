"""What COCO's twelve numbers cost by each referee, on a generated set the size of COCO's val2017.

    python tests/benchmarks/evaluation_speed.py --images 5000 --detections 500000

Each referee judges in a process of its own. "load" reads and checks both JSON files, "judge" goes
from the list of results to the twelve numbers; their sum is the whole call. The twelve numbers have
to be equal, or it fails. CPU time is of all threads.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from suite.evaluation.coco import evaluate_coco
from suite.evaluation.coco_files import load_ground_truth, load_results
from suite.evaluation.referees import REFEREES

_SIDE = 640.0
_BOXES_AN_IMAGE = 7.36  # COCO val2017


def generate_set(
    *, num_images: int, num_classes: int, num_detections: int, decimals: int, seed: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Generate a ground truth and results: a fifth near true boxes, the rest anywhere.

    Args:
        decimals: of the scores; few make many of them equal.
    """
    generator = np.random.default_rng(seed)
    num_true = round(num_images * _BOXES_AN_IMAGE)
    image, label = generator.integers(0, [[num_images], [num_classes]], (2, num_true))
    boxes = _draw_boxes(generator, num_true)
    crowd = generator.random(num_true) < 0.012
    num_near = min(num_detections // 5, 3 * num_true)
    pick = generator.integers(0, num_true, num_near)
    near = boxes[pick] + generator.normal(0, 0.08, (num_near, 4)) * boxes[pick][:, [2, 3, 2, 3]]
    near[:, 2:] = near[:, 2:].clip(1)
    num_far = num_detections - num_near
    other = generator.integers(0, [[num_images], [num_classes]], (2, num_far))
    confused = generator.integers(0, num_classes, num_near)
    near_label = np.where(generator.random(num_near) < 0.85, label[pick], confused)
    scores = [generator.beta(4, 2, num_near), generator.beta(1, 6, num_far)]
    results = _to_results(
        np.concatenate([image[pick], other[0]]),
        np.concatenate([near_label, other[1]]),
        np.concatenate([near, _draw_boxes(generator, num_far)]),
        np.concatenate(scores).round(decimals),
    )
    return _to_truth(num_images, num_classes, (image, label, boxes, crowd)), results


def _draw_boxes(generator: np.random.Generator, num: int) -> np.ndarray:
    sides = np.exp(generator.normal(3.8, 1.0, (num, 2))).clip(2, 500)
    corners = generator.random((num, 2)) * (_SIDE - sides)
    return np.concatenate([corners, sides], axis=1).round(2)


def _to_truth(num_images: int, num_classes: int, columns: tuple[np.ndarray, ...]) -> dict[str, Any]:
    entries = zip(*(column.tolist() for column in columns), strict=True)
    return {
        "images": [{"id": number} for number in range(num_images)],
        "categories": [{"id": number, "name": f"class {number}"} for number in range(num_classes)],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": label,
                "bbox": box,
                "area": round(0.7 * box[2] * box[3], 2),
                "iscrowd": int(crowd),
            }
            for number, (image, label, box, crowd) in enumerate(entries)
        ],
    }


def _to_results(
    image: np.ndarray, label: np.ndarray, boxes: np.ndarray, score: np.ndarray
) -> list[dict[str, Any]]:
    order = np.argsort(image, kind="stable")
    columns = (image[order], label[order], boxes[order].round(3), score[order])
    return [
        {"image_id": image_id, "category_id": category_id, "bbox": box, "score": number}
        for image_id, category_id, box, number in zip(*(c.tolist() for c in columns), strict=True)
    ]


def _judge(folder: Path, referee: str) -> dict[str, Any]:
    marks = [(time.perf_counter(), time.process_time())]
    truth = load_ground_truth(folder / "truth.json")
    results = load_results(folder / "results.json")
    marks.append((time.perf_counter(), time.process_time()))
    evaluation = evaluate_coco(truth, results, referee=referee)
    marks.append((time.perf_counter(), time.process_time()))
    wall, cpu = np.diff(marks, axis=0).T.tolist()
    return {
        "referee": evaluation.referee,
        "load_s": wall[0],
        "judge_s": wall[1],
        "load_cpu_s": cpu[0],
        "judge_cpu_s": cpu[1],
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "numbers": evaluation.numbers(),
    }


@click.command()
@click.option("--images", default=5_000, show_default=True)
@click.option("--classes", default=80, show_default=True)
@click.option("--detections", default=500_000, show_default=True)
@click.option("--decimals", default=6, show_default=True, help="Of the scores.")
@click.option("--seed", default=0, show_default=True)
@click.option("--judge", type=(click.Path(path_type=Path), str), hidden=True)
def main(
    images: int,
    classes: int,
    detections: int,
    decimals: int,
    seed: int,
    judge: tuple[Path, str] | None,
) -> None:
    """Print what each referee took, and the ratios, as one JSON line."""
    if judge is not None:
        print(json.dumps(_judge(*judge)))
        return
    truth, results = generate_set(
        num_images=images,
        num_classes=classes,
        num_detections=detections,
        decimals=decimals,
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "truth.json").write_text(json.dumps(truth))
        Path(folder, "results.json").write_text(json.dumps(results, separators=(",", ":")))
        del truth, results
        print(json.dumps(_compare(folder)))


def _compare(folder: str) -> dict[str, Any]:
    found = {
        name: json.loads(
            subprocess.check_output([sys.executable, __file__, "--judge", folder, name])
        )
        for name in REFEREES
    }
    slow, fast = (found[name] for name in REFEREES)
    if slow["numbers"] != fast["numbers"]:
        raise SystemExit(f"not equal: {slow['numbers']} and {fast['numbers']}")
    ratios = {
        f"whole_call{unit}": (slow[f"load{unit}_s"] + slow[f"judge{unit}_s"])
        / (fast[f"load{unit}_s"] + fast[f"judge{unit}_s"])
        for unit in ("", "_cpu")
    }
    ratios["judge"] = slow["judge_s"] / fast["judge_s"]
    ratios["judge_cpu"] = slow["judge_cpu_s"] / fast["judge_cpu_s"]
    return {**found, "ratios": ratios}


if __name__ == "__main__":
    main()
