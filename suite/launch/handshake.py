"""Who is there? Each rank says so at the store; the main rank looks whether they belong together.

The main rank comes first. Whoever finds one of another run there goes away, and does not disturb
it. A rank's place can be taken once; that it was wanted twice, that ranks of one group have several
launchers, or that they have other facts ends the run on all ranks before a number is computed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import time
from collections.abc import Iterable, Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from torch.distributed import DistError, PrefixStore  # type: ignore[attr-defined]

from suite.errors import MissingEnvironment, UsageError
from suite.launch.heartbeat import ERROR_FILE
from suite.launch.store import OTHER_PORT
from suite.launch.worker import Worker

_POLL_S: Final = 0.1
_READ_S: Final = 5.0  # for the others to read why the run ends, before the store goes
_MOST_NAMED: Final = 16
_MAIN: Final = "rank/0"
_TWO_RUNS: Final = f"two runs use one port; {OTHER_PORT}"
_ONE_BY_HAND: Final = (
    ". If they are one, started by hand in several places, give all the same TORCHELASTIC_RUN_ID"
)

Said = dict[str, Any]


def shake_hands(
    store: Any,
    worker: Worker,
    *,
    facts: Mapping[str, str],
    timeout_s: float,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Return when all ranks have come and belong together.

    Args:
        facts: what has to be equal on all ranks.
        environ: where torch elastic says which of its agents has started this rank.

    Raises:
        MissingEnvironment: ranks are missing, or strangers are at the port.
        UsageError: the ranks do not train the same.
    """
    attempt = PrefixStore(f"hello/{worker.attempt}", store)
    mine = _introduce(worker, facts, environ)
    if worker.rank == 0:
        _take_place(attempt, worker, mine)
        came = _collect(attempt, worker.num_ranks, timeout_s)
        verdict = _judge(attempt, came, worker.num_ranks)
        attempt.set("verdict", json.dumps(verdict))
        if verdict["kind"] != "welcome":
            _await_keys(attempt, [f"read/{rank}" for rank in came if rank], _READ_S)
    else:
        _require_own_run(_await_key(attempt, _MAIN, worker, timeout_s), worker, mine)
        _take_place(attempt, worker, mine)
        # The main rank waits as long for the last one.
        verdict = _await_key(attempt, "verdict", worker, timeout_s + _READ_S)
        attempt.set(f"read/{worker.rank}", "")
    if verdict["kind"] == "environment":
        raise MissingEnvironment(verdict["message"])
    if verdict["kind"] == "usage":
        raise UsageError(verdict["message"])


def _introduce(worker: Worker, facts: Mapping[str, str], environ: Mapping[str, str]) -> Said:
    host = socket.gethostname()
    group, launcher = _find_launcher(worker, host, environ)
    return {
        "host": host,
        "pid": os.getpid(),
        # Containers can have the same name, and the same numbers of processes.
        "token": secrets.token_hex(8),
        "run": worker.run_id,
        "num_ranks": worker.num_ranks,
        "group": group,
        "launcher": launcher,
        "facts": dict(facts),
    }


def _find_launcher(worker: Worker, host: str, environ: Mapping[str, str]) -> tuple[str, str]:
    """Return a group of ranks that have one launcher, and which one this rank has.

    Run ids may be the same by accident: torchrun calls every run "none". Parent processes prove
    nothing, as each rank may have a shell of its own.
    """
    error_file = environ.get(ERROR_FILE)
    if error_file:  # in a folder that torch elastic makes for each of its agents
        group_rank = environ.get("GROUP_RANK", "0")
        return f"node rank {group_rank}", f"{host}:{Path(error_file).parent.parent}"
    if worker.run_id:  # of a scheduler, which gives each run its own
        return "", ""
    session = os.getsid(0) if hasattr(os, "getsid") else 0
    return f"host {host}", f"session {session}"


def _take_place(store: Any, worker: Worker, mine: Said) -> None:
    text = json.dumps(mine)
    there = store.compare_set(f"rank/{worker.rank}", "", text).decode()
    if there != text:
        store.set("contested", str(worker.rank))
        raise MissingEnvironment(
            f"rank {worker.rank} is there already, {_describe(json.loads(there))}: it was started "
            f"twice, or another run uses port {worker.master_port} of {worker.master_addr}; take "
            "another"
        )


def _collect(store: Any, num_ranks: int, timeout_s: float) -> dict[int, Said]:
    """Wait for all ranks; return what those said that came in time."""
    _await_keys(store, [f"rank/{rank}" for rank in range(num_ranks)], timeout_s)
    came = [rank for rank in range(num_ranks) if store.check([f"rank/{rank}"])]
    return {rank: json.loads(store.get(f"rank/{rank}")) for rank in came}


def _await_keys(store: Any, keys: list[str], timeout_s: float) -> None:
    """Wait until all keys are set, or the time is over."""
    deadline = time.monotonic() + timeout_s
    missing = keys
    while missing and time.monotonic() < deadline:
        missing = [key for key in missing if not store.check([key])]
        if missing:
            time.sleep(_POLL_S)


def _judge(store: Any, came: dict[int, Said], num_ranks: int) -> dict[str, str]:
    missing = sorted(set(range(num_ranks)) - set(came))
    if missing:
        hosts = sorted({said["host"] for said in came.values()})
        return {
            "kind": "environment",
            "message": f"{len(came)} of {num_ranks} ranks came (from {', '.join(hosts)}); "
            f"missing: {_name(missing)}; look at the machines that should have started them",
        }
    strangers = _find_strangers(came)
    if strangers is None and store.check(["contested"]):
        rank = int(store.get("contested"))
        strangers = f"rank {rank} came twice, once as {_describe(came[rank])}: {_TWO_RUNS}"
    if strangers:
        return {"kind": "environment", "message": strangers}
    differences = find_differences([came[rank]["facts"] for rank in range(num_ranks)])
    if differences:
        return {"kind": "usage", "message": describe_differences(differences)}
    return {"kind": "welcome", "message": ""}


def _find_strangers(came: dict[int, Said]) -> str | None:
    """Return what is wrong where ranks of one group have several launchers, else None."""
    first_of: dict[str, int] = {}
    for rank, said in came.items():
        first = first_of.setdefault(said["group"], rank)
        if said["launcher"] != came[first]["launcher"]:
            told = "" if said["run"] else _ONE_BY_HAND
            return (
                f"rank {rank} ({_describe(said)}) is of another run than rank {first} "
                f"({_describe(came[first])}): {_TWO_RUNS}{told}"
            )
    return None


def _require_own_run(main: Said, worker: Worker, mine: Said) -> None:
    place = f"{worker.master_addr}:{worker.master_port}"
    if main["run"] != mine["run"]:
        raise MissingEnvironment(
            f"at {place} is run {main['run']!r} ({_describe(main)}), and rank {worker.rank} is of "
            f"run {mine['run']!r}: {_TWO_RUNS}"
        )
    if worker.rank >= main["num_ranks"]:
        raise UsageError(
            f"rank {worker.rank} is one of {worker.num_ranks}, but the main rank at {place} "
            f"({_describe(main)}) is one of {main['num_ranks']}; start all for the same number"
        )


def find_differences(facts_of_ranks: list[dict[str, Any]]) -> list[str]:
    """Return a sentence for each fact that is not the same on all ranks."""
    differences = []
    for key in dict.fromkeys(key for facts in facts_of_ranks for key in facts):
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


def _describe(said: Said) -> str:
    return f"process {said['pid']} on {said['host']}"


def _name(ranks: Iterable[int]) -> str:
    ranks = list(ranks)
    shown = ", ".join(str(rank) for rank in ranks[:_MOST_NAMED])
    more = f" and {len(ranks) - _MOST_NAMED} more" if len(ranks) > _MOST_NAMED else ""
    return f"rank{'s' if len(ranks) > 1 else ''} {shown}{more}"


def _await_key(store: Any, key: str, worker: Worker, timeout_s: float) -> Said:
    try:
        store.wait([key], timedelta(seconds=timeout_s))
        answer: Said = json.loads(store.get(key))
    except DistError as error:
        raise MissingEnvironment(
            f"rank {worker.rank} got no answer from the main rank at {worker.master_addr}:"
            f"{worker.master_port}: it has gone, or did not come within {timeout_s:g} s"
        ) from error
    return answer
