"""Greedy suppression: against a plain loop, and bit for bit against ONNX Runtime's operator."""

from __future__ import annotations

import math

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import models.postprocess
from models.postprocess import suppress

Box = tuple[float, float, float, float]


def overlap(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in (first, second)]
    return width * height / (sum(areas) - width * height)


def keep_greedily(
    boxes_xyxy: list[Box], scores: list[float], *, iou: float, score: float
) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(scores)), key=lambda place: -scores[place]):
        rivals = [overlap(boxes_xyxy[i], boxes_xyxy[j]) for j in kept]
        if scores[i] > score and not any(value > iou for value in rivals):
            kept.append(i)
    return kept


# Whole pixels and sixteenths: exact in float32, full of ties, touching and empty boxes.
whole = st.integers(0, 16)
drawn_boxes = st.tuples(whole, whole, whole, whole).map(
    lambda c: (min(c[0], c[2]), min(c[1], c[3]), max(c[0], c[2]), max(c[1], c[3]))
)
drawn_image = st.lists(
    st.tuples(drawn_boxes, st.integers(0, 16).map(lambda number: number / 16)),
    min_size=1,
    max_size=24,
)


def suppress_image(
    image: list[tuple[Box, float]], *, iou: float, score: float, max_dets: int
) -> list[int]:
    boxes_xyxy = torch.tensor([[box for box, _ in image]]).float()
    scores = torch.tensor([[value for _, value in image]])
    kept_scores, index = suppress(boxes_xyxy, scores, iou, score, max_dets)
    kept: list[int] = index[kept_scores > 0].tolist()
    assert kept_scores[kept_scores > 0].tolist() == scores[0, kept].tolist()
    return kept


@settings(deadline=None, max_examples=150)
@given(
    drawn_image,
    st.sampled_from([0.0, 0.25, 0.3, 0.5, 0.75]),
    st.sampled_from([0.0, 0.25]),
    st.integers(1, 24),
)
def test_suppression_equals_the_greedy_loop(
    image: list[tuple[Box, float]], iou: float, score: float, max_dets: int
) -> None:
    boxes_xyxy, scores = [box for box, _ in image], [value for _, value in image]
    expected = keep_greedily(boxes_xyxy, scores, iou=iou, score=score)
    max_dets = min(max_dets, len(image))
    assert suppress_image(image, iou=iou, score=score, max_dets=max_dets) == expected[:max_dets]


@settings(deadline=None, max_examples=50)
@given(drawn_image)
def test_suppressing_twice_changes_nothing(image: list[tuple[Box, float]]) -> None:
    kept = suppress_image(image, iou=0.5, score=0.0, max_dets=len(image))
    survivors = [image[place] for place in kept]
    if survivors:
        again = suppress_image(survivors, iou=0.5, score=0.0, max_dets=len(survivors))
        assert again == list(range(len(survivors)))


@settings(deadline=None, max_examples=40)
@given(st.lists(drawn_image, min_size=2, max_size=4))
def test_an_image_alone_equals_itself_in_a_batch(images: list[list[tuple[Box, float]]]) -> None:
    size = max(len(image) for image in images)
    boxes_xyxy = torch.zeros(len(images), size, 4)
    scores = torch.zeros(len(images), size)
    for n, image in enumerate(images):
        boxes_xyxy[n, : len(image)] = torch.tensor([box for box, _ in image])
        scores[n, : len(image)] = torch.tensor([value for _, value in image])
    kept_scores, index = suppress(boxes_xyxy, scores, 0.5, 0.05, size)
    for n, image in enumerate(images):
        alone = suppress_image(image, iou=0.5, score=0.05, max_dets=len(image))
        assert index[n][kept_scores[n] > 0].tolist() == alone


def test_a_long_chain_is_resolved_exactly() -> None:
    # Each box suppresses the next, so every second one stays: as many rounds as boxes.
    chain = [((float(step), 0.0, step + 2.9, 10.0), 1 - step / 400) for step in range(300)]
    kept = suppress_image(chain, iou=0.45, score=0.0, max_dets=300)
    assert kept == list(range(0, 300, 2))


@settings(deadline=None, max_examples=100)
@given(
    st.lists(drawn_image, min_size=1, max_size=3),
    st.sampled_from([0.25, 0.5]),
    st.integers(1, 24),
    st.integers(1, 9),
)
def test_blocks_of_any_size_equal_the_greedy_loop(
    images: list[list[tuple[Box, float]]], iou: float, max_dets: int, block: int
) -> None:
    size = max(len(image) for image in images)
    boxes_xyxy, scores = torch.zeros(len(images), size, 4), torch.zeros(len(images), size)
    for n, image in enumerate(images):
        boxes_xyxy[n, : len(image)] = torch.tensor([box for box, _ in image])
        scores[n, : len(image)] = torch.tensor([value for _, value in image])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models.postprocess, "_BLOCK", block)
        kept_scores, index = suppress(boxes_xyxy, scores, iou, 0.05, min(max_dets, size))
    for n, image in enumerate(images):
        boxes, values = [box for box, _ in image], [value for _, value in image]
        expected = keep_greedily(boxes, values, iou=iou, score=0.05)[:max_dets]
        assert index[n][kept_scores[n] > 0].tolist() == expected


def chain(size: int, *, first: float = 0.0) -> list[tuple[Box, float]]:
    """Return boxes of falling score, each of which suppresses the next and no other."""
    return [((first + 3 * n, 0.0, first + 3 * n + 8.5, 10.0), 1 - n / 1000) for n in range(size)]


def grid(size: int) -> list[tuple[Box, float]]:
    """Return boxes apart from each other."""
    return [((20.0 * n, 0.0, 20.0 * n + 8, 10.0), 1 - n / 1000) for n in range(size)]


@pytest.mark.parametrize("max_dets", [1, 128, 129, 256, 257, 400, 700])
def test_chains_reach_from_block_to_block(max_dets: int) -> None:
    # Its places 255 and 256 are neighbours in different blocks.
    image = chain(700)
    kept = suppress_image(image, iou=0.45, score=0.0, max_dets=max_dets)
    assert kept == list(range(0, 700, 2))[:max_dets]
    shifted = [((0.0, 20.0, 9.0, 30.0), 1.0), *image]
    kept = suppress_image(shifted, iou=0.45, score=0.0, max_dets=max_dets)
    assert kept == [0, *range(1, 701, 2)][:max_dets]


def test_an_image_that_has_enough_early_waits_for_the_other() -> None:
    # The first image is full after its first block; the second has one survivor in each of its
    # first two, and two more in the third.
    pile = [((0.0, 0.0, 9.0, 10.0), 1 - n / 1000) for n in range(600)]
    for place in (300, 520, 599):
        pile[place] = ((20.0 * place, 0.0, 20.0 * place + 9, 10.0), 1 - place / 1000)
    images = [grid(600), pile]
    boxes_xyxy = torch.tensor([[box for box, _ in image] for image in images])
    scores = torch.tensor([[value for _, value in image] for image in images])
    for max_dets in (2, 3, 4, 50):
        kept_scores, index = suppress(boxes_xyxy, scores, 0.5, 0.05, max_dets)
        for row, image in enumerate(images):
            boxes, values = [box for box, _ in image], [value for _, value in image]
            wanted = keep_greedily(boxes, values, iou=0.5, score=0.05)[:max_dets]
            assert index[row][kept_scores[row] > 0].tolist() == wanted


def test_what_no_longer_fits_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    suppresses = models.postprocess._suppresses

    def record(first: Tensor, second: Tensor, iou: float) -> Tensor:
        compared.append((first.shape[1], second.shape[1]))
        return suppresses(first, second, iou)

    monkeypatch.setattr(models.postprocess, "_suppresses", record)
    assert suppress_image(grid(900), iou=0.5, score=0.0, max_dets=100) == list(range(100))
    assert compared == [(0, 256), (256, 256)]
    compared.clear()
    assert suppress_image(grid(900), iou=0.5, score=0.0, max_dets=300) == list(range(300))
    assert compared == [(0, 256), (256, 256), (256, 256), (256, 256)]


def test_no_competitor_at_all() -> None:
    kept_scores, index = suppress(torch.rand(2, 5, 4), torch.full((2, 5), 0.05), 0.5, 0.05, 3)
    assert kept_scores.tolist() == [[0, 0, 0]] * 2
    assert index.shape == (2, 3)


def test_scores_that_are_nan_do_not_displace_others() -> None:
    scores = torch.tensor([[math.nan, 0.3, math.nan, 0.6]])
    boxes_xyxy = torch.tensor([[[0.0, 0, 9, 9], [20, 0, 29, 9], [0, 0, 9, 9], [40, 0, 49, 9]]])
    kept_scores, index = suppress(boxes_xyxy, scores, 0.5, 0.05, 4)
    assert index[0, :2].tolist() == [3, 1]
    assert kept_scores[0].tolist() == pytest.approx([0.6, 0.3, 0, 0])


@pytest.fixture(scope="module")
def onnx_suppression() -> onnxruntime.InferenceSession:
    """ONNX's own operator, thresholds as inputs."""
    real, whole_number = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64
    declare = onnx.helper.make_tensor_value_info
    inputs = [
        declare("boxes", real, [1, None, 4]),
        declare("scores", real, [1, 1, None]),
        declare("limit", whole_number, [1]),
        declare("iou", real, [1]),
        declare("score", real, [1]),
    ]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("NonMaxSuppression", [i.name for i in inputs], ["selected"])],
        "suppression",
        inputs,
        [declare("selected", whole_number, [None, 3])],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)])
    model.ir_version = 8
    return onnxruntime.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )


def crowd(seed: int, *, size: int, rounded: bool, corners_in_order: bool) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(1, size, 2, generator=generator) * 60
    sides = torch.rand(1, size, 2, generator=generator) * 60 - (0 if corners_in_order else 30)
    boxes_xyxy = torch.cat([corner, corner + sides], dim=-1)
    scores = torch.rand(1, size, generator=generator)
    return (boxes_xyxy.round(), (scores * 16).round() / 16) if rounded else (boxes_xyxy, scores)


@pytest.mark.parametrize("rounded", [False, True])
@pytest.mark.parametrize("corners_in_order", [True, False])
@pytest.mark.parametrize(("size", "iou"), [(30, 0.5), (400, 0.5), (400, 0.3), (1000, 0.7)])
def test_suppression_equals_onnx_runtimes(
    onnx_suppression: onnxruntime.InferenceSession,
    rounded: bool,
    corners_in_order: bool,
    size: int,
    iou: float,
) -> None:
    for seed in range(4):
        boxes_xyxy, scores = crowd(
            seed, size=size, rounded=rounded, corners_in_order=corners_in_order
        )
        (selected,) = onnx_suppression.run(
            None,
            {
                "boxes": boxes_xyxy.numpy(),
                "scores": scores[:, None].numpy(),
                "limit": np.array([size]),
                "iou": np.array([iou], dtype=np.float32),
                "score": np.array([0.05], dtype=np.float32),
            },
        )
        kept_scores, index = suppress(boxes_xyxy, scores, iou, 0.05, size)
        assert index[kept_scores > 0].tolist() == selected[:, 2].tolist()


def test_operator_declares_what_it_returns() -> None:
    boxes_xyxy, scores = crowd(0, size=12, rounded=False, corners_in_order=True)
    torch.library.opcheck(
        torch.ops.suite.suppress.default,
        (boxes_xyxy, scores, 0.5, 0.05, 7),
        test_utils=("test_schema", "test_faketensor"),
    )
