"""ONNX Runtime or OpenVINO on exactly the device that was asked for, failures as sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from suite.device import Kind, device_problem
from suite.errors import InputError, MissingEnvironment, UsageError
from suite.graph_metadata import Precision

# Output names and inputs by name to outputs in the order of the names.
RunGraph = Callable[[Sequence[str], Mapping[str, NDArray[Any]]], list[NDArray[Any]]]

PROVIDERS: dict[Kind, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "npu": "CANNExecutionProvider",
}
# ONNX Runtime prints what it also raises; nothing below "fatal" is news.
_LOG_FATAL = 4


@dataclass(frozen=True, kw_only=True)
class GraphRuntime:
    """What runs a graph.

    Attributes:
        name: ONNX Runtime, or OpenVINO, which is for the CPU.
        precision: that OpenVINO computes in; a graph's own numbers stay fp32 outside of it.
        threads: CPU threads within one operator; None lets the runtime choose.
    """

    name: Literal["ort", "openvino"] = "ort"
    precision: Literal["fp32", "bf16"] = "fp32"
    threads: int | None = None

    def describe(self, kind: Kind) -> str:
        """Return what records call it."""
        return f"onnxruntime {PROVIDERS[kind]}" if self.name == "ort" else "openvino CPU"


ORT = GraphRuntime()


def open_graph(
    content: bytes,
    *,
    source: str,
    kind: Kind = "cpu",
    runtime: GraphRuntime = ORT,
    graph_precision: Precision = "fp32",
) -> RunGraph:
    """Open a graph in a runtime, on exactly the device that was asked for.

    Args:
        content: a serialised model that refers to no other file.
        source: how messages name it.
        kind: of device; decides the execution provider.
        runtime: what runs it.
        graph_precision: what the graph says of itself; decides what an Ascend may round.

    Raises:
        InputError: the runtime refuses the graph, now or when it runs.
        MissingEnvironment: the runtime or its execution provider is absent or does not start.
        UsageError: the runtime has no such device, or cannot compute in this precision.
    """
    if runtime.name == "openvino":
        return _open_in_openvino(content, source=source, kind=kind, runtime=runtime)
    if runtime.precision != "fp32":
        raise UsageError(
            f"--precision {runtime.precision}: ONNX Runtime computes a graph as it is; "
            "try --runtime openvino"
        )
    provider = PROVIDERS[kind], provider_options(kind, graph_precision)
    return _open_in_onnxruntime(content, source=source, provider=provider, threads=runtime.threads)


def provider_options(kind: Kind, graph_precision: Precision) -> dict[str, str]:
    """Return what ONNX Runtime's provider for a device is told; CANN's is unverified on Ascend."""
    if kind != "npu":
        return {}
    return {"enable_cann_graph": "1", "precision_mode": cann_precision_mode(graph_precision)}


def cann_precision_mode(graph_precision: Precision) -> str:
    """Return how CANN, its compiler too, may round the numbers of a graph."""
    # Left alone CANN computes all of it in fp16, the boxes too. Some of its chips convolve in no
    # other, so what is fp32 becomes fp16 there, and only there.
    return "must_keep_origin_dtype" if graph_precision == "fp16" else "allow_fp32_to_fp16"


def _open_in_onnxruntime(
    content: bytes, *, source: str, provider: tuple[str, dict[str, str]], threads: int | None
) -> RunGraph:
    import onnxruntime

    name = provider[0]
    available = onnxruntime.get_available_providers()
    if name not in available:
        raise MissingEnvironment(
            f"this onnxruntime has no {name} (it has {', '.join(available)}); "
            "install the onnxruntime build for this device or pass --device cpu"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    # Its threads would go on turning for a while after a run, on the cores that the next image or
    # another session needs.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    errors = _runtime_errors()
    try:
        # Without enable_fallback=0 it would go on with another provider, here and in any later run.
        session = onnxruntime.InferenceSession(
            content, options, providers=[provider], enable_fallback=0
        )
    except errors as error:
        raise InputError(f"{source}: ONNX Runtime refuses it ({_first_line(error)})") from error
    if session.get_providers()[0] != name:
        raise MissingEnvironment(
            f"asked for {name}, ONNX Runtime fell back to {session.get_providers()[0]}; "
            "check its driver and libraries or pass --device cpu"
        )

    def run(names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            return list(session.run(list(names), dict(inputs)))
        except errors as error:
            raise InputError(f"{source}: fails when it runs ({_first_line(error)})") from error

    return run


def _open_in_openvino(
    content: bytes, *, source: str, kind: Kind, runtime: GraphRuntime
) -> RunGraph:
    try:
        import openvino
    except ImportError as error:
        raise MissingEnvironment(
            "OpenVINO is not installed; run: pip install 'npu-detection-suite[openvino]'"
        ) from error
    if kind != "cpu":
        raise UsageError(f"--device {kind}: OpenVINO runs on the CPU here; pass --device cpu")
    core = openvino.Core()
    if runtime.precision == "bf16" and "BF16" not in core.get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise UsageError("--precision bf16: this CPU has no bf16 instructions; leave it out")
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if runtime.precision == "bf16" else "f32",
        "PERFORMANCE_HINT": "LATENCY",
    }
    if runtime.threads is not None:
        settings["INFERENCE_NUM_THREADS"] = runtime.threads
    try:
        compiled = core.compile_model(core.read_model(content, b""), "CPU", settings)
    except RuntimeError as error:
        raise InputError(f"{source}: OpenVINO refuses it ({_first_line(error)})") from error

    def run(names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            found = compiled(dict(inputs))
        except RuntimeError as error:
            raise InputError(f"{source}: fails when it runs ({_first_line(error)})") from error
        # Copies: the next run writes to the same memory.
        return [np.array(found[compiled.output(name)]) for name in names]

    return run


def best_kind(*, strict: bool = False) -> Kind:
    """Return the kind of device that "auto" stands for here: one that both sides can use.

    Args:
        strict: as in `build_device`.
    """
    import onnxruntime

    available = onnxruntime.get_available_providers()
    candidates: tuple[Kind, ...] = ("npu", "cuda")
    provided = [kind for kind in candidates if PROVIDERS[kind] in available]
    usable = (kind for kind in provided if device_problem(kind, strict=strict) is None)
    return next(usable, "cpu")


def _runtime_errors() -> tuple[type[Exception], ...]:
    """Return what ONNX Runtime raises; the classes share no base."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    return (
        state.EPFail,
        state.Fail,
        state.InvalidArgument,
        state.InvalidGraph,
        state.InvalidProtobuf,
        state.NotImplemented,
        state.RuntimeException,
        ValueError,
    )


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:300]
