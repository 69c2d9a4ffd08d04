"""The smallest graph, changed in every way that is hostile, and what is said of each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import TensorProto, helper

from tests.fuzz import tiny

Change = Callable[[onnx.ModelProto], None]


def write(path: Path, change: Change = lambda model: None) -> Path:
    model = tiny.build_graph()
    change(model)
    path.write_bytes(model.SerializeToString())
    return path


def put_outside(model: onnx.ModelProto) -> None:
    kernel = model.graph.initializer[0]
    kernel.ClearField("float_data")
    kernel.data_location = TensorProto.EXTERNAL
    kernel.external_data.add(key="location", value="weights.bin")


def insert_first(model: onnx.ModelProto, node: onnx.NodeProto) -> None:
    model.graph.node.insert(0, node)


def loop_for_ever(model: onnx.ModelProto) -> None:
    declare = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [declare("turn", TensorProto.INT64, []), declare("go", TensorProto.BOOL, [])],
        [declare("on", TensorProto.BOOL, [])],
    )
    model.graph.initializer.append(helper.make_tensor("yes", TensorProto.BOOL, [], [True]))
    insert_first(model, helper.make_node("Loop", ["", "yes"], [], body=body))


def nest_branches(model: onnx.ModelProto) -> None:
    graph = model.graph
    for _ in range(24):
        node = graph.node.add(op_type="If", input=["images"], output=["deeper"])
        graph = node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH).g


def call_twice_thirty_times(model: onnx.ModelProto) -> None:
    model.opset_import.add(domain="own", version=1)
    for level in range(30):
        function = model.functions.add(name=f"f{level}", domain="own", input=["x"], output=["y"])
        kind = ("Relu", "") if level == 0 else (f"f{level - 1}", "own")
        function.node.add(op_type=kind[0], domain=kind[1], input=["x"], output=["z"])
        function.node.add(op_type=kind[0], domain=kind[1], input=["z"], output=["y"])
    insert_first(model, helper.make_node("f29", ["images"], ["slow"], domain="own"))


def fill_a_terabyte(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("side", TensorProto.INT64, [1], [2**38]))
    insert_first(model, helper.make_node("Expand", ["zero", "side"], ["filled"]))


def fill_a_hidden_terabyte(model: onnx.ModelProto) -> None:
    """Ask for as much through a number that inference does not follow."""
    model.graph.initializer.append(helper.make_tensor("real", TensorProto.FLOAT, [1], [2.0**38]))
    insert_first(model, helper.make_node("Expand", ["zero", "side"], ["filled"]))
    insert_first(model, helper.make_node("Cast", ["real"], ["side"], to=TensorProto.INT64))


def fill_by_what_is_seen(model: onnx.ModelProto) -> None:
    insert_first(model, helper.make_node("Expand", ["zero", "sides"], ["filled"]))
    insert_first(model, helper.make_node("Reshape", ["side", "one"], ["sides"]))
    insert_first(model, helper.make_node("Cast", ["brightest"], ["side"], to=TensorProto.INT64))
    model.graph.initializer.append(helper.make_tensor("one", TensorProto.INT64, [1], [1]))
    insert_first(model, helper.make_node("ReduceMax", ["images"], ["brightest"], keepdims=0))


def select_from_too_many(model: onnx.ModelProto) -> None:
    """Have more boxes than a side can tell."""
    for name, shape in (("boxes", [1, 2**40, 4]), ("scores", [2**30, 2**30, 2**40])):
        numbers = helper.make_tensor(f"{name}_hw", TensorProto.INT64, [3], shape)
        model.graph.initializer.append(numbers)
    insert_first(model, helper.make_node("NonMaxSuppression", ["many_boxes", "many"], ["best"]))
    insert_first(model, helper.make_node("Expand", ["zero", "scores_hw"], ["many"]))
    insert_first(model, helper.make_node("Expand", ["zero", "boxes_hw"], ["many_boxes"]))


def mismatch(model: onnx.ModelProto) -> None:
    insert_first(model, helper.make_node("Add", ["images", "rows_four"], ["sum"]))
    numbers = helper.make_tensor("rows_four", TensorProto.FLOAT, [5], [0.0] * 5)
    model.graph.initializer.append(numbers)


def add_operator(op_type: str, *outputs: str, inputs: str = "images", **attributes: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        node = helper.make_node(op_type, inputs.split(), outputs, **attributes)
        insert_first(model, node)

    return change


def split_a_shape(model: onnx.ModelProto) -> None:
    insert_first(model, helper.make_node("Split", ["shape"], ["x", "y"], num_outputs=1))
    insert_first(model, helper.make_node("Shape", ["images"], ["shape"]))


def measure_no_frame(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("frame", TensorProto.INT64, [0], []))
    insert_first(model, helper.make_node("STFT", ["images", "frame", "", "frame"], ["x"]))


def add_tensor(kind: int, *dims: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer.add(name="strange", data_type=kind, dims=dims)

    return change


def declare_value(num_sides: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        value = helper.make_tensor_value_info("much", TensorProto.FLOAT, [2**62] * num_sides)
        model.graph.value_info.append(value)

    return change


# Each crashes ONNX's shape inference, has it raise what is no inference error, or never ends.
UNINFERABLE: dict[str, Change] = {
    "large axis": add_operator("LayerNormalization", *"xyz", inputs="images kernel", axis=2**31),
    "largest axis": add_operator(
        "LayerNormalization", *"xyz", inputs="images kernel", axis=2**63 - 1
    ),
    "parts": split_a_shape,
    "many parts": add_operator("Split", "x", "y", num_outputs=2**31),
    "no frame": measure_no_frame,
    "batch axes": add_operator("GatherND", "x", inputs="images rows", batch_dims=-2),
}


def declare(*dims: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].dims[:] = dims

    return change


def shorten_raw(model: onnx.ModelProto) -> None:
    kernel = model.graph.initializer[0]
    kernel.ClearField("float_data")
    kernel.raw_data = bytes(4 * 6 - 1)


def spoil(value: float) -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.initializer[0].float_data[2] = value

    return change


def rename_operator(op_type: str, domain: str = "") -> Change:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].op_type, model.graph.node[0].domain = op_type, domain

    return change


def import_opset(*versions: int) -> Change:
    def change(model: onnx.ModelProto) -> None:
        del model.opset_import[:]
        model.opset_import.extend(helper.make_opsetid("", version) for version in versions)

    return change


def set_ir(model: onnx.ModelProto) -> None:
    model.ir_version = 99


def store_sparse(model: onnx.ModelProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[2**40])
    sparse.values.CopyFrom(helper.make_tensor("much", TensorProto.FLOAT, [1], [1.0]))
    sparse.indices.CopyFrom(helper.make_tensor("at", TensorProto.INT64, [1], [0]))


def store_texts(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(helper.make_tensor("t", TensorProto.STRING, [1], [b"x"]))


def use_unmade(model: onnx.ModelProto) -> None:
    model.graph.node[0].input[0] = "nowhere"


def make_twice(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "logits"


HOSTILE: dict[str, tuple[Change, str]] = {
    "outside": (put_outside, "refers to tensors in other files"),
    "loop": (loop_for_ever, "operator 'Loop' has a graph inside"),
    "branches": (nest_branches, "operator 'If' has a graph inside"),
    "functions": (call_twice_thirty_times, "has functions or sparse tensors"),
    "sparse": (store_sparse, "has functions or sparse tensors"),
    "filled": (fill_a_terabyte, "value 'filled' has 274877906944 numbers"),
    "hidden": (fill_a_hidden_terabyte, "value 'filled' is of a size that cannot be told"),
    "seen": (fill_by_what_is_seen, "value 'filled' is of a size that cannot be told"),
    "selected": (select_from_too_many, "value 'many' has 1073741824x1073741824x1099511627776"),
    "mismatch": (mismatch, "the sizes of its values cannot be inferred"),
    "foreign": (
        add_operator("ConstantOfShape", "x", inputs="rows"),
        "operator 'ConstantOfShape' is none that this suite exports",
    ),
    "large axis": (UNINFERABLE["large axis"], "'LayerNormalization' is none that this suite"),
    "parts": (UNINFERABLE["parts"], "operator 'Split' is none that this suite exports"),
    "batch axes": (UNINFERABLE["batch axes"], "'GatherND' has attributes that no export has"),
    "sides": (declare(*[2**62] * 100_000), "'kernel' declares 100,000 sides, at most 16 are read"),
    "value of many sides": (declare_value(17), "declares a value of 17 sides; at most 16"),
    "terabyte": (declare(2**40, 3, 1, 1), "declares 1099511627776x3x1x1 numbers and holds 6"),
    "overflow": (declare(2**62, 2**62, 4, 4), "numbers and holds 6"),
    "negative": (declare(-2, -3, 1, 1), "declares -2x-3x1x1 numbers"),
    "short": (shorten_raw, "declares 2x3x1x1 numbers and holds 5.75"),
    "nan": (spoil(float("nan")), "'kernel' holds NaN or infinity"),
    "infinity": (spoil(float("inf")), "'kernel' holds NaN or infinity"),
    "texts": (store_texts, "'t' is of a kind that no graph of this suite has"),
    "operator": (rename_operator("Frobnicate"), "'Frobnicate' is none of ONNX opset 18"),
    "domain": (rename_operator("Conv", "evil\x1b[2J"), "of 'evil\\x1b[2J' is none of ONNX"),
    "old opset": (import_opset(7), "of opset 7 and IR 8, its metadata says 18"),
    "future opset": (import_opset(999), "of opset 999 and IR 8"),
    "no opset": (import_opset(), "of opset none"),
    "two opsets": (import_opset(18, 18), "of opset 18, 18"),
    "ir version": (set_ir, "IR 99, its metadata says 18 and 8"),
    "unmade": (use_unmade, "value 'nowhere' is used before it is made"),
    "made twice": (make_twice, "value 'logits' is made twice"),
}
