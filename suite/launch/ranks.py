"""The ranks of one run: how they meet, agree and speak to each other.

They meet at a store, where each says who it is and what it is about to train. Only ranks of the
same run, recipe and versions become a process group: two runs on one port would otherwise sum each
other's gradients without an error. What is not a tensor travels as JSON through gloo, on the host,
so that no device has to wait for it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]  # not in torch's stubs
from torch.nn.parallel import DistributedDataParallel

from suite.errors import RankLost, SuiteError, UsageError
from suite.launch.addresses import interface_towards
from suite.launch.handshake import (
    describe_differences,
    find_differences,
    shake_hands,
)
from suite.launch.heartbeat import LAUNCHED, Heart
from suite.launch.store import open_store
from suite.launch.worker import Patience, Worker
from suite.leaving import stay_whole

_NO_LIMIT: Final = timedelta(days=365)
# What gloo, NCCL, HCCL and torch's stores say when a peer is gone or does not answer.
_PEER_LOST: Final = re.compile(
    r"gloo|nccl|hccl|connection (closed|reset|refused)|broken pipe|timed out|timeout|peer|socket",
    re.IGNORECASE,
)


class Ranks:
    """This process among those that train together; `Ranks()` trains alone.

    Attributes:
        rank: from 0; rank 0 is the one that writes and speaks.
        num_ranks: on all machines.
        local_rank: on this machine, which is the index of its device.
        attempt: how often the run was restarted after a rank was lost.
    """

    def __init__(
        self, worker: Worker | None = None, *, store: Any = None, heart: Heart | None = None
    ) -> None:
        self.rank = 0 if worker is None else worker.rank
        self.num_ranks = 1 if worker is None else worker.num_ranks
        self.local_rank = 0 if worker is None else worker.local_rank
        self.attempt = 0 if worker is None else worker.attempt
        self._store = store
        self._heart = heart
        self._flag: tuple[Tensor, Any] | None = None

    @property
    def is_main(self) -> bool:
        """Whether this is the rank that writes and speaks."""
        return self.rank == 0

    def mark(self, step: int) -> None:
        """Note that this rank goes on, for whoever watches it."""
        if self._heart is not None:
            self._heart.mark(step)

    def average(self, tensor: Tensor) -> Tensor:
        """Put the mean over all ranks into a tensor, and return it."""
        if self.num_ranks > 1:
            dist.all_reduce(tensor)
            tensor /= self.num_ranks
        return tensor

    def any_before(self, raised: bool) -> bool:
        """Tell all ranks of a flag; return whether any of them had raised it at the call before.

        Every rank gets the same answer. One call late, because nobody then waits for the message;
        alone there is nobody to wait for.
        """
        if self.num_ranks == 1:
            return raised
        before = self._flag
        flag = torch.tensor([int(raised)])
        self._flag = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True)
        if before is None:
            return False
        before[1].wait()
        return bool(before[0].item())

    def gather(self, value: Any) -> list[Any]:
        """Return the plain values (JSON) of all ranks, by rank."""
        if self.num_ranks == 1:
            return [value]
        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = torch.zeros(self.num_ranks, dtype=torch.int64)
        with self._waiting():
            dist.all_gather_single(sizes, torch.tensor([len(content)]))
            longest = int(sizes.max())
            padded = nn.functional.pad(content, (0, longest - len(content)))
            gathered = torch.empty(self.num_ranks, longest, dtype=torch.uint8)
            dist.all_gather_single(gathered.view(-1), padded)
        rows = zip(gathered, sizes.tolist(), strict=True)
        return [json.loads(row[:size].numpy().tobytes()) for row, size in rows]

    def share(self, build: Callable[[], Any]) -> Any:
        """Return what `build` gives on the main rank (JSON); on the others it is not called.

        It takes as long as it takes.
        """
        with self.taking_its_time():
            value = build() if self.is_main else None
        return self.gather(value)[0]

    @contextmanager
    def taking_its_time(self) -> Iterator[None]:
        """Leave when all ranks have done what is inside, however long it takes some of them.

        For what no clock can judge: downloads, decoding a data set, pycocotools. One that goes
        meanwhile is noticed all the same.
        """
        with nullcontext() if self._heart is None else self._heart.taking_its_time():
            yield
            if self.num_ranks > 1:
                group, options = dist.group.WORLD, dist.AllreduceOptions()
                assert group is not None
                options.timeout = _NO_LIMIT
                group.allreduce([torch.zeros(1)], options).wait()

    def require_equal(self, facts: Mapping[str, str]) -> None:
        """Go on if all ranks have the same facts.

        Raises:
            UsageError: names those that differ, with the ranks; on every rank.
        """
        differences = find_differences(self.gather(dict(facts)))
        if differences:
            raise UsageError(describe_differences(differences))

    def publish(self, key: str, text: str) -> None:
        """Leave a text for ranks that `wait_for` it, now or after a restart."""
        if self._store is not None:
            self._store.set(key, text)

    def wait_for(self, key: str) -> str:
        """Return the text of a key, however long that takes: its rank is watched elsewhere."""
        self._store.wait([key], _NO_LIMIT)
        return str(self._store.get(key).decode())

    def published(self, key: str) -> str | None:
        """Return the text of a key, None where there is none yet."""
        if self._store is None or not self._store.check([key]):
            return None
        return str(self._store.get(key).decode())

    def parallel(self, module: nn.Module) -> nn.Module:
        """Return a module whose backward averages gradients over all ranks.

        Buffers stay each rank's own: batch norm in training does not read them. `share_buffers`
        gives all the main rank's before they are used.
        """
        if self.num_ranks == 1:
            return module
        device = next(module.parameters()).device
        network = DistributedDataParallel(
            module,
            device_ids=None if device.type == "cpu" else [device.index],
            forward_sync_buffers=False,
            gradient_as_bucket_view=True,
        )
        if self._heart is not None:
            # What comes after the forward pass waits for all; `mark` ends it.
            network.register_forward_hook(self._note_waiting)
        return network

    def share_buffers(self, module: nn.Module) -> None:
        """Give every rank the main rank's buffers."""
        if self.num_ranks > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wait_for_all(self) -> None:
        """Return when all ranks have come here."""
        self.gather(None)

    def _waiting(self) -> AbstractContextManager[None]:
        return nullcontext() if self._heart is None else self._heart.waiting()

    def _note_waiting(self, *_: Any) -> None:
        assert self._heart is not None
        self._heart.wait(True)


@contextmanager
def join(
    worker: Worker | None,
    *,
    backend: str,
    device: torch.device,
    facts: Mapping[str, str],
    patience: Patience,
) -> Iterator[Ranks]:
    """Meet the other ranks of a run, compare, and yield what they do together; then part.

    Args:
        worker: None, or one of a single rank, trains alone.
        backend: of torch.distributed, such as "cpu:gloo,npu:hccl".
        device: that this process has chosen already.
        facts: what has to be equal on all ranks.

    Raises:
        MissingEnvironment: they do not all come, or the store cannot be reached.
        UsageError: they are not of one run.
        RankLost: inside, another one went or no longer answers.
    """
    if worker is None or worker.num_ranks == 1:
        yield Ranks()
        return
    with Heart.beating() as heart, _heard(worker):
        store = open_store(worker, timeout_s=patience.join_s)
        shake_hands(store, worker, facts=facts, timeout_s=patience.join_s)
        _name_interface(worker)
        stay_whole()
        of_run = PrefixStore(f"run/{worker.run_id}", store)
        of_attempt = PrefixStore(f"attempt/{worker.attempt}", of_run)
        dist.init_process_group(
            backend,
            store=of_attempt,
            rank=worker.rank,
            world_size=worker.num_ranks,
            timeout=timedelta(seconds=patience.step_s),
            device_id=None if device.type == "cpu" else device,
        )
        ranks = Ranks(worker, store=of_run, heart=heart)
        with _naming_lost_peers(ranks, heart):
            yield ranks
            ranks.wait_for_all()  # nobody takes the store away from others
            # Not where one was lost: what a device was told to do with it would be waited for.
            dist.destroy_process_group()


def _name_interface(worker: Worker) -> None:
    """Tell gloo by which interface the others are reached, unless somebody has."""
    interface = interface_towards(worker.master_addr)
    if interface is not None:
        os.environ.setdefault("GLOO_SOCKET_IFNAME", interface)


@contextmanager
def _heard(worker: Worker) -> Iterator[None]:
    """Let only the main rank speak; others do in a file of their own, where they have one."""
    has_file = LAUNCHED in os.environ and worker.local_rank != 0
    if worker.rank == 0 or has_file:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
        yield


@contextmanager
def _naming_lost_peers(ranks: Ranks, heart: Heart) -> Iterator[None]:
    try:
        yield
    except SuiteError:
        raise
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _PEER_LOST.search(str(error)):
            raise
        reason = str(error).strip().splitlines()[0][:200]
        raise RankLost(
            f"rank {ranks.rank} lost another rank after step {heart.step} ({reason})"
        ) from error
