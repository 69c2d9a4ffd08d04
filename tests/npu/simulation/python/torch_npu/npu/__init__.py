"""The module `torch.npu`, under the names of torch_npu; `simulation` is what only this one has."""

# ruff: noqa: F401 - the names are there to be used from outside

from types import SimpleNamespace

from torch_npu.npu import amp, simulation, utils
from torch_npu.npu.devices import (
    _is_in_bad_fork,
    _lazy_init,
    current_device,
    device,
    device_count,
    get_device_name,
    get_device_properties,
    init,
    is_available,
    is_initialized,
    set_device,
)
from torch_npu.npu.generators import (
    default_generators,
    get_rng_state,
    get_rng_state_all,
    initial_seed,
    manual_seed,
    manual_seed_all,
    seed,
    seed_all,
    set_rng_state,
    set_rng_state_all,
)
from torch_npu.npu.memory import (
    empty_cache,
    max_memory_allocated,
    max_memory_reserved,
    mem_get_info,
    memory_allocated,
    memory_reserved,
    reset_peak_memory_stats,
)
from torch_npu.npu.streams import (
    Event,
    Stream,
    current_stream,
    set_stream,
    stream,
    synchronize,
)
from torch_npu.npu.utils import (
    clear_npu_overflow_flag,
    get_amp_supported_dtype,
    get_npu_overflow_flag,
    is_bf16_supported,
)

# With torch_npu's defaults, where it has one for all devices.
matmul = SimpleNamespace(allow_hf32=False)
conv = SimpleNamespace(allow_hf32=True)
config = SimpleNamespace(allow_internal_format=False)

_jit_compile = False


def set_compile_mode(jit_compile=False):
    global _jit_compile
    _jit_compile = jit_compile


def is_jit_compile_false():
    return not _jit_compile


simulation.configure()
