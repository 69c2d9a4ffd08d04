"""Rules of version 1.2 alone: Atlas A3's super pods and the numbers of the devices within them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Final

from suite.launch.rank_table.draft import DeviceEntry, Draft, PodEntry, forbid_repeats
from suite.launch.rank_table.model import format_numbers
from suite.launch.rank_table.strict_json import Fault

ASK_SUPER_DEVICE: Final = "ask for its SDID with: npu-smi info -t spod-info -i NPU -c CHIP"


def find_super_pod_faults(draft: Draft) -> Iterator[Fault]:
    """Yield what is wrong with super pods and device numbers; nothing in other versions."""
    yield from _check_presence(draft)
    if draft.super_pods is None:
        yield from _check_numbers(draft.devices)
        return
    yield from _check_members(draft, draft.super_pods)
    devices_of = {server.server_id: server.devices for server in draft.servers}
    for pod in draft.super_pods:
        devices = (one for _, name in pod.members for one in devices_of.get(name, ()))
        yield from _check_numbers(devices)


def find_super_pod_warnings(draft: Draft) -> Iterator[str]:
    """Yield what is worth knowing of a version 1.2 without faults."""
    if draft.version == "1.2" and all(one.super_device_id is None for one in draft.devices):
        yield "version 1.2 without super_device_id: HCCL takes it as version 1.0"
    sizes = {len(pod.members) for pod in draft.super_pods or ()}
    if len(sizes) > 1:
        told = f"super pods have different numbers of servers ({format_numbers(sizes)})"
        yield f"{told}, with which HCCL is slower"


def _check_presence(draft: Draft) -> Iterator[Fault]:
    if draft.super_pods is not None:
        needed = "super_pod_list needs it"
    elif any(device.super_device_id is not None for device in draft.devices):
        needed = "others have one"
    else:
        return
    for device in draft.devices:
        if device.lacks("super_device_id"):
            message = f"missing, {needed}; {ASK_SUPER_DEVICE}"
            yield Fault(f"{device.path}.super_device_id", message)


def _check_numbers(devices: Iterable[DeviceEntry]) -> Iterator[Fault]:
    numbers = ((one.path, one.super_device_id) for one in devices)
    yield from forbid_repeats(numbers, "that of {} in the same super pod", key=".super_device_id")


def _check_members(draft: Draft, pods: tuple[PodEntry, ...]) -> Iterator[Fault]:
    names = ((pod.path, pod.super_pod_id) for pod in pods)
    yield from forbid_repeats(names, "the name of {} already", key=".super_pod_id")
    members = [member for pod in pods for member in pod.members]
    yield from forbid_repeats(members, "in {} already; a server is in one super pod")
    servers = {server.server_id for server in draft.servers}
    for path, name in members:
        if name is not None and name not in servers:
            yield Fault(path, f"'{name}' is not in $.server_list")
    placed = {name for _, name in members}
    for server in draft.servers:
        if server.server_id is not None and server.server_id not in placed:
            yield Fault(server.path, f"'{server.server_id}' is in no super pod of super_pod_list")
    yield from _check_order(draft, pods)


def _check_order(draft: Draft, pods: tuple[PodEntry, ...]) -> Iterator[Fault]:
    """Let the servers of one super pod follow one another, as the user guide wants them."""
    pod_of = {name: pod.path for pod in pods for _, name in pod.members}
    servers = sorted(draft.servers, key=lambda server: server.ranks)
    order = [pod_of[one.server_id] for one in servers if one.server_id in pod_of]
    for path, times in Counter(path for path, _ in groupby(order)).items():
        if times > 1:
            yield Fault(path, "ranks of other super pods lie between those of its servers")
