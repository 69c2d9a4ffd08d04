"""Streams and events, which exist but order nothing: a call returns when its work is done."""

import contextlib

import torch

from torch_npu.npu.devices import index_of


def Stream(device=None, priority=0):  # noqa: N802 - its name in torch_npu
    return torch.Stream(torch.device("npu", index_of(device)), priority=priority)


def Event(enable_timing=False, blocking=False, interprocess=False):  # noqa: N802 - so is this
    return torch.Event("npu", enable_timing=enable_timing, blocking=blocking)


def synchronize(device=None):
    torch.accelerator.synchronize(index_of(device))


def current_stream(device=None):
    return torch.accelerator.current_stream(index_of(device))


def set_stream(stream):
    torch.accelerator.set_stream(stream)


def stream(stream):
    return contextlib.nullcontext() if stream is None else stream
