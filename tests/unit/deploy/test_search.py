"""Which convolutions stay float: the search over their number, and the order they are tried in."""

from __future__ import annotations

import copy
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
import pytest

from suite.deploy.quantization import list_blocks, prepare_feeds
from suite.deploy.search import find_fewest_float, measure_change, rank_blocks
from suite.graph_file import load_graph


class Judge:
    """Holds from a number of float blocks on, and remembers what it was asked."""

    def __init__(self, first_good: int) -> None:
        self.first_good = first_good
        self.asked: list[int] = []

    def __call__(self, number: int) -> bool:
        self.asked.append(number)
        return number >= self.first_good


@pytest.mark.parametrize("num_blocks", [2, 3, 13, 51, 78])
def test_the_fewest_are_found_in_few_evaluations(num_blocks: int) -> None:
    for first_good in range(num_blocks):
        judge = Judge(first_good)
        assert find_fewest_float(num_blocks, judge, max_evaluations=100) == first_good
        assert len(set(judge.asked)) == len(judge.asked) <= 2 * np.log2(num_blocks) + 2
        assert max(judge.asked) < num_blocks


def test_all_int8_is_tried_first_and_enough() -> None:
    judge = Judge(0)
    assert find_fewest_float(51, judge, max_evaluations=12) == 0
    assert judge.asked == [0]


def test_a_budget_that_never_holds_has_no_answer() -> None:
    judge = Judge(1000)
    assert find_fewest_float(51, judge, max_evaluations=100) is None
    assert judge.asked[-1] == 50  # one convolution is quantised always


@pytest.mark.parametrize("most", range(1, 12))
def test_the_number_of_evaluations_is_bounded_and_the_answer_was_judged(most: int) -> None:
    for first_good in range(51):
        judge = Judge(first_good)
        found = find_fewest_float(51, judge, max_evaluations=most)
        assert len(judge.asked) <= most
        assert found is None or (found >= first_good and found in judge.asked)


def test_an_answer_holds_even_where_more_float_is_worse() -> None:
    good = {4, 9, 16}
    asked: list[int] = []

    def holds(number: int) -> bool:
        asked.append(number)
        return number in good

    assert find_fewest_float(40, holds, max_evaluations=20) == 4


def make_heads(scale: float, where: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of two anchors and two classes, the first fires; noise of one anchor's deltas."""
    logits = np.array([[[3.0, -6.0], [-8.0, -9.0]]], np.float32)
    deltas = np.ones((1, 2, 4), np.float32)
    deltas[0, where] += scale
    return logits, deltas


def test_change_counts_where_something_is_seen() -> None:
    exact = [make_heads(0, 0)]
    assert measure_change(exact, exact, background=False) == 0
    fires = measure_change(exact, [make_heads(0.1, 0)], background=False)
    silent = measure_change(exact, [make_heads(0.1, 1)], background=False)
    assert fires == pytest.approx(0.01, rel=1e-2)  # 0.1 squared, of deltas of 1
    assert silent < fires / 1000


def test_change_of_scores_is_that_of_a_softmax_where_there_is_a_background() -> None:
    deltas = np.zeros((1, 1, 4), np.float32)
    logits = np.log(np.array([[[0.5, 0.3, 0.2]]], np.float32))
    other = np.log(np.array([[[0.5, 0.4, 0.1]]], np.float32))
    change = measure_change([(logits, deltas)], [(other, deltas)], background=True)
    assert change == pytest.approx((0.1**2 + 0.1**2) / (0.3**2 + 0.2**2), rel=1e-4)


@pytest.mark.parametrize("worst", [0, 5])  # those between lead nowhere in an untrained network
def test_the_block_that_harms_most_comes_first(
    worst: int, small_graph: Path, small_photos: list[Path]
) -> None:
    graph = load_graph(small_graph)
    blocks = list_blocks(graph.model)[::9]

    def quantise(float_nodes: Collection[str]) -> onnx.ModelProto:
        """Scale the weights of the only block that is not float."""
        model = copy.deepcopy(graph.model)
        ((place, block),) = [(i, b) for i, b in enumerate(blocks) if not set(b) & set(float_nodes)]
        (name,) = {n.input[1] for n in model.graph.node if n.name in block}
        (weight,) = (w for w in model.graph.initializer if w.name == name)
        factor = np.float32(1.5 if place == worst else 1.0001)
        weight.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(weight) * factor))
        weight.name = name
        return model

    done: list[int] = []
    ranked = rank_blocks(
        graph.model,
        blocks,
        quantise=quantise,
        feeds=list(prepare_feeds(small_photos, graph.metadata)),
        background=True,
        progress=done.append,
    )
    assert done == list(range(1, len(blocks) + 1))
    assert sorted(ranked) == sorted(blocks)
    assert ranked[0] == blocks[worst]
