"""What is most probably guilty where a graph of another tool finds something else.

Other boxes, other labels, images prepared otherwise: each is tried until the two sides agree. What
leads from the input to the first convolution is looked at as well, as a wrong mean may be any.

Shape letters: N images, H W rows and columns of the input, D detections.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from suite.data.transforms import MEAN, STD
from suite.deploy.graph import cut_graph
from suite.deploy.pairing import Found
from suite.deploy.sides import generate_images
from suite.deploy.suspects import list_other_limits
from suite.deploy.swaps import find_fit, find_swap, tell_fit
from suite.deploy.third_party_pair import FEEDS, LABELS, Asked, Pair, Reading
from suite.errors import InputError
from suite.graph_file import INPUT_NAME
from suite.graph_session import open_graph
from suite.sizing import Sizing

# Share of detections without an equal that still counts as agreement.
_ENOUGH = 0.05
_MAX_SHOWN = 4

Boxes = NDArray[np.float32]


def _from_centres(boxes: Boxes) -> Boxes:
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def _from_corner(boxes: Boxes) -> Boxes:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)


_ORDERS: dict[str, Callable[[Boxes], Boxes]] = {
    "": lambda boxes: boxes,
    "y before x": lambda boxes: boxes[:, [1, 0, 3, 2]],
    "centre and size": _from_centres,
    "corner and size": _from_corner,
}
_UNITS = ("", "fractions of the input")


def find_cause_of_others(pair: Pair, tried: Sequence[Asked], reading: Reading) -> str:
    """Return a sentence on what makes a graph find something else; empty where nothing is known.

    Args:
        pair: the graph and its checkpoint.
        tried: what both find in some images.
        reading: how the graph is read.
    """
    asked = max(tried, key=lambda asked: sum(len(found[1]) for found in asked.ours))
    limits = pair.parameters
    return (
        _blame_labels(pair, asked, reading)
        or _blame_boxes(pair, asked)
        or _blame_threshold(pair, asked, reading)
        or _blame_swap(pair, asked)
        or _blame_preparation(pair, asked)
        or ", ".join(list_other_limits(pair.file.model.graph, limits))
    )


def _blame_labels(pair: Pair, asked: Asked, reading: Reading) -> str:
    """Compare boxes and scores alone; if they agree, tell how the labels differ."""
    theirs = asked.theirs[reading.feed]
    if pair.mismatch(asked, theirs, reading.labels) <= _ENOUGH:
        return ""
    if pair.mismatch(asked, theirs, None) > _ENOUGH:
        return ""
    found = _pair_labels(pair, asked, theirs)
    shifts = {theirs - ours for ours, theirs in found}
    if len(shifts) == 1:
        return f"the labels: boxes and scores are equal, its labels are {shifts.pop():+d}"
    shown = ", ".join(f"{theirs} for {ours}" for ours, theirs in found[:_MAX_SHOWN])
    return f"the labels: boxes and scores are equal, its classes are in another order ({shown})"


def _pair_labels(pair: Pair, asked: Asked, theirs: Sequence[Found]) -> list[tuple[int, int]]:
    """Return each of our labels with the one that stands at equal boxes and scores."""
    found: Counter[tuple[int, int]] = Counter()
    for one, raw in zip(asked.ours, theirs, strict=True):
        other = pair.keep(raw, LABELS[0], asked.pixels.shape[2:])
        rows, columns = np.nonzero(pair.find_equal(one, other, with_labels=False))
        found.update(zip(one[2][rows].tolist(), other[2][columns].tolist(), strict=True))
    # Two classes may score alike at one place; the rarer pairs are those.
    return sorted({ours: theirs for (ours, theirs), _ in reversed(found.most_common())}.items())


def _blame_boxes(pair: Pair, asked: Asked) -> str:
    height, width = asked.pixels.shape[2:]
    for feed, order, unit in product(FEEDS, _ORDERS, _UNITS):
        told = " in ".join(name for name in (order, unit) if name)
        if not told:
            continue
        edges = np.array([width, height, width, height] if unit else [1] * 4, np.float32)
        theirs = [
            (_ORDERS[order](boxes) * edges, scores, labels)
            for boxes, scores, labels in asked.theirs[feed]
        ]
        if _best_mismatch(pair, asked, theirs) <= _ENOUGH:
            return f"the boxes: it agrees when they are read as {told}"
    return ""


def _best_mismatch(pair: Pair, asked: Asked, theirs: Sequence[Found]) -> float:
    return min(pair.mismatch(asked, theirs, labels) for labels in LABELS)


def _blame_threshold(pair: Pair, asked: Asked, reading: Reading) -> str:
    """Look whether the graph only leaves out what scores little."""
    theirs = asked.theirs[reading.feed]
    scores = [found[1][found[1] > 0] for found in theirs]
    lowest = min((float(one.min()) for one in scores if len(one)), default=np.inf)
    if not pair.parameters.score_threshold < lowest < 1:
        return ""
    ours = [
        (boxes_xyxy[scores >= lowest], scores[scores >= lowest], labels[scores >= lowest])
        for boxes_xyxy, scores, labels in asked.ours
    ]
    fewer = Asked(asked.pixels, ours, asked.theirs)
    if pair.mismatch(fewer, theirs, reading.labels) > _ENOUGH:
        return ""
    return f"a threshold or limit of its own: it leaves out what scores below {lowest:.3g}"


def _blame_swap(pair: Pair, asked: Asked) -> str:
    """Feed the image with most in it otherwise: there are many ways, and a network is slow."""
    row = max(range(len(asked.ours)), key=lambda row: len(asked.ours[row][1]))
    one = Asked(asked.pixels[row : row + 1], asked.ours[row : row + 1], {})

    def measure(pixels: Tensor) -> float:
        return _best_mismatch(pair, one, pair.ask(pixels))

    return find_swap(one.pixels, measure, enough=_ENOUGH)


def _blame_preparation(pair: Pair, asked: Asked) -> str:
    """Tell what its first convolution is given, where that is not what the checkpoint's is."""
    image_hw = asked.pixels.shape[2], asked.pixels.shape[3]
    images = generate_images(image_hw)
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.from_numpy(value).float()[:, None, None] for value in (MEAN, STD))
    expected = (pixels - mean) / std
    height, width = image_hw
    same = Sizing(keep_ratio=False, short_side=height, long_side=width, canvases=(image_hw,))
    inputs = [_find_network_input(pair, feed(expected)) for feed in FEEDS.values()]
    fits = [find_fit(images, value, same) for value in inputs if value is not None]
    if not fits:
        return ""
    best = min(fits, key=lambda fit: (fit.normalisation is None, fit.distance))
    return "" if best.is_right else tell_fit(best)


def _find_network_input(pair: Pair, pixels: Tensor) -> NDArray[np.float32] | None:
    """Return what the first convolution is given; None where that is the input, or unknown."""
    model, layout = pair.file.model, pair.file.layout
    name = next((node.input[0] for node in model.graph.node if node.op_type == "Conv"), INPUT_NAME)
    if name == INPUT_NAME:
        return None
    try:
        part = cut_graph(model, inputs=[INPUT_NAME], outputs=[name])
        run = open_graph(part.SerializeToString(), source=pair.source)
        found = [
            run([name], {INPUT_NAME: pixel if layout.bare else pixel[None]})[0]
            for pixel in pixels.numpy()
        ]
    except InputError:  # what cannot be cut tells nothing
        return None
    whole = np.concatenate([one.reshape(-1, *one.shape[-3:]) for one in found])
    return whole if whole.shape == tuple(pixels.shape) else None
