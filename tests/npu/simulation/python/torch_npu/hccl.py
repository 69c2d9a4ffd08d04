"""The process group `hccl` of the device `npu`: gloo, working on the device's memory."""

import simulated_npu
import torch.distributed as dist


def register() -> None:
    if dist.is_available():
        dist.Backend.register_backend("hccl", _build, extended_api=True, devices=["npu"])


def _build(options, _backend_options):
    gloo = dist.ProcessGroupGloo(
        dist.PrefixStore("hccl", options.store),
        options.group_rank,
        options.group_size,
        options.timeout,
    )
    return simulated_npu.hccl_over(gloo)
