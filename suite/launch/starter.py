"""Who started this process: that decides whether ranks still have to be started, and which we are.

Launchers use the same names for different things. RANK is a process under torchrun and a machine
under Kubeflow v1 and the Ascend Operator; WORLD_SIZE counts processes, or pods. Guessing wrong
starts every process twice or lets a job wait for ranks that never come, so what is not certain is
refused with the question that has to be answered.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Final

from suite.errors import UsageError
from suite.launch.environment import Seen
from suite.launch.slurm import first_host, is_task_of_srun
from suite.launch.worker import DEFAULT_PORT, LOOPBACK, Node, Worker

_BY_HAND: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# The Ascend Operator's LOCAL_RANK: hiascend.com, MindCluster, "Environment Variable Description".
_DEVICE_LIST: Final = re.compile(r"\{[\d, ]*\}")
# Pods of a PyTorchJob or an AscendJob.
_POD: Final = re.compile(r"(.+)-(?:master|worker)-\d+")

# docs.open-mpi.org, "Environment variables set for MPI applications".
_OPEN_MPI: Final = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")
# Hydra starts the processes of Intel MPI and MPICH, PALS those of Cray. PMI_RANK is no sign by
# itself: `srun --mpi=pmi2` sets it too.
_HYDRA: Final = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")
_PALS: Final = ("PMI_RANK", "PMI_SIZE", "PALS_LOCAL_RANKID")
_LOCAL_SIZES: Final = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "PALS_LOCAL_SIZE")
_MPI_JOBS: Final = (
    "PMIX_NAMESPACE",
    "OMPI_MCA_ess_base_jobid",
    "SLURM_JOB_ID",
    "PBS_JOBID",
    "LSB_JOBID",
)


def recognise(environ: Mapping[str, str], *, num_ranks: int) -> Worker | Node:
    """Read off the environment who started this process.

    What is set for each process goes before what is set for each machine: the child of an agent
    under Slurm or Kubeflow still sees their variables.

    Args:
        environ: the environment variables; an empty one counts as not set.
        num_ranks: processes that shall train together, the recipe's devices.

    Raises:
        UsageError: the environment contradicts itself or `num_ranks`, or has two readings.
    """
    environ = {name: value.strip() for name, value in environ.items() if value.strip()}
    seen = Seen(environ, "environment", num_ranks)
    lists_devices = _DEVICE_LIST.fullmatch(environ.get("LOCAL_RANK", "")) is not None
    if {"TORCHELASTIC_RUN_ID", "LOCAL_RANK"} <= environ.keys() and not lists_devices:
        return _child_of_agent(replace(seen, starter="torch elastic"))
    if all(name in environ for name in _BY_HAND) and not lists_devices:
        return _by_hand(seen)
    if "PET_NNODES" in environ:
        return _kubeflow(replace(seen, starter="Kubeflow"))
    if lists_devices and {"RANK", "WORLD_SIZE"} <= environ.keys():
        return _ascend_operator(replace(seen, starter="the Ascend Operator"))
    # Before Slurm: mpirun inside a Slurm job shows the step of its daemons, one a machine.
    for names, starter in ((_OPEN_MPI, "Open MPI"), (_HYDRA, "MPI"), (_PALS, "MPI")):
        if all(name in environ for name in names):
            return _mpi(replace(seen, starter=starter), names)
    if is_task_of_srun(environ):
        return _slurm(replace(seen, starter="Slurm"))
    if "RANK" in environ:
        return _by_hand(seen) if "LOCAL_RANK" in environ else _rank_alone(seen)
    seen = replace(seen, starter="this command")
    return seen.node(num_nodes=1, node_rank=0, master=(LOOPBACK, 0), run_id="")


def _child_of_agent(seen: Seen) -> Worker:
    place = seen.number("RANK"), seen.number("WORLD_SIZE"), seen.number("LOCAL_RANK")
    attempt = seen.number("TORCHELASTIC_RESTART_COUNT", default=0)
    run_id = seen.text("TORCHELASTIC_RUN_ID")
    return seen.worker(place, master=seen.master(), run_id=run_id, attempt=attempt)


def _by_hand(seen: Seen) -> Worker:
    place = seen.number("RANK"), seen.number("WORLD_SIZE"), seen.number("LOCAL_RANK")
    return seen.worker(place, master=seen.master(), run_id="")


def _kubeflow(seen: Seen) -> Worker | Node:
    """Trainer v2 sets all of PET_*, v1 of 1.7 and later has the master without the prefix."""
    if ":" in seen.text("PET_NNODES"):
        raise UsageError(
            f"Kubeflow: PET_NNODES={seen.text('PET_NNODES')} is a range, but a recipe has a fixed "
            "number of devices; leave elasticPolicy out of the job"
        )
    num_nodes = seen.count("PET_NNODES")
    _require_processes(seen, num_nodes)
    if num_nodes == 1:
        return seen.node(num_nodes=1, node_rank=0, master=(LOOPBACK, 0), run_id="")
    master = (
        seen.text("PET_MASTER_ADDR", "MASTER_ADDR"),
        seen.port("PET_MASTER_PORT", "MASTER_PORT", default=DEFAULT_PORT),
    )
    node_rank = seen.number("PET_NODE_RANK")
    run_id = f"{master[0]}-{master[1]}"
    return seen.node(num_nodes=num_nodes, node_rank=node_rank, master=master, run_id=run_id)


def _require_processes(seen: Seen, num_nodes: int) -> None:
    # Words are torchrun's way to say: as many as there are devices.
    if seen.environ.get("PET_NPROC_PER_NODE", "auto") in ("auto", "gpu", "cpu"):
        return
    per_node = seen.number("PET_NPROC_PER_NODE")
    if per_node * num_nodes != seen.num_ranks:
        raise UsageError(
            f"Kubeflow gives {num_nodes} machines {per_node} processes each, but the recipe is for "
            f"{seen.num_ranks} devices; give --devices {per_node * num_nodes}, or set the job's "
            "numProcPerNode"
        )


def _ascend_operator(seen: Seen) -> Worker | Node:
    """RANK counts pods and WORLD_SIZE devices; the master has another address in its own pod."""
    world, node_rank = seen.number("WORLD_SIZE"), seen.number("RANK")
    listed = re.findall(r"\d+", seen.text("LOCAL_RANK"))
    per_node = seen.count("LOCAL_WORLD_SIZE", default=len(listed))
    if world != seen.num_ranks:
        raise UsageError(
            f"the Ascend Operator gave the job {world} devices, but the recipe is for "
            f"{seen.num_ranks}; give --devices {world}"
        )
    if world % per_node:
        raise UsageError(
            f"the Ascend Operator: {world} devices (WORLD_SIZE) cannot be {per_node} "
            "(LOCAL_WORLD_SIZE) a machine"
        )
    return seen.node(
        num_nodes=world // per_node,
        node_rank=node_rank,
        master=seen.master(),
        run_id=_pod_job(seen.environ),
    )


def _mpi(seen: Seen, names: tuple[str, str, str]) -> Worker:
    rank, num_ranks, local_rank = (seen.number(name) for name in names)
    job = next((seen.environ[name] for name in _MPI_JOBS if name in seen.environ), "")
    port = seen.port("MASTER_PORT", default=_derive_port(job))
    if "MASTER_ADDR" in seen.environ:
        master = seen.text("MASTER_ADDR"), port
    elif seen.number(*_LOCAL_SIZES, default=1) == num_ranks:
        master = LOOPBACK, port
    else:
        flag = "-x MASTER_ADDR=" if names is _OPEN_MPI else "-genv MASTER_ADDR "
        raise UsageError(
            f"{seen.starter} started processes on several machines, which do not know the first; "
            f"give mpirun {flag}HOST, the machine of rank 0"
        )
    return seen.worker((rank, num_ranks, local_rank), master=master, run_id=job)


def _derive_port(job: str) -> int:
    """Return a port that all processes of a job find and few other jobs have."""
    if not job:
        return DEFAULT_PORT
    return 15000 + (int(job[-4:]) if job.isdecimal() else zlib.crc32(job.encode()) % 10000)


def _slurm(seen: Seen) -> Worker | Node:
    num_tasks = seen.number("SLURM_STEP_NUM_TASKS", "SLURM_NTASKS")
    num_nodes = seen.count("SLURM_STEP_NUM_NODES", "SLURM_NNODES")
    run_id = f"{seen.text('SLURM_JOB_ID')}.{seen.text('SLURM_STEP_ID')}"
    if num_tasks == seen.num_ranks:
        place = seen.number("SLURM_PROCID"), num_tasks, seen.number("SLURM_LOCALID")
        return seen.worker(place, master=_slurm_master(seen), run_id=run_id)
    if num_tasks != num_nodes:
        raise UsageError(
            f"Slurm started {num_tasks} tasks on {num_nodes} machines for a recipe of "
            f"{seen.num_ranks} devices; give srun --ntasks {seen.num_ranks} (a task is a device) "
            f"or --ntasks {num_nodes} (a task is a machine), or the recipe --devices {num_tasks}"
        )
    node_rank, master = seen.number("SLURM_NODEID"), _slurm_master(seen)
    return seen.node(num_nodes=num_nodes, node_rank=node_rank, master=master, run_id=run_id)


def _slurm_master(seen: Seen) -> tuple[str, int]:
    port = seen.port("MASTER_PORT", default=_derive_port(seen.text("SLURM_JOB_ID")))
    if "MASTER_ADDR" in seen.environ:
        return seen.text("MASTER_ADDR"), port
    nodelist = seen.text("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    return first_host(nodelist), port


def _rank_alone(seen: Seen) -> Worker | Node:
    """Kubeflow v1 counts pods (github.com/kubeflow/trainer/issues/1790); people do either."""
    rank, world = seen.number("RANK"), seen.number("WORLD_SIZE")
    in_pod = "KUBERNETES_SERVICE_HOST" in seen.environ
    run_id = _pod_job(seen.environ)
    if 0 < world < seen.num_ranks and seen.num_ranks % world == 0:
        master = (LOOPBACK, 0) if world == 1 else seen.master()
        return seen.node(num_nodes=world, node_rank=rank, master=master, run_id=run_id)
    if world == seen.num_ranks and (in_pod or world == 1):
        return seen.worker((rank, world, 0), master=seen.master(), run_id=run_id)
    raise UsageError(
        f"RANK={rank} and WORLD_SIZE={world} are set, LOCAL_RANK is not, and the recipe is for "
        f"{seen.num_ranks} devices: is RANK a machine or a process? A process: set LOCAL_RANK too. "
        "A machine: suite launch --nnodes $WORLD_SIZE --node-rank $RANK "
        "--master $MASTER_ADDR:$MASTER_PORT RECIPE"
    )


def _pod_job(environ: Mapping[str, str]) -> str:
    """Return the name of the job whose pod this is, "" if the pod's name does not tell."""
    found = _POD.fullmatch(environ.get("HOSTNAME", ""))
    return "" if found is None else found[1]
