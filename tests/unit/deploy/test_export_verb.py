"""The command line of `export`: what cannot be is said before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from suite.graph_file import load_graph

RunExport = Callable[..., Any]


@pytest.fixture
def folder(tmp_path: Path, small_checkpoint: Path) -> Path:
    """A folder of its own with the small checkpoint in it, and onnxruntime-web in another."""
    shutil.copy(small_checkpoint, tmp_path / "small.pth")
    (tmp_path / "npm").mkdir()
    for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (tmp_path / "npm" / name).touch()
    return tmp_path


@pytest.fixture
def run_export(folder: Path, run_suite: Callable[..., Any]) -> RunExport:
    """Export the checkpoint; `web` and `npm` stand for folders."""

    def run(*words: str) -> Any:
        places = {word: str(folder / word) for word in ("web", "npm", "web/model.onnx", "absent")}
        more = [places.get(word, word) for word in words]
        return run_suite(
            "export", str(folder / "small.pth"), "--records", str(folder / "runs"), *more
        )

    return run


PAGE = ("--web", "web", "--web-runtime", "npm")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (
            ("--target", "cann", "--batch", "1", "--print-atc", "foo"),
            2,
            "'foo': no Ascend; give its name, such as Ascend310P3",
        ),
        (("--nms", "none", *PAGE), 2, "a page needs boxes, this graph has raw heads"),
        (("--batch", "2", *PAGE), 2, "a page looks at one picture at a time"),
        (("--output", "web/model.onnx", *PAGE), 2, "is inside of --web"),
        (("--web-runtime", "npm"), 2, "--web-runtime is for the page of --web DIR"),
        (("--web", "web", "--web-runtime", "absent"), 1, "give the unpacked npm package"),
        (("--web", "web"), 4, "npm is not installed; install Node.js, or unpack onnxruntime-web"),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_written(
    run_export: RunExport,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    monkeypatch.setenv("PATH", str(folder))  # without npm

    def build_graph(*_: object) -> None:
        raise AssertionError("a graph is built")

    monkeypatch.setattr("suite.deploy.export.build_graph", build_graph)
    done = run_export(*words)
    assert told in done.stderr
    assert (done.code, done.stdout) == (code, "")
    assert {path.name for path in folder.iterdir()} == {"small.pth", "npm"}


def test_json_is_one_document_with_the_command_in_it(run_export: RunExport, folder: Path) -> None:
    words = ("--target", "cann", "--batch", "1", "--print-atc", "Ascend310P3")
    done = run_export(*words, "--json")
    assert done.code == 0, done.stderr
    document = json.loads(done.stdout)
    assert document["schema"] == "suite.verify/1"
    lines = document["handover"].splitlines()
    assert lines[0] == "# CANN: unverified on hardware"
    assert lines[1].split()[0] == "atc"
    assert f"--model={folder / 'small.onnx'}" in lines[1]
    assert load_graph(folder / "small.onnx").metadata.target == "cann"
    plain = run_export(*words, "--force")
    assert plain.stdout.endswith(f"{folder / 'small.onnx'}\n{document['handover']}")
