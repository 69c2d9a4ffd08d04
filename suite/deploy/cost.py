"""What one image costs: floating-point operations and parameters, of a detector or of a graph.

A multiplication and its addition are two operations, as in torch. In a graph Conv, ConvTranspose,
Gemm and MatMul are counted; everything else is a few percent of a detector.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
import torch
from torch.utils.flop_counter import FlopCounterMode

from suite.checkpoint import build_recipe_detector
from suite.graph_file import IMAGE_NAMES, NETWORK_INPUT_NAME
from suite.graph_shapes import NoShapes, Shape, find_fed_inputs, infer_shapes
from suite.recipe import Recipe

_PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
# Between a stored weight and the operator that uses it, in graphs of int8 and fp16.
_TRANSPARENT = ("DequantizeLinear", "Cast", "Identity", "Transpose")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a network takes.

    Attributes:
        parameters: of a detector all that are trained, frozen ones included; of a graph the
            numbers that its products use, batch norms folded.
        flops: of one image; None where a size is not known.
        image_hw: height and width of the input they are counted at.
    """

    parameters: int
    flops: int | None
    image_hw: tuple[int, int] | None


def count_detector(recipe: Recipe, image_hw: tuple[int, int]) -> Cost:
    """Count a recipe's detector at one input size; nothing is computed."""
    with torch.device("meta"), torch.no_grad():
        detector = build_recipe_detector(recipe).eval()
        with FlopCounterMode(display=False) as counter:
            detector(torch.empty(1, 3, *image_hw))
    parameters = sum(parameter.numel() for parameter in detector.parameters())
    return Cost(parameters=parameters, flops=counter.get_total_flops(), image_hw=image_hw)


def count_graph(model: onnx.ModelProto, image_hw: tuple[int, int] | None) -> Cost:
    """Count a graph whose tensors are sound.

    Args:
        model: with any operators; what stands in branches and functions is not counted.
        image_hw: of the network's input; None where it is not known.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    products = list(_list_products(graph, makers))
    weights = {tensor.name: tensor for tensor in graph.initializer}
    used = {_find_origin(name, makers) for node in products for name in node.input[1:3]}
    parameters = sum(math.prod(weights[name].dims) for name in used & weights.keys())
    flops = _count_flops(model, products, image_hw) if image_hw else None
    return Cost(parameters=parameters, flops=flops, image_hw=image_hw if flops else None)


def _list_products(
    graph: onnx.GraphProto, makers: Mapping[str, onnx.NodeProto]
) -> Iterator[onnx.NodeProto]:
    """Yield what is counted: not the products by which a graph resizes images itself."""
    before: set[str] = set()
    pending = [NETWORK_INPUT_NAME]
    while pending:
        node = makers.get(pending.pop())
        if node is not None and node.output[0] not in before:
            before.update(node.output)
            pending += node.input
    for node in graph.node:
        if node.op_type in _PRODUCTS and before.isdisjoint(node.output):
            yield node


def _find_origin(name: str, makers: Mapping[str, onnx.NodeProto]) -> str:
    """Return the stored tensor that a value is a mere form of; the value itself if none."""
    seen = set()
    while (
        name in makers
        and makers[name].op_type in _TRANSPARENT
        and makers[name].input
        and name not in seen
    ):
        seen.add(name)
        name = makers[name].input[0]
    return name


def _count_flops(
    model: onnx.ModelProto, products: list[onnx.NodeProto], image_hw: tuple[int, int]
) -> int | None:
    first = (value.name for value in find_fed_inputs(model.graph)[:1])
    try:
        shapes = infer_shapes(model, image_hw, images={*IMAGE_NAMES, *first})
    except NoShapes:
        return None
    total, batch = 0, _count_images(model.graph, shapes)
    for node in products:
        sides = [shapes.get(name) for name in (*node.input[:2], *node.output[:1])]
        if len(sides) != 3 or not all(sides):
            return None
        left, right, out = (side for side in sides if side)
        total += 2 * _multiplications(node.op_type, left, right, out)
    return total // batch


def _count_images(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> int:
    """Return how many images the shapes are those of."""
    first = next((shapes.get(value.name, ()) for value in find_fed_inputs(graph)), ())
    return first[0] if len(first) == 4 else 1


def _multiplications(op_type: str, left: Shape, right: Shape, out: Shape) -> int:
    if op_type == "Conv":  # each output number is a product with one kernel [in/groups, h, w]
        return math.prod(out) * math.prod(right[1:])
    if op_type == "ConvTranspose":  # each input number is spread by one [out/groups, h, w]
        return math.prod(left) * math.prod(right[1:])
    shared = math.prod(left) * math.prod(right) // max(math.prod(out), 1)
    if op_type == "Gemm":  # [m,k] x [k,n], either transposed: m k * k n / m n = k * k
        return math.prod(out) * math.isqrt(shared)
    return math.prod(out) * left[-1]
