"""Damaged files are loaded, or refused in a sentence: nothing else comes out of any loader.

More than the few examples of every run: SUITE_FUZZ_EXAMPLES=20000 .venv/bin/pytest tests/fuzz
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.data.formats.annotated import Problem, refuse
from suite.data.formats.coco import read_coco
from suite.data.formats.voc_xml import WrongXml, parse_annotation
from suite.deploy.card import inspect
from suite.deploy.card_text import format_card
from suite.errors import SuiteError
from suite.evaluation.coco_files import load_ground_truth, load_results
from suite.graph_file import OUTPUT_NAMES
from suite.graph_session import open_graph
from suite.recipe import load_recipe
from tests.fuzz import tiny
from tests.fuzz.damage import damaged_bytes, damaged_json, damaged_message

CORPUS = Path(__file__).parent / "corpus"
GRAPH = tiny.build_graph()
GRAPH_BYTES = GRAPH.SerializeToString(deterministic=True)
SIDECAR = tiny.build_sidecar(hashlib.sha256(GRAPH_BYTES).hexdigest())
RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "demo.yaml"

some = settings(
    max_examples=int(os.environ.get("SUITE_FUZZ_EXAMPLES", "40")),
    deadline=None,
    database=None,
    derandomize="SUITE_FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@contextmanager
def refusing_in_a_sentence(*, lines: int = 1) -> Iterator[None]:
    """Let a refusal pass that a terminal can show."""
    try:
        yield
    except SuiteError as error:
        parts = str(error).split("\n")
        assert len(parts) <= lines
        assert all(part.isprintable() for part in parts)


def look_at(path: Path) -> None:
    """Do with a graph what the verbs do."""
    with refusing_in_a_sentence():
        card = inspect(path)
        json.dumps(card.as_dict())
        assert all(line.isprintable() for line in format_card(card).split("\n"))
        if card.kind == "graph":
            run = open_graph(path.read_bytes(), source=str(path))
            run(OUTPUT_NAMES, {"images": np.zeros((1, 3, 32, 32), np.float32)})


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*.onnx")), ids=lambda path: path.stem)
def test_what_once_broke_a_loader_is_refused(path: Path) -> None:
    with pytest.raises(SuiteError) as caught:
        inspect(path)
    assert str(caught.value).isprintable()


def test_the_readme_explains_every_file_of_the_corpus() -> None:
    text = (CORPUS / "README.md").read_text(encoding="utf-8")
    names = {path.name for path in CORPUS.iterdir()} - {"README.md"}
    assert names and all(f"`{name}`" in text for name in names)


@given(content=damaged_bytes(GRAPH_BYTES) | damaged_message(GRAPH))
@some
def test_graphs(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    look_at(path)


@given(
    content=damaged_bytes(json.dumps(SIDECAR).encode())
    | damaged_json(SIDECAR).map(json.dumps).map(str.encode)
)
@some
def test_sidecars(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(GRAPH_BYTES)
    Path(f"{path}.json").write_bytes(content)
    look_at(path)


@given(content=damaged_bytes(RECIPE.read_bytes()))
@some
def test_recipes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with refusing_in_a_sentence(lines=100):
        load_recipe(str(path))


@given(
    content=damaged_bytes(json.dumps(tiny.COCO).encode())
    | damaged_json(tiny.COCO).map(json.dumps).map(str.encode)
)
@some
def test_coco_annotations(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "instances.json"
    path.write_bytes(content)
    readers: list[Callable[[], Any]] = [
        lambda: list(read_coco(path, tmp_path).images()),
        lambda: load_ground_truth(path),
        lambda: load_results(path),
    ]
    for read in readers:
        with refusing_in_a_sentence():
            read()


@given(content=damaged_bytes(tiny.VOC.encode()))
@some
def test_voc_annotations(content: bytes) -> None:
    def report(problem: Problem) -> None:
        with refusing_in_a_sentence():
            refuse(problem)

    try:
        parse_annotation(Path("a.xml"), content, report)
    except WrongXml as error:
        assert error.remedy


@given(content=st.binary(max_size=64))
@some
def test_any_few_bytes(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    look_at(path)
