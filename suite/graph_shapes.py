"""The shapes of a graph's values for one image of a known size, as ONNX infers them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import onnx

# Inference looks at the numbers of small tensors only, which are sizes and axes.
_MAX_KEPT_NUMBERS = 1024
# What onnx raises on graphs that it cannot make sense of.
_INFERENCE_ERRORS = (onnx.shape_inference.InferenceError, RuntimeError, ValueError)

Shape = tuple[int, ...]


def infer_shapes(
    model: onnx.ModelProto, image_hw: tuple[int, int], *, images: Collection[str]
) -> dict[str, Shape]:
    """Return the shapes of the values and stored tensors; those that are not known are left out.

    Functions are not entered: a few can stand for billions of nodes.

    Args:
        model: its small tensors are sound.
        image_hw: height and width of `images`.
        images: names of values [N,3,H,W] or [N,H,W,3] that are images.
    """
    if model.functions:
        return {}
    light = _without_weights(model)
    # Declared only: what a graph resizes to does not depend on the size of the image.
    light.graph.value_info.extend(v for v in model.graph.value_info if v.name in images)
    for value in [*light.graph.value_info, *light.graph.input]:
        if value.name in images:
            _fix_sides(value.type.tensor_type, image_hw)
    try:
        inferred = onnx.shape_inference.infer_shapes(light, data_prop=True).graph
    except _INFERENCE_ERRORS:
        return {}
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        dims = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if dims and all(side > 0 for side in dims):
            shapes[value.name] = tuple(dims)
    return shapes


def find_fed_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Return the inputs that a caller has to give; old files list their weights among them."""
    stored = {tensor.name for tensor in graph.initializer}
    return [value for value in graph.input if value.name not in stored]


def takes_channels_last(dims: Sequence[int]) -> bool:
    """Whether four sides are [N,H,W,3], not [N,3,H,W]."""
    return dims[3] == 3 and dims[1] != 3


def _fix_sides(tensor: onnx.TypeProto.Tensor, image_hw: tuple[int, int]) -> None:
    """Set the batch to one, and height and width."""
    dims = tensor.shape.dim
    if len(dims) != 4:
        return
    last = takes_channels_last([dim.dim_value for dim in dims])
    for place, side in zip((0, 1, 2) if last else (0, 2, 3), (1, *image_hw), strict=True):
        dims[place].dim_value = side


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the graph with its large tensors as inputs, and without the shapes it declares."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    light.graph.name = "shapes"
    light.graph.input.extend(model.graph.input)
    light.graph.output.extend(onnx.ValueInfoProto(name=v.name) for v in model.graph.output)
    light.graph.node.extend(model.graph.node)
    declared = {value.name for value in model.graph.input}
    for tensor in model.graph.initializer:
        if math.prod(tensor.dims) <= _MAX_KEPT_NUMBERS:
            light.graph.initializer.append(tensor)
        elif tensor.name not in declared:
            light.graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return light
