"""The account of each device; nothing is cached, so what is reserved is what is allocated."""

import simulated_npu

from torch_npu.npu.devices import index_of


def memory_allocated(device=None):
    return simulated_npu.allocated_bytes(index_of(device))


def max_memory_allocated(device=None):
    return simulated_npu.peak_bytes(index_of(device))


memory_reserved = memory_allocated
max_memory_reserved = max_memory_allocated


def reset_peak_memory_stats(device=None):
    simulated_npu.reset_peak(index_of(device))


def mem_get_info(device=None):
    total = simulated_npu.memory_limit()
    return max(total - memory_allocated(device), 0), total


def empty_cache():
    pass
