"""The random numbers of each device, drawn from a CPU generator of its own."""

import simulated_npu

from torch_npu.npu.devices import device_count, index_of

# Of all devices that could be visible, as the number of those is known only later.
default_generators = tuple(simulated_npu.default_generator(index) for index in range(64))


def manual_seed(seed):
    default_generators[index_of(None)].manual_seed(seed)


def manual_seed_all(seed):
    for generator in default_generators[: device_count()]:
        generator.manual_seed(seed)


def seed():
    default_generators[index_of(None)].seed()


def seed_all():
    manual_seed_all(default_generators[0].seed())


def initial_seed():
    return default_generators[index_of(None)].initial_seed()


def get_rng_state(device="npu"):
    return default_generators[index_of(device)].get_state()


def set_rng_state(state, device="npu"):
    default_generators[index_of(device)].set_state(state)


def get_rng_state_all():
    return [get_rng_state(index) for index in range(device_count())]


def set_rng_state_all(states):
    for index, state in enumerate(states):
        set_rng_state(state, index)
