"""Who is there? Each rank says so at the store; the main rank looks whether they belong together.

A rank's place can be taken once. Whoever finds it taken, or finds a rank of another run, of another
launcher on the same machine, or with other facts, ends the run before a number is computed.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from torch.distributed import DistError, PrefixStore, TCPStore  # type: ignore[attr-defined]

from suite.errors import MissingEnvironment, UsageError
from suite.launch.ports import describe_holder
from suite.launch.worker import Worker

_POLL_S: Final = 0.1
_MOST_NAMED: Final = 16


def open_store(worker: Worker, *, timeout_s: float) -> Any:
    """Open the store that the ranks of a run meet at; the main rank serves it, or its launcher.

    Raises:
        MissingEnvironment: it cannot be reached, or the port is taken.
    """
    # torch's own name for a launcher that keeps the store for its ranks, over restarts.
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    serves = worker.rank == 0 and not served
    place = f"{worker.master_addr}:{worker.master_port}"
    try:
        return TCPStore(
            worker.master_addr,
            worker.master_port,
            world_size=worker.num_ranks,
            is_master=serves,
            timeout=timedelta(seconds=timeout_s),
            wait_for_workers=False,
        )
    except DistError as error:
        if serves and "EADDRINUSE" in str(error):
            raise MissingEnvironment(
                f"port {worker.master_port} is taken{describe_holder(worker.master_port)}; "
                "give the run another one (MASTER_PORT, or --master HOST:PORT)"
            ) from error
        raise MissingEnvironment(
            f"rank {worker.rank} cannot reach the main rank at {place} within {timeout_s:g} s; "
            "is it running there, is the name right and the port open?"
        ) from error


def shake_hands(store: Any, worker: Worker, *, facts: Mapping[str, str], timeout_s: float) -> None:
    """Return when all ranks have come and belong together.

    Args:
        facts: what has to be equal on all ranks.

    Raises:
        MissingEnvironment: ranks are missing, or strangers are at the port.
        UsageError: the ranks do not train the same.
    """
    attempt = PrefixStore(f"hello/{worker.attempt}", store)
    _take_place(attempt, worker, facts)
    if worker.rank == 0:
        verdict = _judge(_collect(attempt, worker.num_ranks, timeout_s), worker.num_ranks)
        attempt.set("verdict", json.dumps(verdict))
    else:
        verdict = _await_verdict(attempt, worker, timeout_s)
    if verdict["kind"] == "environment":
        raise MissingEnvironment(verdict["message"])
    if verdict["kind"] == "usage":
        raise UsageError(verdict["message"])


def _take_place(store: Any, worker: Worker, facts: Mapping[str, str]) -> None:
    host = socket.gethostname()
    mine = {
        "host": host,
        "pid": os.getpid(),
        "launcher": f"process {os.getppid()} on {host}",
        "run": worker.run_id,
        "facts": dict(facts),
    }
    text = json.dumps(mine)
    there = store.compare_set(f"rank/{worker.rank}", "", text).decode()
    if there != text:
        other = json.loads(there)
        raise MissingEnvironment(
            f"rank {worker.rank} is there already, process {other['pid']} on {other['host']}: "
            f"another run uses port {worker.master_port} of {worker.master_addr}; take another"
        )


def _collect(store: Any, num_ranks: int, timeout_s: float) -> dict[int, dict[str, Any]]:
    """Wait for all ranks; return what those said that came in time."""
    came: dict[int, dict[str, Any]] = {}
    deadline = time.monotonic() + timeout_s
    while len(came) < num_ranks and time.monotonic() < deadline:
        for rank in set(range(num_ranks)) - set(came):
            if store.check([f"rank/{rank}"]):
                came[rank] = json.loads(store.get(f"rank/{rank}"))
        if len(came) < num_ranks:
            time.sleep(_POLL_S)
    return came


def _judge(came: dict[int, dict[str, Any]], num_ranks: int) -> dict[str, str]:
    missing = sorted(set(range(num_ranks)) - set(came))
    if missing:
        hosts = sorted({said["host"] for said in came.values()})
        return {
            "kind": "environment",
            "message": f"{len(came)} of {num_ranks} ranks came (from {', '.join(hosts)}); "
            f"missing: {_name(missing)}; look at the machines that should have started them",
        }
    strangers = _find_strangers(came)
    if strangers:
        return {"kind": "environment", "message": strangers}
    differences = find_differences([came[rank]["facts"] for rank in range(num_ranks)])
    if differences:
        return {
            "kind": "usage",
            "message": describe_differences(differences),
        }
    return {"kind": "welcome", "message": ""}


def _find_strangers(came: dict[int, dict[str, Any]]) -> str | None:
    """Return what is wrong where ranks are of different runs, else None."""
    first = came[0]
    for rank, said in came.items():
        same_launcher = said["host"] != first["host"] or said["launcher"] == first["launcher"]
        if said["run"] != first["run"] or not same_launcher:
            return (
                f"rank {rank} (process {said['pid']} on {said['host']}) is of another run than "
                f"rank 0 (process {first['pid']} on {first['host']}): two runs use one port; "
                "give one of them another, and see that each has a run id of its own"
            )
    return None


def find_differences(facts_of_ranks: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each fact that is not the same on all ranks."""
    differences = []
    for key in facts_of_ranks[0]:
        ranks_of: dict[Any, list[int]] = {}
        for rank, facts in enumerate(facts_of_ranks):
            ranks_of.setdefault(facts.get(key), []).append(rank)
        if len(ranks_of) > 1:
            told = [f"{value} on {_name(who)}" for value, who in ranks_of.items()]
            differences.append(f"{key} is {' but '.join(told)}")
    return differences


def describe_differences(differences: list[str]) -> str:
    """Return the message about what `find_differences` found."""
    return (
        f"the ranks do not train the same: {'; '.join(differences)}; "
        "give every machine the same recipe, data and versions"
    )


def _name(ranks: list[int]) -> str:
    shown = ", ".join(str(rank) for rank in ranks[:_MOST_NAMED])
    more = f" and {len(ranks) - _MOST_NAMED} more" if len(ranks) > _MOST_NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more}"


def _await_verdict(store: Any, worker: Worker, timeout_s: float) -> dict[str, str]:
    try:
        # The main rank waits for the last one; this one may have come first.
        store.wait(["verdict"], timedelta(seconds=2 * timeout_s))
        verdict: dict[str, str] = json.loads(store.get("verdict"))
    except DistError as error:
        raise MissingEnvironment(
            f"rank {worker.rank} waited {2 * timeout_s:g} s for the main rank at "
            f"{worker.master_addr}:{worker.master_port}, which did not answer"
        ) from error
    return verdict
