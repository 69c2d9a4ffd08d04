"""This machine's part of a plan: which machine it is, and what its ranks find in the environment.

What is set for HCCL follows Ascend's documents and is unverified on Ascend hardware.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Final

from suite.errors import InputError, UsageError
from suite.files import write_text
from suite.launch.addresses import is_own, parse_address
from suite.launch.plan import LaunchPlan
from suite.launch.rank_table import RankTable, find_own_server, write_rank_table
from suite.launch.worker import LOOPBACK, Node

# torch_npu warns below it where there is a rank table (ProcessGroupHCCL.cpp).
_CONNECT_S: Final = 300
# Of HCCL's other way to be told of a cluster; "the two methods cannot be used together" (HCCL's
# user guide, "Cluster Information Configuration").
_OTHER_WAY: Final = ("CM_CHIEF_IP", "CM_CHIEF_PORT", "CM_CHIEF_DEVICE", "CM_WORKER_SIZE")


def find_own_node(plan: LaunchPlan, addresses: Collection[str]) -> int:
    """Return which machine of a plan this one is.

    Args:
        addresses: those of this machine and its name, as `local_addresses` gives them.

    Raises:
        UsageError: it is none of them, or that cannot be told.
    """
    if plan.node_rank is not None:
        return plan.node_rank
    if plan.table is not None:
        return find_own_server(plan.table, addresses)
    if plan.hosts[0] is None:
        raise UsageError(
            f"which of the {plan.num_nodes} machines is this? Give --node-rank, from 0 to "
            f"{plan.num_nodes - 1}"
        )
    found = [rank for rank, host in enumerate(plan.hosts) if is_own(str(host), addresses)]
    if len(found) == 1:
        return found[0]
    told = "several" if found else "none"
    raise UsageError(
        f"this machine ({', '.join(sorted(addresses))}) is {told} of --hosts "
        f"{','.join(map(str, plan.hosts))}; give --node-rank, from 0 to {plan.num_nodes - 1}"
    )


def build_node(plan: LaunchPlan, node_rank: int) -> Node:
    """Return a machine of a plan, as `run_node` starts it.

    Raises:
        UsageError: nobody said which machine is the first.
    """
    single = plan.num_nodes == 1
    return Node(
        num_nodes=plan.num_nodes,
        node_rank=node_rank,
        master_addr=LOOPBACK if single else plan.require_master(),
        master_port=0 if single else plan.master_port,
        run_id=plan.run_id,
    )


def rank_environment(
    plan: LaunchPlan, node_rank: int, *, environ: Mapping[str, str]
) -> dict[str, str]:
    """Return what the ranks of a machine find in their environment, beside what is there already.

    Raises:
        UsageError: what is there contradicts the rank table.
    """
    if plan.training.device not in ("npu", "auto"):
        return {}
    added = _choose_network(plan, node_rank, environ)
    if plan.table is not None:
        added |= _point_at_table(plan, node_rank, environ)
        added |= _choose_devices(plan.table, node_rank, environ)
    return added


def prepare_rank_table(plan: LaunchPlan, node_rank: int) -> None:
    """Put a plan's rank table, if it has one, where HCCL reads it, in a format that it knows.

    It refuses links, which a mounted table often is, and newer releases know template 2 no more.
    Other tables are copied with all that is in them.

    Raises:
        InputError: the place cannot be written.
    """
    if plan.table is None or plan.table_path is None:
        return
    path = own_table_path(plan, node_rank)
    if plan.table.version == "template2":
        write_rank_table(plan.table, "1.0", path)
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, plan.table_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror})") from error


def own_table_path(plan: LaunchPlan, node_rank: int) -> Path:
    """Return where a machine's ranks find the rank table; machines may share the folder."""
    name = f"{plan.run_id or plan.training.name}-node{node_rank}-hccl.json"
    return plan.training.log_folder.absolute() / name


def _choose_network(plan: LaunchPlan, node_rank: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Let HCCL use the network of the given address, not the interface whose name sorts first."""
    if plan.local_addr is not None and node_rank == plan.node_rank:
        return {"HCCL_IF_IP": _require_address(plan.local_addr)}
    host = plan.hosts[node_rank]
    chosen = "HCCL_IF_IP" in environ or "HCCL_SOCKET_IFNAME" in environ
    if plan.num_nodes == 1 or host is None or chosen or parse_address(host) is None:
        return {}
    return {"HCCL_IF_IP": host}


def _require_address(text: str) -> str:
    if parse_address(text) is None:
        raise UsageError(f"--local-addr {text}: expected an address such as 10.0.0.1")
    return text


def _point_at_table(plan: LaunchPlan, node_rank: int, environ: Mapping[str, str]) -> dict[str, str]:
    for name in _OTHER_WAY:
        if name in environ:
            raise UsageError(
                f"{name} is set, which HCCL does not allow beside a rank table; unset it"
            )
    given = environ.get("HCCL_CONNECT_TIMEOUT", str(_CONNECT_S))
    if not given.isdecimal() or int(given) < _CONNECT_S:
        raise UsageError(
            f"HCCL_CONNECT_TIMEOUT={given}: with a rank table expected at least {_CONNECT_S} "
            "seconds; unset it or raise it"
        )
    return {"RANK_TABLE_FILE": str(own_table_path(plan, node_rank)), "HCCL_CONNECT_TIMEOUT": given}


def _choose_devices(table: RankTable, node_rank: int, environ: Mapping[str, str]) -> dict[str, str]:
    """Let the index of a device be the local rank, where the table has not devices 0, 1, ..."""
    server = table.servers[node_rank]
    numbers = server.device_ids
    if numbers == tuple(range(len(numbers))) or "ASCEND_RT_VISIBLE_DEVICES" in environ:
        return {}
    listed = ",".join(map(str, numbers))
    if list(numbers) != sorted(numbers):
        raise UsageError(
            f"the rank table gives the ranks of {server.server_id} the devices {listed}; they have "
            "to ascend, as ASCEND_RT_VISIBLE_DEVICES cannot list them otherwise"
        )
    return {"ASCEND_RT_VISIBLE_DEVICES": listed}
