"""Which convolutions stay float: ranked by what each does to the heads, then searched by AP.

Shape letters: N images, A anchors, K logits per anchor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import onnx
from numpy.typing import NDArray

from suite.deploy.graph import cut_graph
from suite.deploy.quantization import Feed, Quantise
from suite.graph_file import HEAD_NAMES, INPUT_NAME
from suite.graph_session import open_graph

Block = tuple[str, ...]
_NOTHING = 1e-12


def find_fewest_float(
    num_blocks: int, holds: Callable[[int], bool], *, max_evaluations: int
) -> int | None:
    """Return the smallest number of float blocks found that keeps the budget.

    Tries none, then 1, 2, 4 and so on until the budget holds, then halves the gap below. Assumes
    that more float blocks never make it worse; where that is not so, the answer still holds.

    Args:
        num_blocks: of which at least one is to be quantised.
        holds: judges a number of float blocks; costs an evaluation each.
        max_evaluations: at most so many.

    Returns:
        The number, or None where the budget held nowhere.
    """
    evaluations = 0
    fails, number = -1, 0
    while evaluations < max_evaluations:
        evaluations += 1
        if holds(number):
            break
        if number == num_blocks - 1:
            return None
        fails, number = number, min(max(1, 2 * number), num_blocks - 1)
    else:
        return None
    best = number
    while evaluations < max_evaluations and best - fails > 1:
        evaluations += 1
        middle = (fails + best) // 2
        fails, best = (fails, middle) if holds(middle) else (middle, best)
    return best


def rank_blocks(
    model: onnx.ModelProto,
    blocks: Sequence[Block],
    *,
    quantise: Quantise,
    feeds: Sequence[Feed],
    background: bool,
    progress: Callable[[int], None],
) -> list[Block]:
    """Order blocks of convolutions by how much the heads change where one of them is quantised.

    Args:
        model: the fp32 graph.
        blocks: of it; see `list_blocks`.
        quantise: makes its quantised graphs.
        feeds: images to compare on.
        background: whether class 0 is the background of a softmax; otherwise scores are sigmoids.
        progress: called with the number of blocks done.

    Returns:
        The blocks, that of the largest change first.
    """
    expected = _run_heads(model, feeds)
    names = {name for block in blocks for name in block}
    changes = []
    for done, block in enumerate(blocks, start=1):
        found = _run_heads(quantise(names.difference(block)), feeds)
        changes.append(measure_change(expected, found, background=background))
        progress(done)
    order = sorted(range(len(blocks)), key=lambda place: -changes[place])
    return [blocks[place] for place in order]


Heads = list[tuple[NDArray[np.float32], NDArray[np.float32]]]


def measure_change(expected: Heads, found: Heads, *, background: bool) -> float:
    """Return how far heads (logits [N,A,K], deltas [N,A,4]) are from what they should be.

    It is the relative squared error of scores plus that of deltas, each anchor's deltas weighted by
    its best score: noise where a detector sees nothing costs no AP.
    """
    sums = np.zeros(4)
    for (logits, deltas), (other_logits, other_deltas) in zip(expected, found, strict=True):
        scores, other_scores = (_score(part, background) for part in (logits, other_logits))
        weights = scores.max(axis=-1, keepdims=True)
        sums += (
            np.square(other_scores - scores).sum(),
            np.square(scores).sum(),
            (weights * np.square(other_deltas - deltas)).sum(),
            (weights * np.square(deltas)).sum(),
        )
    return float(sums[0] / max(sums[1], _NOTHING) + sums[2] / max(sums[3], _NOTHING))


def _score(logits: NDArray[np.float32], background: bool) -> NDArray[np.float64]:
    wide = logits.astype(np.float64)
    if not background:
        return 1 / (1 + np.exp(-wide))
    powers = np.exp(wide - wide.max(axis=-1, keepdims=True))
    scores: NDArray[np.float64] = (powers / powers.sum(axis=-1, keepdims=True))[..., 1:]
    return scores


def _run_heads(model: onnx.ModelProto, feeds: Sequence[Feed]) -> Heads:
    part = cut_graph(model, inputs=[INPUT_NAME], outputs=HEAD_NAMES)
    run = open_graph(part.SerializeToString(), source="the graph's heads")
    return [(logits, deltas) for logits, deltas in (run(HEAD_NAMES, feed) for feed in feeds)]
