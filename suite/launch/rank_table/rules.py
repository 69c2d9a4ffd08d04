"""What has to hold between the values of a rank table, all of it checked at once.

A rule says nothing where a value it needs was unreadable: that has been reported already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Final

from suite.launch.addresses import is_local_only, is_placeholder, parse_address
from suite.launch.rank_table.draft import DeviceEntry, Draft, ServerEntry, forbid_repeats
from suite.launch.rank_table.model import format_numbers
from suite.launch.rank_table.strict_json import Fault
from suite.launch.rank_table.super_pods import find_super_pod_faults, find_super_pod_warnings

# "System constraints" in HCCL's user guide, for the products that template 2 is for.
_GROUPED_SIZES: Final = (1, 2, 4, 8)
_RING: Final = 4  # devices 0-3 and 4-7 have a network of their own

ASK_ADDRESS: Final = "ask with: hccn_tool -i {} -ip -g"


def find_faults(draft: Draft, *, num_ranks: int | None) -> Iterator[Fault]:
    """Yield what does not fit together.

    Args:
        num_ranks: how many ranks the job has, None where any number will do.
    """
    yield from _check_ranks(draft)
    yield from _check_servers(draft)
    for server in draft.servers:
        numbers = ((one.path, one.device_id) for one in server.devices)
        yield from forbid_repeats(numbers, "that of {} on the same server", key=".device_id")
        if draft.version == "template2":
            yield from _check_first_products(server)
    yield from _check_addresses(draft)
    yield from find_super_pod_faults(draft)
    found = sum(1 for _ in draft.devices)
    if num_ranks is not None and found != num_ranks:
        yield Fault("$", f"has {found} devices, the job has {num_ranks} ranks; each needs one")


def find_warnings(draft: Draft) -> Iterator[str]:
    """Yield what is worth knowing of a table without faults, one sentence each."""
    for server in draft.servers:
        yield from _warn_of_server(server, alone=len(draft.servers) == 1)
    if all(device.device_ip is None for device in draft.devices) and len(draft.servers) == 1:
        yield (
            "no device_ip: enough for one server of Atlas A2 or A3, not for Atlas training "
            f"products (910A); {ASK_ADDRESS.format(0)}"
        )
    if not draft.has_ranks:
        yield (
            "no rank_id: ranks follow server_id as text, in which '10.0.0.10' comes before "
            "'10.0.0.9', then device_id, as HCCL numbers them"
        )
    yield from find_super_pod_warnings(draft)


def _check_ranks(draft: Draft) -> Iterator[Fault]:
    ranks = [(one.rank_path, one.rank) for one in draft.devices if one.rank is not None]
    yield from forbid_repeats(ranks, "the rank of {} already; each is given once")
    wanted = range(sum(1 for _ in draft.devices))
    if len(ranks) < len(wanted):
        return
    allowed = f"{len(wanted)} devices have the ranks {format_numbers(wanted)}"
    for path, rank in ranks:
        if rank not in wanted:
            yield Fault(path, f"'{rank}' is too large, {allowed}")
    missing = set(wanted) - {rank for _, rank in ranks}
    if missing:
        yield Fault("$", f"nobody has rank {format_numbers(missing)}, {allowed}")
    else:
        yield from _check_interleaving(draft)


def _check_interleaving(draft: Draft) -> Iterator[Fault]:
    for server in draft.servers:
        ranks = server.ranks
        if ranks and ranks[-1] - ranks[0] + 1 != len(ranks):
            yield Fault(
                server.path,
                f"has the ranks {format_numbers(ranks)}; those of one server have to follow one "
                "another without a gap",
            )


def _check_servers(draft: Draft) -> Iterator[Fault]:
    names = ((one.path, one.server_id) for one in draft.servers)
    yield from forbid_repeats(names, "the name of {} already", key=".server_id")
    sizes = Counter(len(server.devices) for server in draft.servers)
    usual = max(sizes, key=lambda size: sizes[size], default=0)
    for server in draft.servers:
        if len(server.devices) != usual:
            told = f"{len(server.devices)} devices, other servers have {usual}"
            yield Fault(server.path, f"{told}; all have to have as many")
        if len(draft.servers) > 1 and is_local_only(server.host_addr or ""):
            message = f"'{server.host_addr}' is no address at which other servers reach this one"
            yield Fault(server.path, message)


def _check_first_products(server: ServerEntry) -> Iterator[Fault]:
    """Hold a server of template 2 to the products that it is for: eight devices in two rings."""
    size = len(server.devices)
    device_ids = {one.device_id for one in server.devices if one.device_id is not None}
    for device in server.devices:
        if device.device_id is not None and device.device_id >= _GROUPED_SIZES[-1]:
            yield Fault(f"{device.path}.device_id", f"'{device.device_id}' is too large, 7 is last")
    if size not in _GROUPED_SIZES:
        yield Fault(server.path, f"{size} devices; in template 2 a server has 1, 2, 4 or 8")
    elif size <= _RING and len({number // _RING for number in device_ids}) > 1:
        told = f"has the devices {format_numbers(device_ids)}"
        yield Fault(server.path, f"{told}; up to {_RING} have to be all of 0-3 or all of 4-7")


def _check_addresses(draft: Draft) -> Iterator[Fault]:
    addresses = [(one, one.device_ip) for one in draft.devices if one.device_ip is not None]
    parsed = ((one.path, parse_address(address)) for one, address in addresses)
    yield from forbid_repeats(parsed, "the address of {} already", key=".device_ip")
    for device, address in addresses:
        if is_placeholder(address):
            message = f"'{address}' is a placeholder; {_ask(device)}"
            yield Fault(f"{device.path}.device_ip", message)
    needed = _say_why_addresses(draft) or ("others have one" if addresses else None)
    if needed is not None:
        for device in draft.devices:
            if device.lacks("device_ip"):
                yield Fault(f"{device.path}.device_ip", f"missing, {needed}; {_ask(device)}")


def _say_why_addresses(draft: Draft) -> str | None:
    if draft.version == "template2":
        return "template 2 needs it"
    if draft.version == "1.2" and draft.super_pods is not None:
        return "several super pods need it" if len(draft.super_pods) > 1 else None
    return "several servers need it" if len(draft.servers) > 1 else None


def _ask(device: DeviceEntry) -> str:
    return ASK_ADDRESS.format("N" if device.device_id is None else device.device_id)


def _warn_of_server(server: ServerEntry, *, alone: bool) -> Iterator[str]:
    place = f"{server.path}.server_id"
    if is_placeholder(server.host_addr or ""):
        yield f"{place}: {server.host_addr} is a placeholder, taken as this machine"
    elif not alone and parse_address(server.host_addr or "") is None:
        yield f"{place}: '{server.host_addr}' is no address and there is no host_ip to reach it by"
    device_ids = [
        one.device_id or 0 for one in sorted(server.devices, key=lambda one: one.rank or 0)
    ]
    if device_ids != sorted(device_ids):
        told = ", ".join(map(str, device_ids))
        yield (
            f"{server.path}: its ranks have the devices {told}, which ASCEND_RT_VISIBLE_DEVICES "
            "can only list in ascending order"
        )
