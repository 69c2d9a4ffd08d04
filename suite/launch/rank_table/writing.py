"""A rank table back as JSON, in any of the formats it can be read from.

What is written goes through the same checks as what is read, so nothing is written that this suite
would refuse. A host address is written only where the table has one: HCCL takes `host_ip` as a wish
to use the host's network card in some releases.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from suite.errors import InputError, UsageError
from suite.files import write_text
from suite.launch.rank_table.examining import examine_rank_table, list_faults
from suite.launch.rank_table.model import RankDevice, RankTable, Server, Version
from suite.launch.rank_table.super_pods import ASK_SUPER_DEVICE

_TITLES: dict[Version, str] = {
    "template2": "template 2",
    "1.0": "version 1.0",
    "1.2": "version 1.2",
}


def write_rank_table(table: RankTable, version: Version, path: Path) -> RankTable:
    """Write a table in a format, all or nothing; a file that is there is replaced.

    Returns:
        What a reader will find there, with its warnings.

    Raises:
        UsageError: the format needs what the table does not have, or has other limits.
        InputError: the place cannot be written.
    """
    text, written = format_rank_table(table, version)
    try:
        write_text(path, text)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from None
    return written


def format_rank_table(table: RankTable, version: Version) -> tuple[str, RankTable]:
    """Return a table as the JSON text of a format, and as a reader of that text will find it.

    Raises:
        UsageError: the format needs what the table does not have, or has other limits.
    """
    if version == "1.2" and table.version != "1.2":  # which may itself go without
        _require_super_devices(table)
    plain = _group_instances(table) if version == "template2" else _list_servers(table, version)
    text = json.dumps(plain, indent=4) + "\n"
    examined = examine_rank_table(text.encode(), source="rank table")
    if examined.table is None:
        title = f"these {table.num_ranks} ranks make no rank table of {_TITLES[version]}"
        raise UsageError(list_faults(title, examined.faults))
    return text, examined.table


def list_losses(table: RankTable, version: Version) -> list[str]:
    """Return what a table has and a format has no place for, one phrase each."""
    losses = []
    if version != "1.2" and table.super_pods:
        losses.append("super_pod_list")
    if version != "1.2" and any(one.super_device_id is not None for one in _devices(table)):
        losses.append("super_device_id")
    if version == "template2":
        losses += ["host_ip"] * any(server.host_ip for server in table.servers)
        losses += ["container_ip"] * any(server.container_ip for server in table.servers)
    return losses


def _require_super_devices(table: RankTable) -> None:
    for device in _devices(table):
        if device.super_device_id is None:
            raise UsageError(
                f"version 1.2 needs the super_device_id of every device, rank {device.rank} has "
                f"none; {ASK_SUPER_DEVICE}"
            )


def _devices(table: RankTable) -> list[RankDevice]:
    return [device for server in table.servers for device in server.devices]


def _list_servers(table: RankTable, version: Version) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "status": "completed",
        "version": version,
        "server_count": str(table.num_servers),
        "server_list": [_encode_server(server, version) for server in table.servers],
    }
    if version == "1.2" and table.super_pods:
        plain["super_pod_list"] = [
            {
                "super_pod_id": pod.super_pod_id,
                "server_list": [{"server_id": server_id} for server_id in pod.server_ids],
            }
            for pod in table.super_pods
        ]
    return plain


def _encode_server(server: Server, version: Version) -> dict[str, Any]:
    plain: dict[str, Any] = {"server_id": server.server_id}
    if server.host_ip is not None:
        plain["host_ip"] = server.host_ip
    if server.container_ip is not None:
        plain["container_ip"] = server.container_ip
    plain["device"] = [
        _encode_device(device, with_super=version == "1.2") | {"rank_id": str(device.rank)}
        for device in server.devices
    ]
    return plain


def _encode_device(device: RankDevice, *, with_super: bool) -> dict[str, str]:
    plain = {"device_id": str(device.device_id)}
    if device.device_ip is not None:
        plain["device_ip"] = device.device_ip
    if with_super and device.super_device_id is not None:
        plain["super_device_id"] = str(device.super_device_id)
    return plain


def _group_instances(table: RankTable) -> dict[str, Any]:
    """Return template 2 in its form with ranks, which HCCL tells by deploy_mode."""
    group = {
        "group_name": "",
        "device_num": str(table.num_ranks),
        "server_num": str(table.num_servers),
        "instance_count": str(table.num_ranks),
        "instance_list": [
            {
                "devices": [_encode_device(device, with_super=False)],
                "rank_id": str(device.rank),
                "server_id": server.server_id,
            }
            for server in table.servers
            for device in server.devices
        ],
    }
    return {
        "deploy_mode": "lab",
        "group_count": "1",
        "group_list": [group],
        "para_plane_nic_location": "device",
        "status": "completed",
    }
