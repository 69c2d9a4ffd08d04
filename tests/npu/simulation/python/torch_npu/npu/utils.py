"""Precisions, and how an overflow shows.

The first 910 saturates: a result beyond the largest number becomes that number, NaN becomes zero,
and a flag is set. Here only the flag exists, set by `simulation.overflow`.
"""

import math
import warnings

import torch

from torch_npu.npu import simulation


def is_support_inf_nan():
    return not simulation.saturates


def is_bf16_supported():
    return not simulation.saturates


def get_amp_supported_dtype():
    return [torch.float16, torch.bfloat16] if is_bf16_supported() else [torch.float16]


def get_npu_overflow_flag():
    if is_support_inf_nan():
        raise RuntimeError(
            "Unsupported api when soc_version >= Ascend910B1, please use npu_check_overflow"
        )
    return simulation.overflow_flag


def clear_npu_overflow_flag():
    if is_support_inf_nan():
        warnings.warn(
            "When soc_version >= Ascend910B1, clear_npu_overflow_flag is useless, please remove "
            "it.",
            stacklevel=2,
        )
        return
    simulation.clear_overflow()


def npu_check_overflow(grad):
    if is_support_inf_nan():
        return not math.isfinite(grad if isinstance(grad, float) else float(grad.float().sum()))
    has_overflowed = get_npu_overflow_flag()
    if has_overflowed:
        clear_npu_overflow_flag()
    return has_overflowed
