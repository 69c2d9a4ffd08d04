"""What a started process can be: a rank, or a machine whose ranks still have to be started."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from suite.errors import UsageError
from suite.launch.variables import Variables

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
        starter: who started us, for people.
    """

    num_nodes: int
    node_rank: int
    master_addr: str
    master_port: int
    run_id: str
    starter: str


@dataclass(frozen=True)
class Seen(Variables):
    """The environment as one starter's rules read it.

    Attributes:
        num_ranks: what it should amount to.
    """

    num_ranks: int

    def master(self) -> tuple[str, int]:
        """Return where rank 0 listens; one rank alone needs none."""
        if self.num_ranks == 1:
            return LOOPBACK, 0
        return self.text("MASTER_ADDR"), self.port("MASTER_PORT")

    def worker(
        self, place: tuple[int, int, int], *, master: tuple[str, int], run_id: str, attempt: int = 0
    ) -> Worker:
        """Return the worker of a (rank, number of ranks, local rank) that makes sense."""
        rank, num_ranks, local_rank = place
        if num_ranks != self.num_ranks:
            raise UsageError(
                f"{self.starter} started {num_ranks} processes for a recipe of {self.num_ranks} "
                f"devices; give --devices {num_ranks}, or start {self.num_ranks}"
            )
        if rank >= num_ranks or local_rank > rank:
            raise UsageError(
                f"{self.starter}: rank {rank}, number {local_rank} of its machine, cannot be one "
                f"of {num_ranks}"
            )
        return Worker(
            rank=rank,
            num_ranks=num_ranks,
            local_rank=local_rank,
            master_addr=master[0],
            master_port=master[1],
            run_id=run_id,
            attempt=attempt,
            starter=self.starter,
        )

    def node(
        self, *, num_nodes: int, node_rank: int, master: tuple[str, int], run_id: str
    ) -> Worker | Node:
        """Return the machine; a single rank is started already, it is this process."""
        if node_rank >= num_nodes:
            raise UsageError(f"{self.starter}: machine {node_rank} cannot be one of {num_nodes}")
        if self.num_ranks % num_nodes:
            raise UsageError(
                f"{self.starter} started {num_nodes} machines for a recipe of {self.num_ranks} "
                f"devices, which they cannot share evenly; give --devices with a multiple of "
                f"{num_nodes}"
            )
        if self.num_ranks == 1:
            return self.worker((0, 1, 0), master=(LOOPBACK, 0), run_id=run_id)
        addr, port = (LOOPBACK, 0) if num_nodes == 1 else master
        return Node(
            num_nodes=num_nodes,
            node_rank=node_rank,
            master_addr=addr,
            master_port=port,
            # Machines meet under it, so there has to be one. They may know the first machine by
            # different addresses, but not by different ports.
            run_id=run_id or (f"port-{port}" if port else ""),
            starter=self.starter,
        )
