"""Python and the packages the suite uses, ONNX Runtime's execution providers tried out."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import suite
from suite.device_problems import release_of
from suite.doctor.checks import Check
from suite.errors import SuiteError

# As in pyproject.toml: the oldest torch with a passing run and the first one not tested.
TORCH_RANGE = ((2, 13), (2, 14))
TORCH_INSTALL = 'run: pip install "torch>=2.13,<2.14"'

_FOR_DATA = ("simplejpeg", "google-crc32c")
_TRIED = {"cuda": "CUDAExecutionProvider", "npu": "CANNExecutionProvider"}


def check_packages(torch_check: Check) -> Iterator[Check]:
    """Look at everything that pip installs.

    Args:
        torch_check: the answer of `check_torch`.
    """
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    yield Check("suite", "ok", suite.__version__)
    yield torch_check
    for name in ("onnx", "onnxscript", "pycocotools"):
        yield check_package(name, name)
    yield _check_onnxruntime(has_torch=torch_check.status != "missing")
    yield check_package("tensorboard", "npu-detection-suite[tensorboard]")
    for name in _FOR_DATA:
        yield check_package(name, "npu-detection-suite[data]")


def check_torch() -> Check:
    """Import torch, if that can be done."""
    try:
        torch = importlib.import_module("torch")
    except (ImportError, OSError) as error:
        return Check("torch", "missing", f"does not load: {error}", TORCH_INSTALL)
    build = "without CUDA" if torch.version.cuda is None else f"for CUDA {torch.version.cuda}"
    value = f"{torch.__version__}, built {build}"
    oldest, first_untested = TORCH_RANGE
    if oldest <= release_of(torch.__version__) < first_untested:
        return Check("torch", "ok", value)
    return Check("torch", "warning", f"{value}, not a tested release", TORCH_INSTALL)


def check_package(name: str, requirement: str) -> Check:
    """Look whether a distribution is installed; `requirement` is what pip would install."""
    version = read_version(name)
    if version is None:
        return Check(name, "missing", "not installed", f'run: pip install "{requirement}"')
    return Check(name, "ok", version)


def read_version(name: str) -> str | None:
    """Return the version of a distribution, None where it is not installed."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _check_onnxruntime(*, has_torch: bool) -> Check:
    # By import, not by distribution: four distributions own this module, and the one for CANN is
    # built against NumPy 1 and does not load beside NumPy 2.
    try:
        onnxruntime = importlib.import_module("onnxruntime")
    except ImportError as error:
        remedy = "run: pip install --force-reinstall onnxruntime"
        return Check("onnxruntime", "missing", f"does not load: {error}", remedy)
    listed = onnxruntime.get_available_providers()
    providers = ", ".join(provider.removesuffix("ExecutionProvider") for provider in listed)
    value = f"{onnxruntime.__version__}, built for {providers}"
    tried = [kind for kind, provider in _TRIED.items() if provider in listed]
    # A provider is listed because it was built in: that of CANN also where there is no CANN.
    if not tried or not has_torch:
        return Check("onnxruntime", "ok", f"{value}; listed, not tried" if tried else value)
    return _try_providers(value, tried)


def _try_providers(value: str, kinds: list[Any]) -> Check:
    from suite.device import device_problem
    from suite.graph_session import open_graph

    for kind in kinds:
        try:
            open_graph(_build_graph(), source="a graph of one operator", kind=kind)
        except (SuiteError, RuntimeError, ImportError) as error:
            name = _TRIED[kind].removesuffix("ExecutionProvider")
            problem = device_problem(kind)
            remedy = problem.remedy if problem else str(error)
            return Check(
                "onnxruntime", "warning", f"{value}; {name} is listed but does not start", remedy
            )
    return Check("onnxruntime", "ok", f"{value}, tried")


def _build_graph() -> bytes:
    from onnx import TensorProto, helper

    node = helper.make_node("Identity", ["x"], ["y"])
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    x, y = ends
    graph = helper.make_graph([node], "one", [x], [y])
    opset = helper.make_opsetid("", 18)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=8)
    return bytes(model.SerializeToString())
