"""What a launcher has set, read strictly, and the rank or machine that it amounts to.

What is missing or no number is named, with the launcher that is thought to have set it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from suite.errors import UsageError
from suite.launch.worker import LOOPBACK, Node, Worker


@dataclass(frozen=True)
class Seen:
    """The environment as one starter's rules read it.

    Attributes:
        environ: name -> value, none of them empty.
        starter: who is thought to have set them; begins every message.
        num_ranks: what it should amount to.
    """

    environ: Mapping[str, str]
    starter: str
    num_ranks: int

    def text(self, *names: str) -> str:
        """Return the first of these variables that is set.

        Raises:
            UsageError: none is; names the first.
        """
        name = self._find(names)
        if name not in self.environ:
            raise UsageError(f"{self.starter}: the environment variable {name} is not set")
        return self.environ[name]

    def number(self, *names: str, default: int | None = None) -> int:
        """Return the first of these variables that is set, as a number from 0.

        Raises:
            UsageError: it is no number, or none is set and there is no default.
        """
        name = self._find(names)
        if name not in self.environ and default is not None:
            return default
        text = self.text(name)
        if re.fullmatch(r"[0-9]{1,10}", text) is None:
            raise UsageError(f"{self.starter}: expected a number in {name}, got {text!r}")
        return int(text)

    def count(self, *names: str, default: int | None = None) -> int:
        """Return a number that is at least 1.

        Raises:
            UsageError: as `number`, or it is 0.
        """
        count = self.number(*names, default=default)
        if count == 0:
            raise UsageError(f"{self.starter}: expected at least 1 in {self._find(names)}, got 0")
        return count

    def port(self, *names: str, default: int | None = None) -> int:
        """Return a number that is a port.

        Raises:
            UsageError: as `number`, or it is none.
        """
        port = self.number(*names, default=default)
        if not 1 <= port <= 65535:
            raise UsageError(
                f"{self.starter}: expected a port from 1 to 65535 in {self._find(names)}, "
                f"got {port}"
            )
        return port

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
        )

    def _find(self, names: tuple[str, ...]) -> str:
        """Return the first of these variables that is set, the first of all where none is."""
        return next((name for name in names if name in self.environ), names[0])
