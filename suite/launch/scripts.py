"""A plan as text: for people, as commands, and as a job of Slurm or Kubernetes.

The jobs run `suite train`, which recognises who started it, so they name no ranks and no machines.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from typing import Final

from suite.errors import UsageError
from suite.launch.machine import rank_environment
from suite.launch.plan import LaunchPlan, node_command
from suite.launch.rank_table.model import format_numbers

# What device plugins call a device, and what Slurm's do on most sites.
_KUBERNETES: Final = {"npu": "huawei.com/Ascend910", "cuda": "nvidia.com/gpu"}
_SLURM: Final = {"npu": "npu", "cuda": "gpu"}
# A pod is named after its job, which the server gives five characters more, "-node-0-0" and five
# characters again, 63 in all.
_LONGEST_PREFIX: Final = 35


def format_plan(plan: LaunchPlan) -> str:
    """Return the plan for people: machines, ranks, devices, what is set, and the commands.

    Raises:
        UsageError: nobody said which machine is the first, or what is set contradicts the plan.
    """
    training, each = plan.training, plan.processes_per_node
    processes = "process" if each == 1 else "processes"
    lines = [
        f"recipe    {training.name}: {training.num_ranks} x {training.device}",
        f"machines  {plan.num_nodes}, each with {each} {processes}",
    ]
    if plan.num_nodes > 1:
        lines.append(f"master    {plan.require_master()}:{plan.master_port}")
    lines.append(f"run id    {plan.run_id or 'a new one at each start'}")
    lines += [
        f"logs      {training.log_folder}",
        f"waits     {training.patience.join_s:g} s for all ranks to come, "
        f"{training.patience.step_s:g} s for one in a step",
    ]
    for node_rank in range(plan.num_nodes):
        lines += ["", *_describe_node(plan, node_rank)]
    return "\n".join(lines)


def format_commands(plan: LaunchPlan) -> str:
    """Return the command of each machine.

    Raises:
        UsageError: nobody said which machine is the first.
    """
    lines = []
    for node_rank, host in enumerate(plan.hosts):
        name = "" if host is None else f": {host}"
        lines += [f"# machine {node_rank} of {plan.num_nodes}{name}", _quote(plan, node_rank)]
    return "\n".join(lines)


def slurm_script(plan: LaunchPlan) -> str:
    """Return a batch script that starts one task a machine, which starts its ranks.

    Raises:
        UsageError: the machines are those of a rank table.
    """
    _refuse_table(plan, "slurm")
    devices = _SLURM.get(plan.training.device)
    lines = [
        "#!/bin/bash",
        f"# {plan.training.name} on {plan.training.num_ranks} devices; submit it with sbatch.",
        "# Add what your site asks for: --partition, --account, --time.",
        f"#SBATCH --job-name={plan.training.name}",
        f"#SBATCH --nodes={plan.num_nodes}",
        "#SBATCH --ntasks-per-node=1",
        # Otherwise a task is given one core, for all ranks and loaders of its machine.
        "#SBATCH --exclusive",
        # All of its memory, which --exclusive does not give.
        "#SBATCH --mem=0",
        # Three minutes before the time is up the ranks are told to save.
        "#SBATCH --signal=TERM@180",
    ]
    if devices is not None:
        lines.append(f"#SBATCH --gres={devices}:{plan.processes_per_node}")
    named = [host for host in plan.hosts if host is not None]
    if named:
        lines.append(f"#SBATCH --nodelist={','.join(named)}")
    command = shlex.join(["suite", "train", *plan.training.arguments])
    # Not killed at once where a task ends badly: a stopped run's first machine is still saving.
    srun = "srun --kill-on-bad-exit=0 --wait=180 --cpu-bind=none"
    lines += ["", "set -euo pipefail", f"{srun} {command}"]
    return "\n".join(lines)


def kubernetes_manifest(plan: LaunchPlan, *, image: str) -> str:
    """Return a TrainJob of Kubeflow Trainer v2, which has replaced v1's PyTorchJob.

    Args:
        image: the container image, with this suite in it.

    Raises:
        UsageError: the machines are named already.
    """
    _refuse_table(plan, "kubernetes")
    if plan.hosts[0] is not None:
        raise UsageError("--format kubernetes: the cluster chooses the machines; give --nnodes")
    lines = [
        f"# {plan.training.name} on {plan.training.num_ranks} devices; kubectl create -f FILE",
        "# Loaders share memory: the runtime's pods need an emptyDir of medium Memory at /dev/shm.",
        *(_ASCEND_NOTES if plan.training.device == "npu" else ()),
        "apiVersion: trainer.kubeflow.org/v1alpha1",
        "kind: TrainJob",
        "metadata:",
        # The server appends five characters, so that each run is a job of its own.
        f"  generateName: {_scalar(_job_prefix(plan.training.name))}",
        "spec:",
        "  runtimeRef:",
        "    name: torch-distributed",
        "  trainer:",
        f"    image: {_scalar(image)}",
        f"    command: {json.dumps(['suite', 'train', *plan.training.arguments])}",
        f"    numNodes: {plan.num_nodes}",
        # What it makes of "auto" counts cores where no resource has "gpu" in its name.
        f"    numProcPerNode: {plan.processes_per_node}",
        *_list_resources(plan),
    ]
    return "\n".join(lines)


_ASCEND_NOTES: Final = (
    "# Where the Ascend Operator runs, an AscendJob with this image and command does as well.",
    "# The name of the resource is the device plugin's: kubectl describe node shows it.",
    "# Unverified on Ascend hardware.",
)


def _describe_node(plan: LaunchPlan, node_rank: int) -> list[str]:
    host = plan.hosts[node_rank]
    devices = range(plan.processes_per_node)
    if plan.table is not None:
        numbers = format_numbers(plan.table.servers[node_rank].device_ids)
    else:
        numbers = format_numbers(devices)
    lines = [
        f"machine {node_rank}" + ("" if host is None else f": {host}"),
        f"  ranks   {format_numbers(plan.ranks_of(node_rank))}",
        f"  devices {plan.training.device} {numbers}",
    ]
    added = rank_environment(plan, node_rank, environ=os.environ)
    lines += [f"  sets    {name}={value}" for name, value in sorted(added.items())]
    return [*lines, f"  command {_quote(plan, node_rank)}"]


def _quote(plan: LaunchPlan, node_rank: int) -> str:
    return shlex.join(node_command(plan, node_rank))


def _refuse_table(plan: LaunchPlan, form: str) -> None:
    if plan.table is not None:
        raise UsageError(
            f"--format {form}: a rank table names machines and devices, but the scheduler chooses "
            "them; give --nnodes"
        )


def _list_resources(plan: LaunchPlan) -> list[str]:
    resource = _KUBERNETES.get(plan.training.device)
    if resource is None:
        return []
    lines = ["    resourcesPerNode:"]
    # Some releases take the number of processes back to 1 where only one of the two is there.
    for section in ("requests", "limits"):
        lines += [f"      {section}:", f'        {resource}: "{plan.processes_per_node}"']
    return lines


def _job_prefix(recipe: str) -> str:
    """Return the beginning of a label of RFC 1035, which begins with a letter, and a hyphen."""
    name = re.sub(r"[^a-z0-9]+", "-", recipe.lower())
    name = name if name[0].isalpha() else f"run-{name}"
    return name[: _LONGEST_PREFIX - 1].strip("-") + "-"


def _scalar(text: str) -> str:
    # JSON's texts are YAML's too.
    return json.dumps(text)
