"""From the JSON of a rank table to what it says, in the three formats that a job can start from.

Template 2 is the oldest: groups of instances, for the first Atlas training products. Versions 1.0
(those and A2) and 1.2 (A3, with super pods) list servers and their devices. Fields and their rules:
"Rank table" in HCCL's user guide and its parsers (topoinfo_ranktable*.cc), hccl.json in the
documentation of MindCluster.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from suite.errors import InputError
from suite.launch.rank_table.draft import DeviceEntry, Draft, PodEntry, ServerEntry
from suite.launch.rank_table.model import Version
from suite.launch.rank_table.section import Notes, Section
from suite.launch.rank_table.strict_json import Bare, JsonObject, describe
from suite.strict_nodes import clean

_TOP_KEYS: Final = frozenset({"status", "version", "server_count", "server_list"})
_GROUPED_KEYS: Final = frozenset(
    {"status", "group_count", "group_list", "deploy_mode", "para_plane_nic_location"}
)
_GROUP_KEYS: Final = frozenset(
    {"group_name", "instance_count", "instance_list", "device_num", "device_count", "server_num"}
)
_INSTANCE_KEYS: Final = frozenset({"rank_id", "pod_name", "server_id", "devices"})
_SERVER_KEYS: Final = frozenset({"server_id", "host_ip", "container_ip", "device"})
_DEVICE_KEYS: Final = frozenset({"device_id", "device_ip", "rank_id"})


def read_draft(plain: JsonObject, notes: Notes, *, source: str) -> Draft | None:
    """Read whatever format the document has; None where only its status can be told.

    Args:
        notes: takes the faults of single values; those between several are not looked for.

    Raises:
        InputError: it is a format that cannot be used, or no rank table at all.
    """
    _refuse_others(plain, source)
    top = Section(plain, "$", notes, known=plain.keys())
    _check_status(top)
    if "version" in plain or "server_list" in plain:
        return _read_listed(plain, notes)
    if "group_list" in plain:
        return _read_grouped(plain, notes)
    if plain.get("status") == "initializing":
        return None
    found = ", ".join(clean(key) for key in list(plain)[:8]) or "nothing"
    raise InputError(
        f"{source}: not a rank table: expected version and server_list, or group_list "
        f"(template 2), found {found}"
    )


def _refuse_others(plain: JsonObject, source: str) -> None:
    version = _read_version(plain)
    if version == "2.0" or ("version" not in plain and "rank_list" in plain):
        raise InputError(
            f"{source}: rank table version 2.0 (Atlas 350, 850 and 950) cannot be used: in place "
            "of servers and device addresses its rank_list holds network layers that belong to a "
            "topology file; versions 1.0 and 1.2 and template 2 are read"
        )
    if "server_group_list" in plain:
        raise InputError(
            f"{source}: a global rank table (server_group_list), which joins those of several "
            "jobs; give the hccl.json of one job"
        )
    if "version" in plain and version not in ("1.0", "1.2"):
        raise InputError(
            f"{source}: expected a rank table of version 1.0 or 1.2, or of template 2, which has "
            f"no version; got version {describe(plain['version'])}"
        )


def _read_version(plain: JsonObject) -> Any:
    """Return the version, in quotes or without; None where there is none."""
    given = plain.get("version")
    return given.text if isinstance(given, Bare) else given


def _check_status(top: Section) -> None:
    status = top.value("status")
    if status == "initializing":
        top.fault("status", "'initializing': the operator is still writing; wait for 'completed'")
    elif status != "completed":
        top.refuse("status", "'completed'")


def _read_listed(plain: JsonObject, notes: Notes) -> Draft:
    """Read version 1.0 or 1.2."""
    version: Version = "1.2" if _read_version(plain) == "1.2" else "1.0"
    has_pods = version == "1.2" and "super_pod_list" in plain
    top = Section(plain, "$", notes, known=_TOP_KEYS | ({"super_pod_list"} if has_pods else set()))
    if not isinstance(plain.get("version"), str):
        top.refuse("version", 'text, "1.0" or "1.2" in quotes')
    sections = top.sections("server_list", known=_SERVER_KEYS)
    if sections:
        top.count("server_count", len(sections), "servers", required=version == "1.0")
    servers = tuple(_read_server(section, version) for section in sections)
    return Draft(version, servers, _read_pods(top) if has_pods else None)


def _read_server(section: Section, version: Version) -> ServerEntry:
    keys = _DEVICE_KEYS | ({"super_device_id"} if version == "1.2" else set())
    return ServerEntry(
        section.path,
        section.name("server_id"),
        tuple(_read_device(device, version) for device in section.sections("device", known=keys)),
        section.address("host_ip"),
        section.address("container_ip"),
    )


def _read_device(section: Section, version: Version) -> DeviceEntry:
    # Version 1.2 may go without, all devices together; the rules look after that.
    return DeviceEntry(
        section.path,
        f"{section.path}.rank_id",
        section.number("rank_id"),
        section.number("device_id"),
        section.address("device_ip"),
        section.number("super_device_id", required=False) if version == "1.2" else None,
        section.faulty,
    )


def _read_pods(top: Section) -> tuple[PodEntry, ...]:
    pods = top.sections("super_pod_list", known={"super_pod_id", "server_list"})
    return tuple(
        PodEntry(
            pod.path,
            pod.name("super_pod_id"),
            tuple(
                (f"{member.path}.server_id", member.name("server_id"))
                for member in pod.sections("server_list", known={"server_id"})
            ),
        )
        for pod in pods
    )


def _read_grouped(plain: JsonObject, notes: Notes) -> Draft:
    """Read template 2; its groups are one job, whatever their names."""
    top = Section(plain, "$", notes, known=_GROUPED_KEYS)
    if top.value("para_plane_nic_location") not in (None, "device"):
        top.refuse("para_plane_nic_location", "'device', HCCL takes no other")
    groups = top.sections("group_list", known=_GROUP_KEYS)
    if groups:
        top.count("group_count", len(groups), "groups")
    instances = [group.sections("instance_list", known=_INSTANCE_KEYS) for group in groups]
    # Written for a cluster manager, the template has pod names instead of ranks.
    has_ranks = "deploy_mode" in plain or any(
        "rank_id" in one for some in instances for one in some
    )
    entries = []
    for group, members in zip(groups, instances, strict=True):
        read = [_read_instance(one, has_ranks=has_ranks) for one in members]
        _count_group(group, read, has_ranks=has_ranks)
        entries += read
    servers = _join_instances(entries)
    if not has_ranks:
        servers = _number_ranks(servers)
    return Draft("template2", servers, has_ranks=has_ranks)


def _read_instance(section: Section, *, has_ranks: bool) -> ServerEntry:
    rank = section.number("rank_id") if has_ranks else None
    devices = section.sections("devices", known={"device_id", "device_ip"})
    if has_ranks and len(devices) > 1:
        section.fault("devices", f"expected the one device of rank_id, got {len(devices)} devices")
    entries = (
        DeviceEntry(
            device.path,
            f"{section.path}.rank_id",
            rank if index == 0 else None,
            device.number("device_id"),
            device.address("device_ip"),
            faulty=device.faulty,
        )
        for index, device in enumerate(devices)
    )
    return ServerEntry(section.path, section.name("server_id"), tuple(entries))


def _count_group(group: Section, instances: list[ServerEntry], *, has_ranks: bool) -> None:
    if not instances:
        return
    num_devices = sum(len(instance.devices) for instance in instances)
    num_servers = len({instance.server_id for instance in instances})
    group.count("instance_count", len(instances), "instances in this group")
    group.count("device_num", num_devices, "devices in this group", required=has_ranks)
    group.count("device_count", num_devices, "devices in this group", required=not has_ranks)
    group.count("server_num", num_servers, "servers in this group", required=has_ranks)


def _join_instances(instances: list[ServerEntry]) -> tuple[ServerEntry, ...]:
    servers: dict[str | None, ServerEntry] = {}
    for one in instances:
        server = servers.setdefault(one.server_id, replace(one, devices=()))
        servers[one.server_id] = replace(server, devices=server.devices + one.devices)
    return tuple(servers.values())


def _number_ranks(servers: tuple[ServerEntry, ...]) -> tuple[ServerEntry, ...]:
    """Give ranks as HCCL does where none are written: by server_id as text, then by device_id."""
    known = sorted(
        (server.server_id, device.device_id)
        for server in servers
        for device in server.devices
        if server.server_id is not None and device.device_id is not None
    )
    ranks: dict[tuple[str | None, int | None], int]
    ranks = {key: rank for rank, key in enumerate(known)}
    numbered = []
    for server in servers:
        devices = (
            replace(device, rank=ranks.get((server.server_id, device.device_id)))
            for device in server.devices
        )
        numbered.append(replace(server, devices=tuple(devices)))
    return tuple(numbered)
