"""Ranks meet at a real store: who belongs together trains, all others learn why not.

Each rank is a thread with a connection of its own.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pytest
from torch.distributed import TCPStore

from suite.errors import MissingEnvironment, SuiteError, UsageError
from suite.launch.handshake import find_differences, shake_hands
from suite.launch.store import open_store
from suite.launch.worker import Worker
from tests.ports import find_port

FACTS = {"recipe": "demo (0123)", "suite": "0.1", "torch": "2.13"}
HOST = socket.gethostname()


@dataclass(frozen=True)
class Comer:
    """A rank that comes to the store."""

    worker: Worker
    facts: Mapping[str, str]
    environ: Mapping[str, str]


def comer(
    rank: int,
    *,
    num_ranks: int = 2,
    run_id: str = "run-1",
    attempt: int = 0,
    agent: tuple[int, str] | None = None,
    **facts: str,
) -> Comer:
    """A rank; `agent` is the node rank and the log folder of torch elastic's agent."""
    worker = Worker(
        rank=rank,
        num_ranks=num_ranks,
        local_rank=rank,
        master_addr="127.0.0.1",
        master_port=1,
        run_id=run_id,
        attempt=attempt,
        starter="test",
    )
    environ = {}
    if agent is not None:
        group, folder = agent
        error_file = f"{folder}/attempt_{attempt}/{rank}/error.json"
        environ = {"GROUP_RANK": str(group), "TORCHELASTIC_ERROR_FILE": error_file}
    return Comer(worker, {**FACTS, **facts}, environ)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """A store that a launcher keeps; its port."""
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield store.port
    del store


Meet = Callable[..., list[SuiteError | None]]


@pytest.fixture
def meet(served: int) -> Meet:
    """Let ranks come one after the other and shake hands; return how each fared."""

    def run(comers: Sequence[Comer], *, timeout_s: float = 20) -> list[SuiteError | None]:
        def come(one: Comer) -> SuiteError | None:
            worker = replace(one.worker, master_port=served)
            try:
                store = open_store(worker, timeout_s=timeout_s)
                shake_hands(
                    store, worker, facts=one.facts, timeout_s=timeout_s, environ=one.environ
                )
            except SuiteError as error:
                return error
            return None

        with ThreadPoolExecutor(len(comers)) as threads:
            return list(threads.map(come, comers))

    return run


def assert_all_refused(fared: list[SuiteError | None], kind: type[SuiteError], text: str) -> None:
    for error in fared:
        assert isinstance(error, kind), error
        assert text in str(error), error


def test_ranks_of_one_run_are_welcome(meet: Meet) -> None:
    assert meet([comer(rank, num_ranks=5) for rank in (3, 0, 4, 1, 2)]) == [None] * 5


def test_ranks_that_are_started_again_meet_afresh(meet: Meet) -> None:
    assert meet([comer(0), comer(1)]) == [None, None]
    assert meet([comer(0, attempt=1), comer(1, attempt=1)]) == [None, None]


def test_missing_ranks_are_listed_in_time(meet: Meet) -> None:
    start = time.monotonic()
    fared = meet([comer(rank, num_ranks=5) for rank in (0, 2)], timeout_s=1)
    assert time.monotonic() - start < 5
    assert_all_refused(
        fared,
        MissingEnvironment,
        f"2 of 5 ranks came (from {HOST}); missing: ranks 1, 3, 4; look at the machines",
    )


def test_a_long_list_of_missing_ranks_is_cut(meet: Meet) -> None:
    (error,) = meet([comer(0, num_ranks=1024)], timeout_s=0.5)
    assert "1 of 1024 ranks came" in str(error)
    assert "14, 15, 16 and 1007 more;" in str(error)


def test_a_missing_main_rank_is_named_in_time(meet: Meet) -> None:
    start = time.monotonic()
    fared = meet([comer(1)], timeout_s=0.5)
    assert time.monotonic() - start < 4
    assert_all_refused(
        fared, MissingEnvironment, "rank 1 got no answer from the main rank at 127.0.0.1:"
    )


def test_a_rank_of_another_run_is_refused_and_does_not_disturb(meet: Meet) -> None:
    foreign = comer(1, run_id="run-2")
    fared = meet([foreign, comer(0), comer(1)])
    assert fared[1:] == [None, None]
    assert_all_refused(fared[:1], MissingEnvironment, "is run 'run-1' (process")
    assert "rank 1 is of run 'run-2': two runs use one port" in str(fared[0])


def test_a_main_rank_of_another_run_is_refused(meet: Meet) -> None:
    assert meet([comer(0), comer(1)]) == [None, None]
    fared = meet([comer(0, run_id="run-2"), comer(1, run_id="run-2")], timeout_s=1)
    assert_all_refused(fared[:1], MissingEnvironment, "rank 0 is there already, process")
    assert_all_refused(fared[1:], MissingEnvironment, "is run 'run-1' (process")


def test_who_comes_second_for_a_rank_is_refused(meet: Meet) -> None:
    assert meet([comer(0), comer(1)]) == [None, None]
    fared = meet([comer(1)])
    assert_all_refused(fared, MissingEnvironment, f"rank 1 is there already, process {os.getpid()}")


def test_a_rank_that_came_twice_ends_the_run_for_all(meet: Meet) -> None:
    # The fourth keeps the main rank waiting until both of the others have come.
    late = threading.Timer(1.5, lambda: fared.append(*meet([comer(3, num_ranks=4)])))
    fared: list[SuiteError | None] = []
    late.start()
    fared += meet([comer(0, num_ranks=4), *[comer(r, num_ranks=4) for r in (1, 1, 2)]])
    late.join()
    assert len(fared) == 5
    assert all(isinstance(error, MissingEnvironment) for error in fared)
    told = [str(error) for error in fared]
    assert sum("rank 1 is there already" in text for text in told) == 1
    assert sum("rank 1 came twice, once as process" in text for text in told) == 4


def test_a_rank_beyond_the_number_of_ranks_is_refused(meet: Meet) -> None:
    """It would wait for others in a process group of another size."""
    fared = meet([comer(0), comer(1), comer(2, num_ranks=3)])
    assert fared[:2] == [None, None]
    assert_all_refused(fared[2:], UsageError, "rank 2 is one of 3, but the main rank at 127.0.0.1:")
    assert "is one of 2" in str(fared[2])


# Who is of one run where run ids do not tell


def test_agents_of_two_nodes_may_share_a_host(meet: Meet) -> None:
    first, second = (0, "/tmp/torchelastic_a/none_x"), (1, "/tmp/torchelastic_b/none_y")
    comers = [comer(r, num_ranks=4, run_id="none", agent=(first, second)[r // 2]) for r in range(4)]
    assert meet(comers) == [None] * 4


def test_two_agents_of_the_same_node_rank_are_two_runs(meet: Meet) -> None:
    ours, theirs = (0, "/tmp/torchelastic_a/none_x"), (0, "/tmp/torchelastic_b/none_y")
    comers = [comer(0, run_id="none", agent=ours), comer(1, run_id="none", agent=theirs)]
    assert_all_refused(meet(comers), MissingEnvironment, "is of another run than rank 0 (process")


@pytest.mark.parametrize(
    ("run_id", "sessions", "one_run"),
    [("", (7, 7), True), ("", (7, 8), False), ("job-3", (7, 8), True)],
)
def test_without_a_run_id_ranks_of_a_host_are_of_one_session(
    meet: Meet,
    monkeypatch: pytest.MonkeyPatch,
    run_id: str,
    sessions: tuple[int, int],
    one_run: bool,
) -> None:
    """A run started by hand: each rank may have a shell of its own, but not a terminal."""
    turn = iter(sessions)
    monkeypatch.setattr(os, "getsid", lambda _pid: next(turn))
    fared = meet([comer(0, run_id=run_id), comer(1, run_id=run_id)])
    if one_run:
        assert fared == [None, None]
    else:
        assert_all_refused(fared, MissingEnvironment, "give all the same TORCHELASTIC_RUN_ID")


# Whether all train the same


def test_other_recipes_and_versions_are_named_with_their_ranks(meet: Meet) -> None:
    recipes = ["demo (0123)", "demo (4567)", "demo (0123)", "demo (4567)"]
    comers = [comer(r, num_ranks=4, recipe=recipes[r]) for r in range(4)]
    comers[3] = replace(comers[3], facts={**comers[3].facts, "torch": "2.14"})
    fared = meet(comers)
    assert_all_refused(
        fared, UsageError, "recipe is demo (0123) on ranks 0, 2 but demo (4567) on ranks 1, 3"
    )
    assert_all_refused(fared, UsageError, "torch is 2.13 on ranks 0, 1, 2 but 2.14 on rank 3")


def test_a_fact_that_the_main_rank_does_not_have_is_a_difference() -> None:
    assert find_differences([{"a": "1"}, {"a": "1", "b": "2"}]) == [
        "b is None on rank 0 but 2 on rank 1"
    ]


# Reaching the store


@pytest.fixture
def free_port() -> int:
    return find_port()


def refuse(worker: Worker, timeout_s: float) -> tuple[SuiteError, float]:
    """Return why a store could not be opened, and after how many seconds."""
    start = time.monotonic()
    with pytest.raises(MissingEnvironment) as refused:
        open_store(worker, timeout_s=timeout_s)
    return refused.value, time.monotonic() - start


@pytest.mark.parametrize("addr", ["no-such-host.invalid", "127.0.0.1"])
def test_a_main_rank_that_cannot_be_reached_is_told_within_the_time(
    addr: str, free_port: int
) -> None:
    worker = replace(comer(1).worker, master_addr=addr, master_port=free_port)
    error, seconds = refuse(worker, 1)
    assert f"rank 1 cannot reach the main rank at {addr}:{free_port} within 1 s" in str(error)
    assert seconds < 2
    assert error.exit_code == 4


def test_a_port_with_something_else_is_given_up_within_the_time() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        worker = replace(comer(1).worker, master_port=silent.getsockname()[1])
        error, seconds = refuse(worker, 1)
    assert "does not answer rank 1 as the main rank would; is it another program?" in str(error)
    assert seconds < 2.5


def test_a_taken_port_is_told_with_its_process() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        error, seconds = refuse(replace(comer(0).worker, master_port=port), 5)
    assert f"port {port} is taken by process {os.getpid()} (" in str(error)
    assert "give the run another port" in str(error)
    assert seconds < 2


def test_a_main_rank_serves_even_where_it_does_not_know_its_own_name(free_port: int) -> None:
    named = {"master_addr": "no-such-host.invalid", "master_port": free_port}
    store = open_store(replace(comer(0).worker, **named), timeout_s=1)
    found = open_store(replace(comer(1).worker, master_port=free_port), timeout_s=5)
    store.set("key", "value")
    assert found.get("key") == b"value"


def test_why_a_run_ends_is_read_before_the_main_rank_takes_the_store_away(free_port: int) -> None:
    """The main rank serves the store, and may be gone before others have asked."""
    told: dict[int, str] = {}

    def come(rank: int, facts: Mapping[str, str]) -> None:
        worker = replace(comer(rank).worker, master_port=free_port)
        with pytest.raises(UsageError) as refused:
            shake_hands(open_store(worker, timeout_s=10), worker, facts=facts, timeout_s=10)
        told[rank] = str(refused.value)

    ranks = [
        threading.Thread(target=come, args=(0, {"recipe": "a"})),
        threading.Thread(target=come, args=(1, {"recipe": "b"})),
    ]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join()
    assert told[0] == told[1]
    assert "recipe is a on rank 0 but b on rank 1" in told[0]


def test_a_main_rank_that_has_gone_is_not_waited_for(free_port: int) -> None:
    store = TCPStore("127.0.0.1", free_port, is_master=True, wait_for_workers=False)
    worker = replace(comer(1).worker, master_port=free_port)
    client = open_store(worker, timeout_s=10)
    del store
    start = time.monotonic()
    with pytest.raises(MissingEnvironment, match="it has gone, or did not come"):
        shake_hands(client, worker, facts={}, timeout_s=10)
    assert time.monotonic() - start < 5
