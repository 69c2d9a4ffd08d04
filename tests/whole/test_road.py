"""The whole road by the command line: data, train, export, verify, eval, predict, bench, report."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

Run = Callable[..., Any]

SHORT = (
    "detector.width=0.125", "schedule.epochs=2", "schedule.warmup_epochs=0", "global_batch=4",
    "log_every_steps=2", "precision=fp32", "data.workers=0",
)  # fmt: skip

RETINANET = (
    "detector.name=retinanet_r18_fpn", "detector.frozen_stages=1",
    "resize.mode=pad", "resize.short_side=96", "resize.long_side=160",
)  # fmt: skip


@pytest.fixture
def road(run_suite: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Run a verb in an empty folder; it must succeed; returns its stdout."""
    monkeypatch.chdir(tmp_path)

    def walk(*arguments: str) -> str:
        done = run_suite(*arguments)
        assert done.code == 0, done.stderr
        return str(done.stdout)

    return walk


@pytest.mark.parametrize(
    "detector",
    # The exporter takes its time over free sizes; their graph has tests of its own.
    [
        pytest.param((), id="ssd_r34"),
        pytest.param(RETINANET, id="retinanet_r18_fpn", marks=pytest.mark.slow),
    ],
)
def test_from_recipe_to_report(
    road: Callable[..., str], run_suite: Run, detector: tuple[str, ...]
) -> None:
    road("data", "synth", "data", "--train", "24", "--val", "6", "--seed", "3")
    road("data", "check", "demo", "--data", "data")
    flags = [word for assignment in SHORT + detector for word in ("--set", assignment)]
    run = Path(road("train", "demo", "--data", "data", *flags).strip())
    checkpoint = max((run / "checkpoints").glob("*.pth"))

    road("export", str(checkpoint), "--images", "data/val/000001.jpg")
    graph = checkpoint.with_suffix(".onnx")
    sidecar = json.loads(graph.with_name(graph.name + ".json").read_text())
    inside = {entry.key for entry in onnx.load(graph).metadata_props}
    assert set(sidecar) - inside == {"sha256", "parity"}
    again = run_suite("export", str(checkpoint))
    assert (again.code, "--force" in again.stderr) == (2, True)

    parity = json.loads(road("verify", str(graph), "--against", str(checkpoint), "--json"))
    assert parity["parity"]["unpaired"] == parity["parity"]["nms_differences"] == 0

    figures = [
        json.loads(road("eval", str(model), "--device", "cpu", "--json"))
        for model in (checkpoint, graph)
    ]
    assert figures[0]["ap"] == pytest.approx(figures[1]["ap"], abs=1e-3)
    published = json.loads(road("eval", str(checkpoint), "--as-published", "--json"))
    assert published["ap"] == pytest.approx(figures[0]["ap"], abs=0.02)

    road("predict", str(graph), "data/val")
    road("bench", "infer", str(graph), "--runs", "2", "--warmup", "1")
    table = road("report", "--compare", "reference")
    assert run.name in table
    records = [path.parent.name for path in Path("runs").rglob("record.json")]
    stem = checkpoint.stem
    assert set(records) == {
        f"bench-infer-{stem}-1", f"eval-{stem}-1", f"eval-{stem}-2", f"eval-{stem}-3",
        run.name, f"export-{stem}-1", f"verify-{stem}-1",
    }  # fmt: skip


def test_another_checkpoint_is_told_apart(
    road: Callable[..., str], run_suite: Run, tmp_path: Path
) -> None:
    road("data", "synth", "data", "--train", "8", "--val", "2")
    flags = [word for assignment in SHORT for word in ("--set", assignment)]
    checkpoints = []
    for seed in ("0", "1"):
        run = road("train", "demo", "--data", "data", *flags, "--set", f"seed={seed}", "--no-eval")
        checkpoints.append(max((Path(run.strip()) / "checkpoints").glob("*.pth")))
    road("export", str(checkpoints[0]))
    graph = checkpoints[0].with_suffix(".onnx")
    done = run_suite("verify", str(graph), "--against", str(checkpoints[1]))
    assert done.code == 3
    assert "heads differ" in done.stderr and "checkpoint_sha256" in done.stderr
