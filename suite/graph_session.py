"""ONNX Runtime on exactly the device that was asked for, its failures as sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from suite.device import Kind, device_problem
from suite.errors import InputError, MissingEnvironment

# Output names and inputs by name to outputs in the order of the names.
RunGraph = Callable[[Sequence[str], Mapping[str, NDArray[Any]]], list[NDArray[Any]]]

PROVIDERS: dict[Kind, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "npu": "CANNExecutionProvider",
}
# ONNX Runtime prints what it also raises; nothing below "fatal" is news.
_LOG_FATAL = 4


def open_graph(
    content: bytes, *, source: str, kind: Kind = "cpu", threads: int | None = None
) -> RunGraph:
    """Open a graph in ONNX Runtime on exactly the execution provider the device needs.

    Args:
        content: a serialised model that refers to no other file.
        source: how messages name it.
        kind: of device; decides the provider.
        threads: CPU threads within one operator; None lets ONNX Runtime choose.

    Raises:
        InputError: ONNX Runtime refuses the graph, now or when it runs.
        MissingEnvironment: the provider is absent or does not start.
    """
    import onnxruntime

    provider = PROVIDERS[kind]
    available = onnxruntime.get_available_providers()
    if provider not in available:
        raise MissingEnvironment(
            f"this onnxruntime has no {provider} (it has {', '.join(available)}); "
            "install the onnxruntime build for this device or pass --device cpu"
        )
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL
    if threads is not None:
        options.intra_op_num_threads = threads
    errors = _runtime_errors()
    try:
        # Without enable_fallback=0 it would go on with another provider, here and in any later run.
        session = onnxruntime.InferenceSession(
            content, options, providers=[provider], enable_fallback=0
        )
    except errors as error:
        raise InputError(f"{source}: ONNX Runtime refuses it ({_first_line(error)})") from error
    if session.get_providers()[0] != provider:
        raise MissingEnvironment(
            f"asked for {provider}, ONNX Runtime fell back to {session.get_providers()[0]}; "
            "check its driver and libraries or pass --device cpu"
        )

    def run(names: Sequence[str], inputs: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        try:
            return list(session.run(list(names), dict(inputs)))
        except errors as error:
            raise InputError(f"{source}: fails when it runs ({_first_line(error)})") from error

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
