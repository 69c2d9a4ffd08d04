"""A simulated NPU: what of torch_npu the suite uses, on any machine with a C++ compiler.

Device memory is host memory with an account of its own, and every operator is computed by the
kernel of the CPU. What runs here without an error has therefore shown that

- no tensor of the CPU meets one of the NPU, and none of one NPU meets one of another;
- devices, precisions, autocast, loss scaling, checkpoints across devices, `hccl` process groups and
  the answers to lacking memory, lacking operators and lacking devices are plumbed correctly;
- the numbers do not depend on where the tensors live.

It shows nothing of what only the hardware can, which stays unverified on Ascend hardware: whether
an operator exists there, its accuracy (fp16, bf16 and HF32 arithmetic are the CPU's), speed, the
real HCCL, conversion to OM. Nothing is asynchronous, so a missing synchronisation stays hidden;
random numbers come from a CPU generator per device; tensor formats and compile modes are only
remembered.

The environment, read once:

- NPU_SIMULATION_DEVICES: how many there are, 2 unless set; ASCEND_RT_VISIBLE_DEVICES hides some
- NPU_SIMULATION_MEMORY_BYTES: of each device, 64 GiB unless set
- NPU_SIMULATION_MISSING_OPS: operators that the device lacks, as "aten::topk,aten::sort"
- TORCH_NPU_FALLBACK_CPU_DISABLE: 1 makes using those an error instead of a warning
- NPU_SIMULATION_SATURATES: 1 makes it one of the first 910, which have no inf and no bf16
"""

import sys

import simulated_npu
import torch

torch.utils.rename_privateuse1_backend("npu")
simulated_npu.register_hooks()

from torch_npu import hccl, npu  # noqa: E402 - they need the name

__version__ = "2.13.0+simulated"

torch._register_device_module("npu", npu)
sys.modules["torch.npu"] = npu
torch.utils.generate_methods_for_privateuse1_backend()
hccl.register()


def _autoload() -> None:
    """Importing has done everything; torch calls this where it loads backends by itself."""
