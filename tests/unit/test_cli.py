"""The command line: help, exit codes, errors as one sentence, what is imported when."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from suite.cli import cli
from suite.records import load_record

Run = Callable[..., Any]


def _commands(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [path]
    if isinstance(command, click.Group):
        for name in sorted(command.commands):
            found += _commands(command.commands[name], (*path, name))
    return found


def test_help_texts(run_suite: Run, golden: Callable[[str, str], None]) -> None:
    pages = [run_suite(*path, "--help") for path in _commands(cli)]
    assert all(page.code == 0 for page in pages)
    golden("help.txt", "\n".join(page.stdout for page in pages))


def test_every_verb_of_the_road_is_there() -> None:
    assert set(cli.commands) == {
        "train", "eval", "export", "verify", "predict", "bench", "data", "recipes", "report",
        "doctor", "demo", "completion", "weights", "launch", "rank-table", "resume-check",
        "repeat",
        "inspect", "quantize",
    }  # fmt: skip


def test_help_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'onnx', 'PIL', 'tabulate'}"
    program = f"import sys, suite.cli; print(sorted({heavy} & set(sys.modules)))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "suite", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("suite, version ")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script(run_suite: Run, shell: str) -> None:
    done = run_suite("completion", shell)
    assert done.code == 0
    assert "_SUITE_COMPLETE" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["trian"], 2, "No such command"),
        (["train", "ssd_r34_8x"], 2, "ssd_r34_8p"),
        (["train", "demo", "--set", "schedule.epoch=2"], 2, "schedule.epochs"),
        (["train", "demo", "--device", "cpu", "--data", "nowhere"], 1, "nowhere"),
        (["train", "ssd_r34_8p", "--device", "cpu"], 1, "data/coco2017: no such folder"),
        (["train", "ssd_r34_8p", "--device", "cpu", "--devices", "1"], 1, "data/coco2017"),
        (["eval"], 2, "--results"),
        (["eval", "absent.pth"], 1, "absent.pth"),
        (["eval", "absent.onnx", "--recipe", "demo"], 1, "absent.onnx"),
        (["export", "absent.pth"], 1, "absent.pth"),
        (["predict", "absent.pth", "nothing*.jpg"], 2, "nothing*.jpg"),
        (["recipes", "show", "ssd_r34_bccd", "--lr-at", "3"], 2, "--dataset-size"),
        (["report", "--compare", "everything"], 2, "reference"),
        (["doctor", "--device", "npu"], 4, "npu-detection-suite[npu]"),
    ],
)
def test_mistakes_end_in_one_sentence(
    run_suite: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_suite(*arguments)
    assert (done.code, words in done.stderr) == (code, True), done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["recipes/ssd_r34_8p.yaml", "ssd_r34_1p"])
def test_without_npus_two_lines_say_what_is_missing_and_what_runs_elsewhere(
    run_suite: Run, repository: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    monkeypatch.chdir(repository)
    done = run_suite("train", recipe)
    missing, elsewhere = done.stderr.splitlines()
    assert done.code == 4
    assert 'pip install "npu-detection-suite[npu]"' in missing
    assert elsewhere == "to run it elsewhere: --devices 1 --device cpu"


def test_a_moved_recipe_says_what_changed(run_suite: Run) -> None:
    done = run_suite("recipes", "show", "ssd_r34_8p", "--device", "cpu", "--devices", "1")
    assert "global batch 256 -> 32, peak learning rate 0.024 -> 0.003" in done.stderr
    assert "global_batch: 32" in done.stdout and "precision: bf16" in done.stdout


def test_a_note_tells_the_learning_rate_that_flags_ask_for(run_suite: Run) -> None:
    words = ("recipes", "show", "demo", "--devices", "2", "--set", "schedule.base_lr=0.5")
    assert "peak learning rate 0.5 -> 1 (" in run_suite(*words).stderr


class _Payload:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("verb", ["export", "eval", "predict"])
def test_a_pickle_payload_never_runs(run_suite: Run, tmp_path: Path, verb: str) -> None:
    hostile, proof = tmp_path / "hostile.pth", tmp_path / "ran"
    hostile.write_bytes(pickle.dumps(_Payload(proof)))
    image = tmp_path / "x.jpg"
    image.write_bytes(b"")
    done = run_suite(verb, str(hostile), *([str(image)] if verb == "predict" else []))
    assert done.code == 1
    assert not proof.exists()


def test_published_learning_rate(run_suite: Run) -> None:
    assert run_suite("recipes", "show", "ssd_r34_8p", "--lr-at", "3099").stdout == "0.02377195\n"


def test_recipes_verbs(run_suite: Run, tmp_path: Path) -> None:
    rows = json.loads(run_suite("recipes", "list", "--json").stdout)["recipes"]
    names = [row["name"] for row in rows]
    assert {"ssd_r34_8p", "ssd_r34_1p", "ssd_r34_bccd", "demo"} <= set(names)
    target = tmp_path / "mine.yaml"
    assert run_suite("recipes", "copy", "ssd_r34_8p", str(target)).code == 0
    assert run_suite("recipes", "copy", "ssd_r34_8p", str(target)).code == 2
    assert run_suite("recipes", "validate", str(target)).code == 0
    difference = run_suite("recipes", "diff", "ssd_r34_8p", "ssd_r34_1p").stdout
    assert "global_batch" in difference
    target.write_text(target.read_text().replace("num_classes", "num_clases"))
    wrong = run_suite("recipes", "validate", str(target))
    assert (wrong.code, "did you mean 'num_classes'" in wrong.stderr) == (2, True)


def test_report_without_records_prints_the_reference(
    run_suite: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run_suite("report", "--compare", "reference")
    assert done.code == 0
    assert "4474.27" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_doctor(run_suite: Run) -> None:
    done = run_suite("doctor", "--device", "cpu", "--json")
    assert done.code == 0
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["torch"]["status"] in {"ok", "warning"}


def test_saved_results_are_judged(
    run_suite: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    truth = {
        "images": [{"id": 7, "width": 50, "height": 40, "file_name": "a.jpg"}],
        "categories": [{"id": 3, "name": "cell"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 3, "bbox": [5, 5, 20, 20], "area": 400}
        ],
    }
    found = [{"image_id": 7, "category_id": 3, "bbox": [5, 5, 20, 20], "score": 0.9}]
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    (tmp_path / "found.json").write_text(json.dumps(found))
    done = run_suite(
        "eval", "--results", tmp_path / "found.json",
        "--annotations", tmp_path / "truth.json", "--json",
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert answer["schema"] == "suite.eval/1"
    assert (answer["ap"], answer["ar1"]) == (pytest.approx(1), pytest.approx(1))
    assert load_record(Path(answer["folder"], "record.json"))["metrics"]["ap"] == answer["ap"]
    assert run_suite("report").code == 0


def test_published_evaluation(
    run_suite: Run, shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = shared / "data" / "eval_golden"
    done = run_suite(
        "eval", "--results", folder / "instances_val2014_fakebbox100_results.json",
        "--annotations", folder / "instances_val2014_100.json", "--json",
    )  # fmt: skip
    answer = json.loads(done.stdout)
    assert [round(answer[name], 3) for name in ("ap", "ap50", "ap75")] == [0.505, 0.697, 0.573]


def test_data_that_does_not_fit_the_recipe_is_an_error(run_suite: Run, tmp_path: Path) -> None:
    assert run_suite("data", "synth", tmp_path / "data", "--train", "4", "--val", "1").code == 0
    where = ["--data", str(tmp_path / "data")]
    fits = run_suite("data", "check", "demo", *where)
    assert fits.code == 0, fits.stderr
    done = run_suite("data", "check", "demo", *where, "--set", "detector.num_classes=80", "--json")
    assert done.code == 3
    rules = {finding["rule"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert rules["class_count"]["severity"] == "error"
