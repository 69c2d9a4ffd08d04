"""What a started process can be, a rank or a machine whose ranks still have to be started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

LOOPBACK: Final = "127.0.0.1"
DEFAULT_PORT: Final = 29500  # torchrun's


@dataclass(frozen=True, kw_only=True)
class Worker:
    """This process is one rank: it joins the others and trains.

    Attributes:
        rank: among all processes of all machines, from 0.
        num_ranks: how many they are.
        local_rank: among the processes of this machine; the index of its device.
        master_addr: the machine of rank 0.
        master_port: where rank 0 listens; 0 where there is one rank only.
        run_id: the same on all ranks of a job and different from other jobs', "" if unknown.
        attempt: how often an agent has started the ranks again.
        starter: who started us, for people.
    """

    rank: int
    num_ranks: int
    local_rank: int
    master_addr: str
    master_port: int
    run_id: str
    attempt: int
    starter: str


@dataclass(frozen=True, kw_only=True)
class Node:
    """This process is alone on its machine, whose ranks still have to be started.

    Attributes:
        num_nodes: machines that take part.
        node_rank: which of them this is, from 0.
        master_addr: the first machine. Machines may know it by different addresses, so only
            `node_rank` tells which of them listens.
        master_port: where it listens; 0: any free port, of a single machine.
        run_id: the same on all machines of a job and, where the starter tells, different from other
            jobs'; "" on a single machine that was not told.
    """

    num_nodes: int
    node_rank: int
    master_addr: str
    master_port: int
    run_id: str


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long ranks wait for each other.

    Attributes:
        join_s: for all of them to come.
        step_s: for one of them in a step, an evaluation or a save.
    """

    join_s: float = 300.0
    step_s: float = 600.0
