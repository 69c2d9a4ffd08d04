"""Starting the ranks of one machine, in this process, with torch.distributed elastic.

Each rank runs the same command, finds in its environment which one it is, and joins the others. Its
output goes to a file of its own, but for the first rank of a machine, which has ours.
"""

from __future__ import annotations

import logging
import os
import re
import secrets
import signal
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from torch.distributed import DistError
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from suite.errors import MissingEnvironment, RankLost, Stopped, SuiteError, UsageError
from suite.launch.failure import (
    Failure,
    describe,
    find_cause,
    read_departure,
    read_error,
    read_failure,
    show_own_log,
)
from suite.launch.heartbeat import LAUNCHED, LEAVING, read_pulse
from suite.launch.ports import describe_holder
from suite.launch.store import reach_store
from suite.launch.watch import Watch, find_attempt, kill_ranks, watching
from suite.launch.worker import Node, Patience
from suite.parent import STOP_SIGNALS

_SIGNALS: Final = (*STOP_SIGNALS, signal.SIGQUIT)
# The second has a level of its own.
_LOGGERS: Final = ("torch.distributed.elastic", "torch.distributed.elastic.agent.server.api")
_SAVE_S: Final = 120  # for ranks that were asked to stop, and save


@dataclass(frozen=True, kw_only=True)
class Start:
    """How the ranks of a machine are started.

    Attributes:
        command: of every rank.
        num_processes: ranks of this machine.
        log_folder: a new one is made in it for each start.
        restarts: how often all ranks are started again after one was lost.
        patience: with ranks that do not come or do not go on.
        environment: added to that of the ranks.
    """

    command: Sequence[str]
    num_processes: int
    log_folder: Path
    restarts: int = 0
    patience: Patience = Patience()  # noqa: RUF009 - frozen, so it can be shared
    environment: Mapping[str, str] = field(default_factory=dict)


def run_node(node: Node, start: Start) -> None:
    """Start the ranks of this machine and wait until all have ended well.

    Raises:
        SuiteError: the first failure of a rank, with its exit code; 6 where a rank was lost.
        MissingEnvironment: the machines do not find each other, or no process can be started.
        UsageError: the logs cannot be written where they should.
        Stopped: a signal came; the ranks were told and have saved.
    """
    run_id = node.run_id or secrets.token_hex(4)
    log_folder = _make_log_folder(start, f"{run_id}-node{node.node_rank}-{secrets.token_hex(2)}")
    config = _build_config(node, start, run_id=run_id, log_folder=log_folder)
    _require_first_machine(node, start)
    with (
        _environment(start),
        _quiet_elastic(),
        _signals_restored(),
        _second_signal_kills(log_folder),
        watching(log_folder, patience_s=start.patience.step_s) as watch,
    ):
        try:
            elastic_launch(config, start.command[0])(*start.command[1:])
        except ChildFailedError as error:
            raise _first_failure(error, watch, log_folder) from None
        except SignalException as error:
            if not _has_ended_well(log_folder):
                raise _stopped(error, log_folder) from None
        except DistError as error:
            raise _unreachable(node, start, error) from error
        except OSError as error:
            raise MissingEnvironment(
                f"the ranks cannot be started ({error.strerror}: {error.filename}); "
                "`suite doctor` looks at room and limits"
            ) from error


def _make_log_folder(start: Start, name: str) -> Path:
    folder = start.log_folder / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made ({error.strerror}); name another --output"
        ) from error
    return folder


def _require_first_machine(node: Node, start: Start) -> None:
    """Wait for the first machine: torch would say little, or wait for ever."""
    if node.node_rank > 0:
        reach_store(
            node.master_addr,
            node.master_port,
            who=f"machine {node.node_rank}",
            timeout_s=start.patience.join_s,
        )


def _build_config(node: Node, start: Start, *, run_id: str, log_folder: Path) -> LaunchConfig:
    single = node.num_nodes == 1
    others = dict.fromkeys(range(1, start.num_processes), Std.ALL)
    settings: dict[str, Any] = {"timeout": int(start.patience.join_s)}
    if not single:
        settings["rank"] = node.node_rank
    return LaunchConfig(
        min_nodes=node.num_nodes,
        max_nodes=node.num_nodes,
        nproc_per_node=start.num_processes,
        run_id=run_id,
        # A port of the system's choice on one machine. Across machines rank order is theirs.
        rdzv_backend="c10d" if single else "static",
        rdzv_endpoint=f"{node.master_addr}:{node.master_port}",
        rdzv_configs=settings,
        local_addr=node.master_addr if single else None,
        max_restarts=start.restarts,
        logs_specs=DefaultLogsSpecs(log_dir=str(log_folder), redirects={0: Std.NONE, **others}),
        signals_to_handle=",".join(number.name for number in _heeded_signals()),
        shutdown_timeout=_SAVE_S,
    )


def _heeded_signals() -> list[signal.Signals]:
    """Return the signals that end a run; `nohup` has us ignore one."""
    return [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]


@contextmanager
def _environment(start: Start) -> Iterator[None]:
    """Give the ranks their environment, and let them share the cores."""
    threads = max(1, (os.cpu_count() or 1) // start.num_processes)
    added = {
        LAUNCHED: str(os.getpid()),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
    }
    added |= start.environment
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _signals_restored() -> Iterator[None]:
    """Put back the signal handlers that elastic replaces for good."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _second_signal_kills(log_folder: Path) -> Iterator[None]:
    """Kill the ranks when they are asked to stop once more; elastic would go on waiting."""
    heard, wakeup = socket.socketpair()
    wakeup.setblocking(False)
    before = signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
    counter = threading.Thread(target=_count_signals, args=(heard, log_folder), daemon=True)
    counter.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        wakeup.close()
        counter.join()
        heard.close()


def _count_signals(heard: socket.socket, log_folder: Path) -> None:
    stops = {int(number) for number in _heeded_signals()}
    num_stops = 0
    while numbers := heard.recv(64):
        num_stops += sum(number in stops for number in numbers)
        if num_stops > 1:
            kill_ranks(log_folder)


@contextmanager
def _quiet_elastic() -> Iterator[None]:
    """Keep elastic's own account of a failure from hiding the first sentence of it."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    if os.environ.get("SUITE_DEBUG") != "1":
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def _first_failure(error: ChildFailedError, watch: Watch, log_folder: Path) -> SuiteError:
    attempt = find_attempt(log_folder)
    assert attempt is not None
    failures = [
        read_failure(process, rank=rank, folder=attempt / str(process.local_rank))
        for rank, process in error.failures.items()
    ]
    for failure in failures:
        if failure.folder in watch.lost:
            return _lost(failure, watch.lost[failure.folder])
    cause = find_cause([*failures, *_departures(error, attempt)])
    show_own_log(cause)
    return describe(cause)


def _departures(error: ChildFailedError, attempt: Path) -> Iterator[Failure]:
    """Yield those of this machine's ranks that elastic takes for done, but were not."""
    failed = {process.local_rank: rank for rank, process in error.failures.items()}
    first_rank = min(rank - local_rank for local_rank, rank in failed.items())
    for folder in attempt.glob("[0-9]*"):
        if int(folder.name) not in failed:
            departure = read_departure(folder, rank=first_rank + int(folder.name))
            if departure is not None:
                yield departure


def _lost(failure: Failure, reason: str) -> RankLost:
    return RankLost(
        f"rank {failure.rank} on {socket.gethostname()} {reason} (process {failure.pid}); "
        "it was killed\n"
        f"logs of the ranks, and where each was (stacks.txt): {failure.folder.parent}"
    )


def _has_ended_well(log_folder: Path) -> bool:
    """Whether all ranks had done their work when the signal came."""
    attempt = find_attempt(log_folder)
    folders = [] if attempt is None else list(attempt.glob("[0-9]*"))
    pulses = [read_pulse(folder) for folder in folders if read_error(folder) is None]
    done = [pulse is not None and pulse.beats == LEAVING for pulse in pulses]
    return len(done) == len(folders) > 0 and all(done)


def _stopped(error: SignalException, log_folder: Path) -> SuiteError:
    """Return what the first rank said when it was told to stop."""
    number = signal.SIGINT if error.sigval == signal.SIGINT else signal.SIGTERM
    attempt = find_attempt(log_folder)
    folders = [] if attempt is None else sorted(attempt.glob("[0-9]*"), key=lambda f: int(f.name))
    for folder in folders:
        said = read_error(folder)
        if said is not None and said["exit_code"] != RankLost.exit_code:
            stopped = SuiteError(said["message"]["message"])
            stopped.exit_code = said["exit_code"]
            return stopped
    name = error.sigval.name
    return Stopped(f"stopped by {name} before the ranks could save", signal_number=number)


def _unreachable(node: Node, start: Start, error: DistError) -> MissingEnvironment:
    place = f"{node.master_addr}:{node.master_port}"
    if "EADDRINUSE" in str(error):
        return MissingEnvironment(
            f"port {node.master_port} is taken{describe_holder(node.master_port)}; "
            "give the run another one (--master HOST:PORT)"
        )
    came = re.search(r"(\d+)/\d+ clients joined", str(error))
    told = (
        f"{came[1]} of {node.num_nodes} machines" if came else f"not all {node.num_nodes} machines"
    )
    return MissingEnvironment(
        f"{told} came to {place} within {start.patience.join_s:g} s; is `suite launch` running on "
        "each of them, and the port open?"
    )
