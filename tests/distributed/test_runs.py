"""Whole runs of two ranks, and what they leave."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from suite.records import load_record


def test_a_retinanet_with_bad_images_and_a_cache_in_memory(
    flags: Any, start: Any, data: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "data"
    shutil.copytree(data, damaged)
    images = sorted((damaged / "train").iterdir())[2:12:4]
    for image in images:
        image.write_bytes(image.read_bytes()[:200])
    skip = {"data__on_bad_sample": "skip", "data__bad_sample_limit": "0.5"}
    words = flags(retinanet=True, data=damaged, data__cache="ram", devices="2", **skip)
    done = start("train", *words, "--output", str(tmp_path / "runs")).finish()
    assert done.code == 0, done
    run = tmp_path / "runs" / "demo-1"
    assert done.stdout == f"{run}\n"
    bad = load_record(run / "record.json")["conditions"]["bad_samples"]
    assert len(bad) == 3
    lines = done.stderr.splitlines()
    for entry in bad:
        told = f"image {entry['image_id']} is replaced: {entry['reason']}"
        assert lines.count(told) == 1
    (cache,) = re.findall(r"decoding into a cache: 16 images, .* decoded, in (.+)", done.stderr)
    assert not Path(cache).exists()
    assert json.loads((run / "eval" / "coco_instances_results.json").read_text()) is not None
    evaluated = [
        line for line in (run / "metrics.jsonl").read_text().splitlines() if "ap50" in line
    ]
    assert len(evaluated) == 1


def test_training_speed_is_measured_over_all_ranks(flags: Any, start: Any, tmp_path: Path) -> None:
    words = [*flags(), "--devices", "2", "--output", str(tmp_path), "--json"]
    done = start("bench", "train", *words, "--steps", "2", "--warmup", "1").finish()
    assert done.code == 0, done
    record = json.loads(done.stdout)
    (path,) = tmp_path.glob("bench-train-demo*/*.json")
    assert json.loads(path.read_text()) == record
    assert record["conditions"]["scope"] == "global"
    assert record["conditions"]["devices"] == 2
    assert record["conditions"]["global_batch"] == 4
    metrics = record["metrics"]  # the median of two is their mean
    assert metrics["images_per_second"] == pytest.approx(4e3 / metrics["step_ms_p50"])


@pytest.mark.slow
def test_averaged_weights_of_two_ranks_are_resumed_exactly(
    flags: Any, start: Any, tmp_path: Path
) -> None:
    words = flags(optimizer__ema_decay="0.9", schedule__epochs="3", schedule__decay_epochs="3")
    arguments = ["--devices", "2", "--steps", "8", "--output", str(tmp_path), "--seed", "1"]
    done = start("resume-check", *words, *arguments).finish()
    assert done.code == 0, done
    assert re.match(r"resume: EXACT \(8 steps, killed before step \d, ", done.stdout), done
