"""Who started a process: one table of environments as launchers set them, and all refusals."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.errors import UsageError
from suite.launch.slurm import first_host
from suite.launch.starter import recognise
from suite.launch.worker import Node, Worker

Environ = dict[str, str]

# What `srun` sets, seen on a cluster with Slurm 23; the second of two machines.
SRUN = {
    "SLURM_JOB_ID": "1808417",
    "SLURM_STEP_ID": "0",
    "SLURM_JOB_NAME": "train.sh",
    "SLURM_JOB_NODELIST": "gpu[07-08]",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_NNODES": "2",
    "SLURM_NODEID": "1",
}
ONE_A_MACHINE = SRUN | {
    "SLURM_STEP_NUM_TASKS": "2",
    "SLURM_NTASKS": "2",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}
ONE_A_DEVICE = SRUN | {
    "SLURM_STEP_NUM_TASKS": "16",
    "SLURM_NTASKS": "16",
    "SLURM_PROCID": "11",
    "SLURM_LOCALID": "3",
}
AGENT = {
    "TORCHELASTIC_RUN_ID": "job-7",
    "TORCHELASTIC_RESTART_COUNT": "2",
    "RANK": "3",
    "LOCAL_RANK": "1",
    "WORLD_SIZE": "4",
    "MASTER_ADDR": "node0",
    "MASTER_PORT": "29501",
}
TRAINER_V2 = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "8",
    "PET_NODE_RANK": "1",
    "PET_MASTER_ADDR": "ssd-node-0-0.ssd",
    "PET_MASTER_PORT": "29500",
}
TRAINER_V1 = {
    "KUBERNETES_SERVICE_HOST": "10.96.0.1",
    "HOSTNAME": "ssd-worker-0",
    "MASTER_ADDR": "ssd-master-0",
    "MASTER_PORT": "23456",
    "WORLD_SIZE": "2",
    "RANK": "1",
}
ASCEND = {
    "HOSTNAME": "ssd-worker-0",
    "MASTER_ADDR": "10.108.3.7",
    "MASTER_PORT": "2222",
    "WORLD_SIZE": "16",
    "RANK": "1",
    "LOCAL_WORLD_SIZE": "8",
    "LOCAL_RANK": "{0,1,2,3,4,5,6,7}",
}
OPEN_MPI = {
    "PMIX_NAMESPACE": "prterun-node0-771@1",
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4",
}
HYDRA = {
    "PMI_RANK": "2",
    "PMI_SIZE": "4",
    "MPI_LOCALRANKID": "2",
    "MPI_LOCALNRANKS": "4",
}
BY_HAND = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "MASTER_ADDR": "10.0.0.1",
    "MASTER_PORT": "29400",
}


def without(environ: Environ, *names: str) -> Environ:
    return {name: value for name, value in environ.items() if name not in names}


def worker(rank: int, num_ranks: int, local_rank: int, **rest: Any) -> Worker:
    return Worker(rank=rank, num_ranks=num_ranks, local_rank=local_rank, **{"attempt": 0, **rest})


def node(node_rank: int, num_nodes: int, **rest: Any) -> Node:
    return Node(node_rank=node_rank, num_nodes=num_nodes, **rest)


SLURM = {"master_addr": "gpu07", "master_port": 15000 + 8417, "run_id": "1808417.0"}
AGENT_WORKER = worker(
    3, 4, 1, attempt=2, run_id="job-7", starter="torch elastic", master_addr="node0",
    master_port=29501,
)  # fmt: skip
HAND_WORKER = worker(
    1, 4, 1, run_id="", starter="environment", master_addr="10.0.0.1", master_port=29400
)
ALONE = {"master_addr": "127.0.0.1", "master_port": 0}


@pytest.mark.parametrize(
    ("environ", "num_ranks", "expected"),
    [
        # Nobody but the user.
        ({}, 1, worker(0, 1, 0, **ALONE, run_id="", starter="this command")),
        ({}, 8, node(0, 1, **ALONE, run_id="")),
        ({"RANK": " "}, 4, node(0, 1, **ALONE, run_id="")),
        ({"WORLD_SIZE": "3"}, 2, node(0, 1, **ALONE, run_id="")),
        # An agent's child sees whatever else started the agent.
        (AGENT, 4, AGENT_WORKER),
        (TRAINER_V2 | ONE_A_MACHINE | OPEN_MPI | AGENT, 4, AGENT_WORKER),
        (
            without(AGENT, "TORCHELASTIC_RESTART_COUNT")
            | {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
            1,
            worker(0, 1, 0, **ALONE, run_id="job-7", starter="torch elastic"),
        ),
        # All five by hand, or by a launcher we do not know: inside of any scheduler.
        (BY_HAND, 4, HAND_WORKER),
        (ONE_A_MACHINE | BY_HAND, 4, HAND_WORKER),
        (TRAINER_V2 | BY_HAND, 4, HAND_WORKER),
        (
            {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"},
            1,
            worker(0, 1, 0, **ALONE, run_id="", starter="environment"),
        ),
        # Kubeflow.
        (
            TRAINER_V2,
            16,
            node(
                1, 2, master_addr="ssd-node-0-0.ssd", master_port=29500,
                run_id="ssd-node-0-0.ssd-29500",
            ),
        ),
        (
            TRAINER_V2 | {"PET_NPROC_PER_NODE": "auto"},
            4,
            node(
                1, 2, master_addr="ssd-node-0-0.ssd", master_port=29500,
                run_id="ssd-node-0-0.ssd-29500",
            ),
        ),
        (
            TRAINER_V2 | {"PET_NNODES": "1", "PET_NODE_RANK": "0"},
            8,
            node(0, 1, **ALONE, run_id=""),
        ),
        (
            {"PET_NNODES": "1", "PET_NPROC_PER_NODE": "1"},
            1,
            worker(0, 1, 0, **ALONE, run_id="", starter="Kubeflow"),
        ),
        # Its operator v1 of 1.7 and later: WORLD_SIZE counts processes, RANK pods.
        (
            TRAINER_V1
            | {"WORLD_SIZE": "16", "PET_NNODES": "2", "PET_NODE_RANK": "1",
               "PET_NPROC_PER_NODE": "8"},
            16,
            node(
                1, 2, master_addr="ssd-master-0", master_port=23456,
                run_id="ssd-master-0-23456",
            ),
        ),
        # Before: WORLD_SIZE and RANK count pods.
        (
            TRAINER_V1,
            16,
            node(
                1, 2, master_addr="ssd-master-0", master_port=23456, run_id="ssd",
            ),
        ),
        (
            TRAINER_V1,
            2,
            worker(
                1, 2, 0, master_addr="ssd-master-0", master_port=23456, run_id="ssd",
                starter="environment",
            ),
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "1"},
            1,
            worker(0, 1, 0, **ALONE, run_id="", starter="environment"),
        ),
        (
            {"RANK": "0", "WORLD_SIZE": "1"},
            8,
            node(0, 1, **ALONE, run_id=""),
        ),
        (
            without(TRAINER_V1, "KUBERNETES_SERVICE_HOST", "HOSTNAME"),
            16,
            node(
                1, 2, master_addr="ssd-master-0", master_port=23456, run_id="port-23456",
            ),
        ),
        # The Ascend Operator.
        (
            ASCEND,
            16,
            node(
                1, 2, master_addr="10.108.3.7", master_port=2222, run_id="ssd",
            ),
        ),
        (
            without(ASCEND, "LOCAL_WORLD_SIZE", "HOSTNAME"),
            16,
            node(
                1, 2, master_addr="10.108.3.7", master_port=2222, run_id="port-2222",
            ),
        ),
        (
            ASCEND | {"WORLD_SIZE": "8", "RANK": "0"},
            8,
            node(0, 1, **ALONE, run_id="ssd"),
        ),
        (
            ASCEND | {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "{0}"},
            1,
            worker(0, 1, 0, **ALONE, run_id="ssd", starter="the Ascend Operator"),
        ),
        # Slurm, a task a machine and a task a device.
        (ONE_A_MACHINE, 16, node(1, 2, **SLURM)),
        (ONE_A_DEVICE, 16, worker(11, 16, 3, **SLURM, starter="Slurm")),
        (ONE_A_MACHINE, 2, worker(1, 2, 0, **SLURM, starter="Slurm")),
        (without(ONE_A_MACHINE, "SLURM_STEP_NUM_TASKS", "SLURM_STEP_NUM_NODES"), 16,
         node(1, 2, **SLURM)),
        (ONE_A_DEVICE | {"RANK": "11", "WORLD_SIZE": "16"}, 16,
         worker(11, 16, 3, **SLURM, starter="Slurm")),
        (
            ONE_A_MACHINE | {"MASTER_ADDR": "10.0.0.7", "MASTER_PORT": "1234"},
            16,
            node(1, 2, **SLURM | {"master_addr": "10.0.0.7", "master_port": 1234}),
        ),
        # An allocation of 8 tasks, one of which is started.
        (
            ONE_A_MACHINE
            | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "8",
               "SLURM_PROCID": "0", "SLURM_NODEID": "0"},
            8,
            node(0, 1, **ALONE, run_id="1808417.0"),
        ),
        (
            ONE_A_MACHINE
            | {"SLURM_STEP_NUM_TASKS": "1", "SLURM_STEP_NUM_NODES": "1", "SLURM_PROCID": "0",
               "SLURM_NODEID": "0"},
            1,
            worker(0, 1, 0, **SLURM, starter="Slurm"),
        ),
        # `srun --mpi=pmi2` sets these two as well.
        (ONE_A_MACHINE | {"PMI_RANK": "1", "PMI_SIZE": "2"}, 16, node(1, 2, **SLURM)),
        # MPI, on one machine and on several; inside of Slurm its daemons are the tasks.
        (
            OPEN_MPI,
            4,
            worker(
                2, 4, 2, master_addr="127.0.0.1", master_port=23298, starter="Open MPI",
                run_id="prterun-node0-771@1",
            ),
        ),
        (
            OPEN_MPI
            | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "0",
               "MASTER_ADDR": "node0", "MASTER_PORT": "29600"},
            4,
            worker(
                2, 4, 0, master_addr="node0", master_port=29600, starter="Open MPI",
                run_id="prterun-node0-771@1",
            ),
        ),
        (
            without(OPEN_MPI, "PMIX_NAMESPACE") | ONE_A_MACHINE,
            4,
            worker(
                2, 4, 2, master_addr="127.0.0.1", master_port=15000 + 8417, starter="Open MPI",
                run_id="1808417",
            ),
        ),
        (
            HYDRA,
            4,
            worker(2, 4, 2, master_addr="127.0.0.1", master_port=29500, starter="MPI", run_id=""),
        ),
        (
            without(HYDRA, "MPI_LOCALRANKID", "MPI_LOCALNRANKS")
            | {"PALS_LOCAL_RANKID": "0", "PALS_LOCAL_SIZE": "2", "MASTER_ADDR": "x1",
               "PBS_JOBID": "77.polaris"},
            4,
            worker(2, 4, 0, master_addr="x1", master_port=19544, starter="MPI",
                   run_id="77.polaris"),
        ),
    ],
)  # fmt: skip
def test_recognises(environ: Environ, num_ranks: int, expected: Worker | Node) -> None:
    assert recognise(environ, num_ranks=num_ranks) == expected


@pytest.mark.parametrize(
    "environ",
    [
        # A batch script, and a shell of `salloc`: no step.
        without(ONE_A_DEVICE, "SLURM_STEP_ID") | {"SLURM_PROCID": "0"},
        # The shell that `salloc` starts where the site has use_interactive_step.
        ONE_A_DEVICE | {"SLURM_STEP_ID": "4294967290", "SLURM_PROCID": "0"},
        # `srun --ntasks 16 --pty bash`: the other fifteen have ended.
        ONE_A_DEVICE
        | {"SLURM_JOB_NAME": "bash", "SLURM_PTY_PORT": "34889", "SLURM_PROCID": "0"},
    ],
)  # fmt: skip
def test_a_shell_inside_an_allocation_is_no_task(environ: Environ) -> None:
    found = recognise(environ, num_ranks=16)
    assert found == node(0, 1, **ALONE, run_id="")


@pytest.mark.parametrize(
    "environ",
    [
        # srun from a shell of `salloc`, which calls every job so.
        {"SLURM_JOB_NAME": "interactive"},
        # srun from a shell of `srun --pty bash`, whose variables it hands on.
        {"SLURM_JOB_NAME": "bash", "SLURM_PTY_PORT": "34889", "SLURM_STEP_ID": "1"},
        # srun in a batch job of that name.
        {"SLURM_JOB_NAME": "bash"},
    ],
)
def test_a_task_started_from_a_shell_is_a_task(environ: Environ) -> None:
    for task in range(16):
        own = {"SLURM_PROCID": str(task), "SLURM_LOCALID": "0"}
        found = recognise(ONE_A_DEVICE | environ | own, num_ranks=16)
        assert isinstance(found, Worker) and found.rank == task


@pytest.mark.parametrize(
    ("environ", "num_ranks", "words"),
    [
        # Another number of processes than the recipe has devices.
        (AGENT, 8, "torch elastic started 4 processes .* 8 devices.*--devices 4"),
        (AGENT, 1, "torch elastic started 4 processes .* 1 devices.*--devices 4"),
        (BY_HAND, 8, "environment started 4 processes .* 8 devices.*--devices 4"),
        (OPEN_MPI, 2, "Open MPI started 4 processes .* 2 devices.*--devices 4"),
        (ASCEND, 8, "Ascend Operator gave the job 16 devices.* for 8; give --devices 16"),
        (ONE_A_DEVICE, 8, "16 tasks on 2 machines .* 8 devices.*srun --ntasks 8 .*--ntasks 2 "
         ".*--devices 16"),
        (ONE_A_DEVICE, 1, "16 tasks on 2 machines"),
        (TRAINER_V2, 8, "2 machines 8 processes each.* 8 devices; give --devices 16.*numProcPer"),
        (TRAINER_V2 | {"PET_NPROC_PER_NODE": "64"}, 16, "64 processes each.*--devices 128"),
        # Machines that cannot share them.
        (ONE_A_MACHINE, 5, "Slurm started 2 machines .* 5 devices.* multiple of 2"),
        (ONE_A_MACHINE, 1, "Slurm started 2 machines .* 1 devices"),
        (TRAINER_V2 | {"PET_NPROC_PER_NODE": "auto"}, 3, "Kubeflow started 2 machines .* 3 dev"),
        (ASCEND | {"LOCAL_WORLD_SIZE": "3"}, 16, "16 devices .*WORLD_SIZE.* 3 "),
        (ASCEND | {"LOCAL_WORLD_SIZE": "0"}, 16, "at least 1 in LOCAL_WORLD_SIZE"),
        # A machine or a process?
        (without(BY_HAND, "LOCAL_RANK"), 4,
         "RANK=1 and WORLD_SIZE=4.*machine or a process.*LOCAL_RANK.*suite launch --nnodes"),
        (without(BY_HAND, "LOCAL_RANK"), 2, "machine or a process"),
        (without(BY_HAND, "LOCAL_RANK"), 6, "machine or a process"),
        (TRAINER_V1, 1, "machine or a process"),
        (without(BY_HAND, "LOCAL_RANK") | {"WORLD_SIZE": "0"}, 4, "machine or a process"),
        # Numbers that cannot be.
        (AGENT | {"RANK": "4"}, 4, "rank 4"),
        (AGENT | {"LOCAL_RANK": "4"}, 4, "number 4"),
        (TRAINER_V2 | {"PET_NODE_RANK": "2"}, 16, "machine 2 cannot be one of 2"),
        (TRAINER_V2 | {"PET_NNODES": "0"}, 16, "at least 1 in PET_NNODES"),
        (TRAINER_V2 | {"PET_NNODES": "1:4"}, 16, "PET_NNODES=1:4.*elasticPolicy"),
        (ONE_A_MACHINE | {"MASTER_PORT": "0"}, 16, "port from 1 to 65535.*MASTER_PORT"),
        (BY_HAND | {"MASTER_PORT": "70000"}, 4, "port from 1 to 65535.*70000"),
        # Of several variables the one that is set is named.
        (without(TRAINER_V2, "PET_MASTER_PORT") | {"MASTER_PORT": "0"}, 16,
         "port from 1 to 65535 in MASTER_PORT, got 0"),
        (without(ONE_A_MACHINE, "SLURM_STEP_NUM_NODES") | {"SLURM_NNODES": "0"}, 16,
         "at least 1 in SLURM_NNODES, got 0"),
        # What is missing or no number is named.
        (AGENT | {"RANK": "x"}, 4, "number in RANK, got 'x'"),
        (AGENT | {"LOCAL_RANK": "-1"}, 4, "number in LOCAL_RANK, got '-1'"),
        (AGENT | {"RANK": "٣"}, 4, "number in RANK"),
        (without(AGENT, "WORLD_SIZE"), 4, "WORLD_SIZE is not set"),
        (without(AGENT, "MASTER_ADDR"), 4, "MASTER_ADDR is not set"),
        (without(BY_HAND, "MASTER_PORT"), 4, "MASTER_PORT is not set"),
        ({"RANK": "3"}, 4, "WORLD_SIZE is not set"),
        (without(TRAINER_V2, "PET_NODE_RANK"), 16, "PET_NODE_RANK is not set"),
        (without(TRAINER_V2, "PET_MASTER_ADDR"), 16, "PET_MASTER_ADDR is not set"),
        (without(ONE_A_MACHINE, "SLURM_JOB_ID"), 16, "SLURM_JOB_ID is not set"),
        (without(ONE_A_MACHINE, "SLURM_NODEID"), 16, "SLURM_NODEID is not set"),
        (ONE_A_MACHINE | {"SLURM_STEP_NODELIST": "gpu[07"}, 16, r"'gpu\[07' is not a list"),
        (OPEN_MPI | {"OMPI_COMM_WORLD_LOCAL_SIZE": "2"}, 4, "mpirun -x MASTER_ADDR=HOST"),
        (HYDRA | {"MPI_LOCALNRANKS": "2"}, 4, "mpirun -genv MASTER_ADDR HOST"),
    ],
)  # fmt: skip
def test_refuses(environ: Environ, num_ranks: int, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        recognise(environ, num_ranks=num_ranks)


_NAMES = sorted(
    {*AGENT, *TRAINER_V2, *TRAINER_V1, *ASCEND, *OPEN_MPI, *HYDRA, *ONE_A_DEVICE, "SLURM_PTY_PORT"}
)
_VALUES = st.sampled_from(["", "0", "1", "2", "4", "16", "99999", "-1", "x", "{0,1}", "gpu[1-2]"])


@given(st.dictionaries(st.sampled_from(_NAMES), _VALUES), st.integers(1, 16))
def test_any_environment_is_recognised_or_refused(environ: Environ, num_ranks: int) -> None:
    try:
        found = recognise(environ, num_ranks=num_ranks)
    except UsageError:
        return
    if isinstance(found, Worker):
        assert found.rank < found.num_ranks == num_ranks
    else:
        assert found.node_rank < found.num_nodes and num_ranks % found.num_nodes == 0
        assert found.num_nodes == 1 or (found.master_port and found.run_id)


@given(st.integers(1, 4), st.integers(1, 4))
def test_all_tasks_of_a_job_agree(num_nodes: int, per_node: int) -> None:
    found = [
        recognise(
            SRUN
            | {
                "SLURM_STEP_NUM_TASKS": str(num_nodes * per_node),
                "SLURM_STEP_NUM_NODES": str(num_nodes),
                "SLURM_PROCID": str(task),
                "SLURM_LOCALID": str(task % per_node),
                "SLURM_NODEID": str(task // per_node),
            },
            num_ranks=num_nodes * per_node,
        )
        for task in range(num_nodes * per_node)
    ]
    assert all(isinstance(task, Worker) for task in found)
    assert len({(task.master_addr, task.master_port, task.run_id) for task in found}) == 1


_PREFIXES = st.from_regex(re.compile(r"[a-z][a-z0-9.-]{0,8}", re.ASCII), fullmatch=True)
_RANGES = st.lists(
    st.tuples(st.integers(0, 999), st.integers(0, 50)), min_size=1, max_size=4
)  # fmt: skip


@given(st.lists(st.tuples(_PREFIXES, st.none() | _RANGES), min_size=1, max_size=4))
def test_first_host_of_any_list(entries: list[tuple[str, list[tuple[int, int]] | None]]) -> None:
    words = []
    for prefix, ranges in entries:
        if ranges is None:
            words.append(prefix)
        else:
            spans = [f"{low:03}-{low + n:03}" if n else f"{low:03}" for low, n in ranges]
            words.append(f"{prefix}[{','.join(spans)}]")
    prefix, ranges = entries[0]
    expected = prefix if ranges is None else f"{prefix}{ranges[0][0]:03}"
    assert first_host(",".join(words)) == expected


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("n[01-03,07],gpu5", "n01"),
        ("gpu5,n[01-03]", "gpu5"),
        ("rack[2-3]node[00-15]", "rack2node00"),
        ("n[5]-ib", "n5-ib"),
        ("a.example.org", "a.example.org"),
    ],
)
def test_first_host(nodelist: str, host: str) -> None:
    assert first_host(nodelist) == host


@pytest.mark.parametrize(
    "nodelist", ["", "n[", "n[]", "n[1-]", "n[a-b]", ",n1", "n1,", "n1 n2", "(null)"]
)
def test_no_list_of_hosts(nodelist: str) -> None:
    with pytest.raises(UsageError, match="not a list of hosts"):
        first_host(nodelist)
