"""The shapes of a graph's values for images of a known size, as ONNX infers them.

ONNX's inference is C++ that some operators crash or keep busy for ever: LayerNormalization with a
large axis, Split into more parts than it makes, GatherND with batch axes. So it runs in this
process only on what our own graphs consist of, on which it was fuzzed, and in a child on all else.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Collection, Sequence

import onnx

# What exports of this suite consist of, in every precision, for every target and opset. Each export
# is read back, so that one with another operator does not stay unseen.
OWN_OPERATORS = frozenset(
    {
        "Abs", "Add", "And", "Cast", "Clip", "Concat", "Conv", "DequantizeLinear", "Div", "Equal",
        "Exp", "Expand", "Floor", "Gather", "GatherElements", "GatherND", "Greater",
        "GreaterOrEqual", "Less", "MatMul", "Max", "MaxPool", "Min", "Mod", "Mul",
        "NonMaxSuppression", "QuantizeLinear", "Range", "Reciprocal", "ReduceMax", "ReduceMin",
        "ReduceSum", "Relu", "Reshape", "Resize", "ScatterND", "Shape", "Sigmoid", "Slice",
        "Softmax", "Squeeze", "Sub", "Tile", "TopK", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip
OWN_OPSETS = range(16, 21)
# Theirs are axes, kernels, paddings and kinds of numbers, from -1 to 11.
_ATTRIBUTE_NUMBERS = range(-16, 17)
_ATTRIBUTE_KINDS = (
    onnx.AttributeProto.FLOAT,
    onnx.AttributeProto.INT,
    onnx.AttributeProto.INTS,
    onnx.AttributeProto.STRING,
)
# Detectors have 5; products of more sides take for ever, too.
MAX_RANK = 16
# Inference looks at the numbers of small tensors only, which are sizes and axes.
MAX_KEPT_NUMBERS = 1024

_STANDARD_DOMAINS = ("", "ai.onnx")
# What onnx raises on graphs that it cannot make sense of; STFT without a length raises IndexError.
_INFERENCE_ERRORS = (
    onnx.shape_inference.InferenceError,
    RuntimeError,
    ValueError,
    IndexError,
    MemoryError,
)
_CHILD_SECONDS = 60  # of the clock; most of what it takes is the import of onnx
_CHILD = f"""
import json, resource, sys
import onnx
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_CPU, (20, 20))
resource.setrlimit(resource.RLIMIT_AS, (2**32, 2**32))
graph = onnx.shape_inference.infer_shapes(sys.stdin.buffer.read(), data_prop=True).graph
shapes = {{}}
for value in [*graph.input, *graph.value_info, *graph.output]:
    dims = value.type.tensor_type.shape.dim
    if len(dims) <= {MAX_RANK}:
        shapes[value.name] = [dim.dim_value for dim in dims]
print(json.dumps(shapes))
"""

Shape = tuple[int, ...]


class NoShapes(Exception):
    """ONNX cannot infer anything about a graph; the message says why, in its words."""


def infer_shapes(
    model: onnx.ModelProto, image_hw: tuple[int, int], *, images: Collection[str]
) -> dict[str, Shape]:
    """Return the shapes of the values and stored tensors; those that are not known are left out.

    They are those of one image, or of as many as a graph takes where that number is fixed.

    Args:
        model: of sound tensors, any operators and without functions: a few of these can stand for
            billions of nodes.
        image_hw: height and width of `images`.
        images: names of values [N,3,H,W] or [N,H,W,3] that are images.

    Raises:
        NoShapes: it has functions, or the inference fails, dies or takes too long.
    """
    if model.functions:
        raise NoShapes("it has functions")
    light = strip(model, image_hw, images=images)
    found = _infer_here(light) if _is_own_graph(model) else _infer_elsewhere(light)
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return stored | found


def is_own(node: onnx.NodeProto) -> bool:
    """Whether it is an operator that this suite exports, with attributes like those there."""
    return (
        node.domain in _STANDARD_DOMAINS
        and node.op_type in OWN_OPERATORS
        and all(
            entry.type in _ATTRIBUTE_KINDS
            and all(number in _ATTRIBUTE_NUMBERS for number in (entry.i, *entry.ints))
            and (entry.name != "batch_dims" or entry.i == 0)
            for entry in node.attribute
        )
    )


def run_inference(light: onnx.ModelProto, *, strict: bool = False) -> onnx.GraphProto:
    """Return a graph with what ONNX infers, in this process.

    Args:
        light: of operators of this suite.
        strict: whether one operator that makes no sense is an error, not only unknown.

    Raises:
        NoShapes: the inference fails.
    """
    try:
        return onnx.shape_inference.infer_shapes(
            light, data_prop=True, strict_mode=strict, check_type=strict
        ).graph
    except _INFERENCE_ERRORS as error:
        raise NoShapes(str(error) or type(error).__name__) from error


def read_shapes(graph: onnx.GraphProto) -> dict[str, Shape]:
    """Return the shapes of which every side is known, and one at least."""
    values = [*graph.input, *graph.value_info, *graph.output]
    return _keep_known({value.name: [dim.dim_value for dim in _dims(value)] for value in values})


def strip(
    model: onnx.ModelProto, image_hw: tuple[int, int], *, images: Collection[str]
) -> onnx.ModelProto:
    """Return a graph for images of a size, without large tensors and the shapes it declares."""
    light = _without_weights(model)
    # Declared only: what a graph resizes to does not depend on the size of the image.
    light.graph.value_info.extend(v for v in model.graph.value_info if v.name in images)
    for value in [*light.graph.value_info, *light.graph.input]:
        if value.name in images:
            _fix_sides(value.type.tensor_type, image_hw)
    return light


def find_fed_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller has to give; old files list their weights among them."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def takes_channels_last(dims: Sequence[int]) -> bool:
    """Whether four sides are [N,H,W,3], not [N,3,H,W]."""
    return dims[3] == 3 and dims[1] != 3


def _is_own_graph(model: onnx.ModelProto) -> bool:
    opsets = [entry.version for entry in model.opset_import if entry.domain in _STANDARD_DOMAINS]
    return (
        len(opsets) == 1
        and opsets[0] in OWN_OPSETS
        and not model.functions
        and all(map(is_own, model.graph.node))
    )


def _infer_here(light: onnx.ModelProto) -> dict[str, Shape]:
    return read_shapes(run_inference(light))


def _infer_elsewhere(light: onnx.ModelProto) -> dict[str, Shape]:
    """Infer in a process that may die of it; `-P`: no module of the working folder is imported."""
    try:
        done = subprocess.run(  # noqa: S603 - no part of the command comes from outside
            [sys.executable, "-P", "-c", _CHILD],
            input=light.SerializeToString(),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # A thread pool of numpy would take of the memory that is allowed.
            env=os.environ | {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
            timeout=_CHILD_SECONDS,
            check=True,
        )
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise NoShapes("ONNX's inference dies of it or does not end") from error
    return _keep_known(json.loads(done.stdout))


def _keep_known(shapes: dict[str, list[int]]) -> dict[str, Shape]:
    return {
        name: tuple(dims)
        for name, dims in shapes.items()
        if 0 < len(dims) <= MAX_RANK and all(side > 0 for side in dims)
    }


def _dims(value: onnx.ValueInfoProto) -> Sequence[onnx.TensorShapeProto.Dimension]:
    dims: Sequence[onnx.TensorShapeProto.Dimension] = value.type.tensor_type.shape.dim
    return dims


def _fix_sides(tensor: onnx.TypeProto.Tensor, image_hw: tuple[int, int]) -> None:
    """Set height and width, and the batch to one where it is free."""
    dims = tensor.shape.dim
    if len(dims) != 4:
        return
    last = takes_channels_last([dim.dim_value for dim in dims])
    for place, side in zip((1, 2) if last else (2, 3), image_hw, strict=True):
        dims[place].dim_value = side
    dims[0].dim_value = max(dims[0].dim_value, 1)


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = "shapes"
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(onnx.ValueInfoProto(name=v.name) for v in model.graph.output)
    light.graph.node.extend(model.graph.node)
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= MAX_KEPT_NUMBERS:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light
