"""Streams and events, which exist but order nothing: a call returns when its work is done."""

import contextlib

import torch

from torch_npu.npu.devices import index_of


class Stream(torch.Stream):
    def __new__(cls, device=None, priority=0, **parts):
        if not parts:  # a new one, rather than a name for one that exists
            parts = {"device": torch.device("npu", index_of(device))}
        return super().__new__(cls, priority=priority, **parts)


class Event(torch.Event):
    def __new__(cls, enable_timing=False, blocking=False, interprocess=False):
        return super().__new__(cls, device="npu", enable_timing=enable_timing, blocking=blocking)


def synchronize(device=None):
    torch.accelerator.synchronize(index_of(device))


def current_stream(device=None):
    return torch.accelerator.current_stream(index_of(device))


def set_stream(stream):
    torch.accelerator.set_stream(stream)


def stream(stream):
    return contextlib.nullcontext() if stream is None else stream
