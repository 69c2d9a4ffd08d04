"""What `suite launch` starts where: machines, their ranks, who is first, and each one's command.

A plan holds for all machines alike; which of them this one is comes in only where something is
started. What it sets for HCCL follows Ascend's documents and is unverified on Ascend hardware.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from suite.errors import UsageError
from suite.launch.addresses import is_local_only
from suite.launch.rank_table import RankTable, load_rank_table
from suite.launch.worker import DEFAULT_PORT, Patience

_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_MASTER: Final = re.compile(rf"({_HOST})(?::([0-9]{{1,5}}))?")
_RUN_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Machines:
    """The machines as flags name them; None where a flag was not given.

    Attributes:
        master: HOST or HOST:PORT.
        hosts: separated by commas, the first machine first.
        rank_table: HCCL's file of machines and devices.
        local_addr: this machine's address on the network that HCCL shall use.
    """

    nnodes: int | None = None
    node_rank: int | None = None
    master: str | None = None
    hosts: str | None = None
    rank_table: Path | None = None
    local_addr: str | None = None


@dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained.

    Attributes:
        name: of the recipe.
        num_ranks: devices of all machines.
        arguments: of `suite train`: the recipe and flags.
        log_folder: gets the logs of the ranks.
    """

    name: str
    device: Literal["auto", "cpu", "cuda", "npu"]
    num_ranks: int
    arguments: tuple[str, ...]
    log_folder: Path
    patience: Patience = Patience()  # noqa: RUF009 - frozen, so it can be shared


@dataclass(frozen=True, kw_only=True)
class LaunchPlan:
    """What starts where; made by `plan_launch`, which checks it.

    Attributes:
        hosts: one a machine, None where only the machine itself knows.
        node_rank: this machine, as far as it was said.
        master_addr: the first machine; None where it was not said.
        run_id: what the machines meet under; "" on a single one: any.
        table_path: the file of the rank table, where there is one.
        table: what it says.
        local_addr: of this machine, as far as it was said.
    """

    training: Training
    hosts: tuple[str | None, ...]
    node_rank: int | None
    master_addr: str | None
    master_port: int
    run_id: str
    table_path: Path | None = None
    table: RankTable | None = None
    local_addr: str | None = None

    @property
    def num_nodes(self) -> int:
        """Return how many machines there are."""
        return len(self.hosts)

    @property
    def processes_per_node(self) -> int:
        """Return how many ranks each machine has."""
        return self.training.num_ranks // self.num_nodes

    @property
    def warnings(self) -> tuple[str, ...]:
        """Return what the rank table's reader noticed, one sentence each."""
        found = () if self.table is None else self.table.warnings
        return tuple(f"{self.table_path}: {warning}" for warning in found)

    def ranks_of(self, node_rank: int) -> range:
        """Return the ranks of a machine."""
        first = node_rank * self.processes_per_node
        return range(first, first + self.processes_per_node)

    def require_master(self) -> str:
        """Return the first machine.

        Raises:
            UsageError: there are several and nobody said which is first.
        """
        if self.master_addr is None:
            raise UsageError(
                f"which of the {self.num_nodes} machines is the first? Give --master HOST:PORT, "
                "an address at which the others reach it"
            )
        return self.master_addr


def plan_launch(machines: Machines, training: Training, *, run_id: str | None) -> LaunchPlan:
    """Work out what starts where.

    Args:
        run_id: None: one that all machines find by themselves.

    Raises:
        UsageError: the flags contradict each other or the recipe.
        InputError: the rank table's file is damaged.
    """
    table = _read_table(machines.rank_table, training)
    hosts = _find_hosts(machines, table)
    _require_even(training.num_ranks, len(hosts))
    _require_place(machines, len(hosts))
    addr, port = _find_master(machines, hosts, table)
    return LaunchPlan(
        training=training,
        hosts=hosts,
        node_rank=machines.node_rank if len(hosts) > 1 else 0,
        master_addr=addr,
        master_port=port,
        run_id=_choose_run_id(training, hosts, port) if run_id is None else _check_run_id(run_id),
        table_path=machines.rank_table,
        table=table,
        local_addr=machines.local_addr,
    )


def node_command(plan: LaunchPlan, node_rank: int) -> list[str]:
    """Return the command that starts a machine's ranks.

    Raises:
        UsageError: nobody said which machine is the first.
    """
    command = ["suite", "launch"]
    if plan.table_path is not None:
        command += ["--rank-table", str(plan.table_path)]
    if plan.num_nodes > 1:
        if plan.table_path is None:
            command += ["--nnodes", str(plan.num_nodes)]
        command += ["--node-rank", str(node_rank)]
        command += ["--master", f"{plan.require_master()}:{plan.master_port}"]
    if plan.run_id:
        command += ["--run-id", plan.run_id]
    if plan.local_addr is not None and node_rank == plan.node_rank:
        command += ["--local-addr", plan.local_addr]
    return [*command, *plan.training.arguments]


def _read_table(path: Path | None, training: Training) -> RankTable | None:
    if path is None:
        return None
    table = load_rank_table(path)
    if table.num_ranks != training.num_ranks:
        raise UsageError(
            f"{path}: the rank table has {table.num_ranks} devices, the recipe asks for "
            f"{training.num_ranks}; give --devices {table.num_ranks}, or another table"
        )
    return table


def _find_hosts(machines: Machines, table: RankTable | None) -> tuple[str | None, ...]:
    if machines.hosts is not None and table is not None:
        raise UsageError("--hosts and --rank-table both name the machines; give one of them")
    hosts: Sequence[str | None]
    if table is not None:
        flag, hosts = "--rank-table", [server.host_addr for server in table.servers]
    elif machines.hosts is not None:
        flag, hosts = "--hosts", _split_hosts(machines.hosts)
    else:
        flag, hosts = "--nnodes", [None] * (machines.nnodes or 1)
    if machines.nnodes not in (None, len(hosts)):
        raise UsageError(f"--nnodes {machines.nnodes}, but {flag} names {len(hosts)} machines")
    return tuple(hosts)


def _split_hosts(text: str) -> list[str]:
    hosts = [host.strip() for host in text.split(",")]
    for host in hosts:
        if re.fullmatch(_HOST, host) is None:
            raise UsageError(f"--hosts {text}: expected names or addresses, got {host!r}")
        if len(hosts) > 1 and is_local_only(host):
            raise UsageError(f"--hosts {text}: {host} is no address that the others can reach")
        if hosts.count(host) > 1:
            raise UsageError(f"--hosts {text}: {host} is given more than once")
    return hosts


def _require_even(num_ranks: int, num_nodes: int) -> None:
    if num_ranks % num_nodes:
        raise UsageError(
            f"{num_nodes} machines cannot share {num_ranks} devices evenly; give --devices with a "
            f"multiple of {num_nodes}, for all machines together"
        )


def _require_place(machines: Machines, num_nodes: int) -> None:
    several = (machines.nnodes, machines.hosts, machines.rank_table)
    if all(flag is None for flag in several) and (machines.node_rank, machines.master) != (
        None,
        None,
    ):
        raise UsageError("--node-rank and --master are for several machines; add --nnodes N")
    if machines.node_rank is not None and machines.node_rank >= num_nodes:
        raise UsageError(
            f"--node-rank {machines.node_rank}: {num_nodes} machines are numbered from 0 to "
            f"{num_nodes - 1}"
        )


def _find_master(
    machines: Machines, hosts: Sequence[str | None], table: RankTable | None
) -> tuple[str | None, int]:
    if machines.master is None:
        return hosts[0] if table is None else table.master_addr, DEFAULT_PORT
    found = _MASTER.fullmatch(machines.master)
    if found is None:
        raise UsageError(f"--master {machines.master}: expected HOST:PORT, such as 10.0.0.1:29500")
    port = int(found[2] or DEFAULT_PORT)
    if not 1 <= port <= 65535:
        raise UsageError(f"--master {machines.master}: expected a port from 1 to 65535, got {port}")
    return found[1], port


def _choose_run_id(training: Training, hosts: Sequence[str | None], port: int) -> str:
    """Return what every machine makes of the same flags, and other jobs hardly ever do."""
    if len(hosts) == 1:
        return ""
    each = training.num_ranks // len(hosts)
    named = ",".join(host for host in hosts if host is not None)
    digest = f"-{zlib.crc32(named.encode()):08x}" if named else ""
    return f"{training.name[:32]}-{len(hosts)}x{each}-{port}{digest}"


def _check_run_id(run_id: str) -> str:
    if _RUN_ID.fullmatch(run_id) is None:
        raise UsageError(
            f"--run-id {run_id!r}: expected at most 64 letters, digits, '.', '-' and '_', a letter "
            "or digit first"
        )
    return run_id
