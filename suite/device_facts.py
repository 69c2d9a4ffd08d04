"""The flags that decide how a device computes, and what a record says about them."""

from __future__ import annotations

import importlib
import os
from typing import Any, Literal

import torch

SIMULATED = (
    "simulated; unverified on Ascend hardware: operators, accuracy, speed, HCCL, OM conversion"
)

# What changes an NPU's numbers, speed or patience from outside.
_NPU_VARIABLES = (
    "ASCEND_RT_VISIBLE_DEVICES",
    "TASK_QUEUE_ENABLE",
    "ASCEND_LAUNCH_BLOCKING",
    "INF_NAN_MODE_ENABLE",
    "INF_NAN_MODE_FORCE_DISABLE",
    "PYTORCH_NPU_ALLOC_CONF",
    "HCCL_CONNECT_TIMEOUT",
    "HCCL_EXEC_TIMEOUT",
    "HCCL_EVENT_TIMEOUT",
)

_HCCL_STEP_S = 68


def use_exact_arithmetic(kind: Literal["cpu", "cuda", "npu"]) -> None:
    """Switch off TF32 and HF32; on an NPU also private tensor formats and compiling each shape."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    if kind == "npu":
        npu = torch.get_device_module("npu")
        npu.matmul.allow_hf32 = False
        npu.conv.allow_hf32 = False
        # Releases differ in these defaults.
        npu.config.allow_internal_format = False
        npu.set_compile_mode(jit_compile=False)


def limit_collectives(kind: Literal["cpu", "cuda", "npu"], *, patience_s: float) -> None:
    """Let HCCL give up before the process group does, which could not say why.

    Call it before the process group is made. What the environment says already, stays. Unverified
    on Ascend hardware.
    """
    if kind == "npu":
        # In steps of 68 s on the first Ascend 910; by default 1836, and waiting for events longer.
        limit = max(_HCCL_STEP_S, int(patience_s * 0.9) // _HCCL_STEP_S * _HCCL_STEP_S)
        os.environ.setdefault("HCCL_EXEC_TIMEOUT", str(limit))
        os.environ.setdefault("HCCL_EVENT_TIMEOUT", str(limit + 32))


def versions(kind: Literal["cpu", "cuda", "npu"]) -> dict[str, str]:
    """Return the versions of what computes on a device of this kind, by package."""
    found = {"torch": str(torch.__version__)}
    if kind == "npu":
        found["torch_npu"] = str(importlib.import_module("torch_npu").__version__)
    return found


def vendor_facts(kind: Literal["cpu", "cuda", "npu"]) -> dict[str, Any]:
    """Return versions and flags of what computes on a device of this kind."""
    match kind:
        case "cpu":
            return {"threads": torch.get_num_threads()}
        case "cuda":
            return _cuda_facts()
        case "npu":
            return _npu_facts()


def _cuda_facts() -> dict[str, Any]:
    cudnn: Any = torch.backends.cudnn
    return {
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),
        "matmul_tf32": torch.backends.cuda.matmul.allow_tf32,
        "conv_tf32": cudnn.allow_tf32,
    }


def _npu_facts() -> dict[str, Any]:
    npu = torch.get_device_module("npu")
    version = str(importlib.import_module("torch_npu").__version__)
    simulated = "simulated" in version
    return {
        "torch_npu": version,
        "matmul_hf32": npu.matmul.allow_hf32,
        "conv_hf32": npu.conv.allow_hf32,
        # As `use_exact_arithmetic` set them; torch_npu does not let the format be read back.
        "internal_format": False,
        "jit_compile": False,
        "environment": {key: os.environ[key] for key in _NPU_VARIABLES if key in os.environ},
        "simulated": simulated,
        "verification": SIMULATED if simulated else f"ran on {npu.get_device_name()}",
    }
