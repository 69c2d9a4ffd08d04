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
    without = [one.rank for one in table.devices if one.super_device_id is None]
    if version == "1.2" and table.version != "1.2" and without:  # 1.2 itself may go without
        raise UsageError(
            f"version 1.2 needs the super_device_id of every device, rank {without[0]} has none; "
            f"{ASK_SUPER_DEVICE}"
        )
    plain = _group_instances(table) if version == "template2" else _list_servers(table, version)
    text = json.dumps(plain, indent=4) + "\n"
    examined = examine_rank_table(text.encode(), source="rank table")
    if examined.table is None:
        name = "template 2" if version == "template2" else f"version {version}"
        title = f"these {table.num_ranks} ranks make no rank table of {name}"
        raise UsageError(list_faults(title, examined.faults))
    return text, examined.table


def list_losses(table: RankTable, version: Version) -> list[str]:
    """Return what a table has and a format has no place for, one phrase each."""
    losses = []
    if version != "1.2" and table.super_pods:
        losses.append("super_pod_list")
    if version != "1.2" and any(one.super_device_id is not None for one in table.devices):
        losses.append("super_device_id")
    if version == "template2":
        losses += ["host_ip"] * any(server.host_ip for server in table.servers)
        losses += ["container_ip"] * any(server.container_ip for server in table.servers)
    return losses


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
    plain = {
        "server_id": server.server_id,
        "host_ip": server.host_ip,
        "container_ip": server.container_ip,
        "device": [
            _encode_device(device, version) | {"rank_id": str(device.rank)}
            for device in server.devices
        ],
    }
    return {key: value for key, value in plain.items() if value is not None}


def _encode_device(device: RankDevice, version: Version) -> dict[str, str]:
    plain = {"device_id": str(device.device_id)}
    if device.device_ip is not None:
        plain["device_ip"] = device.device_ip
    if version == "1.2" and device.super_device_id is not None:
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
                "devices": [_encode_device(device, "template2")],
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
