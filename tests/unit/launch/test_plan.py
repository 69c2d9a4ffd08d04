"""Plans of several machines: from flags, and as commands, a Slurm script and a manifest."""

from __future__ import annotations

import dataclasses
import json
import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from suite.errors import InputError, UsageError
from suite.launch.machine import (
    build_node,
    find_own_node,
    own_table_path,
    prepare_rank_table,
    rank_environment,
)
from suite.launch.plan import LaunchPlan, Machines, Training, node_command, plan_launch
from suite.launch.rank_table import load_rank_table
from suite.launch.scripts import format_commands, format_plan, kubernetes_manifest, slurm_script
from suite.launch.starter import recognise
from suite.launch.worker import Node, Worker

ADDRESSES = {"a.cluster": "10.0.0.1", "b.cluster": "10.0.0.2"}

TRAINING = Training(
    name="ssd_r34_8p",
    device="npu",
    num_ranks=16,
    arguments=("ssd_r34_8p", "--devices", "16", "--data", "/data/coco 2017"),
    log_folder=Path("runs/launches"),
)


@pytest.fixture(autouse=True)
def _name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    def resolve(name: str, *_: object) -> list[Any]:
        if name not in ADDRESSES:
            raise socket.gaierror(f"{name} is not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ADDRESSES[name], 0))]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)


def plan(
    *, device: Any = "npu", num_ranks: int = 16, run_id: str | None = None,
    logs: Path = TRAINING.log_folder, **machines: Any,
) -> LaunchPlan:  # fmt: skip
    training = dataclasses.replace(TRAINING, device=device, num_ranks=num_ranks, log_folder=logs)
    return plan_launch(Machines(**machines), training, run_id=run_id)


def write_table(path: Path, *, hosts: tuple[str, ...] = ("10.0.0.1", "10.0.0.2"), first: int = 0,
                order: int = 1) -> Path:  # fmt: skip
    """Write a table of version 1.0 with 8 / hosts devices a server, numbered from `first`."""
    each = 8 // len(hosts)
    servers = [
        {
            "server_id": host,
            "device": [
                {
                    "device_id": str(first + index),
                    "device_ip": f"192.168.{number}.{index + 1}",
                    "rank_id": str(number * each + rank),
                }
                for rank, index in enumerate(range(each)[::order])
            ],
        }
        for number, host in enumerate(hosts)
    ]
    table = {"status": "completed", "version": "1.0", "server_count": str(len(hosts))}
    path.write_text(json.dumps(table | {"server_list": servers}), encoding="utf-8")
    return path


def write_template2(path: Path) -> Path:
    """Write a table of template 2 with one server of 8 devices, as published for the SSD."""
    instances = [
        {
            "devices": [{"device_id": str(rank), "device_ip": f"192.168.100.{rank + 1}"}],
            "rank_id": str(rank),
            "server_id": "0.0.0.0",
        }
        for rank in range(8)
    ]
    group = {"device_num": "8", "server_num": "1", "group_name": "", "instance_count": "8"}
    table: dict[str, Any] = {"status": "completed", "group_count": "1", "deploy_mode": "lab"}
    table |= {"group_list": [group | {"instance_list": instances}]}
    path.write_text(json.dumps(table), encoding="utf-8")
    return path


def test_one_machine_needs_nothing() -> None:
    made = plan()
    assert (made.num_nodes, made.processes_per_node, made.node_rank) == (1, 16, 0)
    assert node_command(made, 0) == ["suite", "launch", *TRAINING.arguments]
    assert build_node(made, 0) == Node(
        num_nodes=1, node_rank=0, master_addr="127.0.0.1", master_port=0, run_id=""
    )  # fmt: skip


def test_scripts_may_count_one_machine_too() -> None:
    made = plan(nnodes=1, node_rank=0, master="10.0.0.1:1234")
    assert build_node(made, 0).master_addr == "127.0.0.1"


def test_machines_by_number() -> None:
    made = plan(nnodes=2, node_rank=1, master="10.0.0.1:1234")
    assert [list(made.ranks_of(rank)) for rank in range(2)] == [[*range(8)], [*range(8, 16)]]
    assert build_node(made, find_own_node(made, set())) == Node(
        num_nodes=2, node_rank=1, master_addr="10.0.0.1", master_port=1234,
        run_id="ssd_r34_8p-2x8-1234",
    )  # fmt: skip
    assert node_command(made, 1) == [
        "suite", "launch", "--nnodes", "2", "--node-rank", "1", "--master", "10.0.0.1:1234",
        "--run-id", "ssd_r34_8p-2x8-1234", *TRAINING.arguments,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("hosts", "addresses", "node_rank"),
    [
        ("10.0.0.1,10.0.0.2", {"10.0.0.2", "127.0.0.1", "b"}, 1),
        ("a,b", {"10.0.0.2", "B"}, 1),
        (" a , b ", {"a"}, 0),
    ],
)
def test_machines_by_name(hosts: str, addresses: set[str], node_rank: int) -> None:
    made = plan(hosts=hosts)
    assert find_own_node(made, addresses) == node_rank
    assert made.master_addr == hosts.split(",")[0].strip()
    assert made.master_port == 29500


def test_a_name_counts_by_its_address() -> None:
    assert find_own_node(plan(hosts="a.cluster,b.cluster"), {"10.0.0.2", "127.0.0.1"}) == 1


def test_the_node_rank_goes_before_the_name() -> None:
    assert find_own_node(plan(hosts="a,b", node_rank=0), {"b"}) == 0


@pytest.mark.parametrize(
    ("addresses", "words"),
    [({"c", "10.0.0.9"}, r"10\.0\.0\.9, c\) is none of --hosts a,b"), ({"a", "b"}, "is several")],
)
def test_which_machine_is_this(addresses: set[str], words: str) -> None:
    with pytest.raises(UsageError, match=f"{words}.*--node-rank, from 0 to 1"):
        find_own_node(plan(hosts="a,b"), addresses)
    with pytest.raises(UsageError, match=r"which of the 2 machines is this.*--node-rank"):
        find_own_node(plan(nnodes=2, master="a"), addresses)


def test_all_machines_find_the_same_run_id() -> None:
    assert plan(hosts="a,b").run_id == plan(hosts="a,b", node_rank=1, nnodes=2).run_id
    others = [plan(hosts="a,c"), plan(hosts="a,b", master="a:29501"), plan(nnodes=2)]
    assert len({made.run_id for made in (plan(hosts="a,b"), *others)}) == 4
    assert plan(hosts="a,b", run_id="mine.7").run_id == "mine.7"


@pytest.mark.parametrize(
    ("machines", "words"),
    [
        ({"nnodes": 3}, "3 machines cannot share 16 devices evenly.*--devices"),
        ({"nnodes": 2, "node_rank": 2}, "--node-rank 2: 2 machines are numbered from 0 to 1"),
        ({"nnodes": 1, "node_rank": 1}, "--node-rank 1: 1 machines"),
        ({"node_rank": 1}, "--node-rank and --master are for several machines; add --nnodes"),
        ({"master": "a:1"}, "add --nnodes"),
        ({"nnodes": 2, "master": "a:0"}, "port from 1 to 65535, got 0"),
        ({"nnodes": 2, "master": "a:65536"}, "port from 1 to 65535, got 65536"),
        ({"nnodes": 2, "master": "a:b"}, "--master a:b: expected HOST:PORT"),
        ({"nnodes": 2, "master": ":29500"}, "expected HOST:PORT"),
        ({"nnodes": 2, "master": "a b"}, "expected HOST:PORT"),
        ({"nnodes": 2, "master": "::1"}, "expected HOST:PORT"),
        ({"nnodes": 2, "master": "-x:1"}, "expected HOST:PORT"),
        ({"hosts": "a,b,a,c"}, "a is given more than once"),
        ({"hosts": "a,,b"}, "got ''"),
        ({"hosts": "a:1,b"}, "got 'a:1'"),
        ({"hosts": "a,localhost"}, "localhost is no address that the others can reach"),
        ({"hosts": "127.0.0.1,b"}, r"127\.0\.0\.1 is no address"),
        ({"hosts": "a,b", "nnodes": 3}, "--nnodes 3, but --hosts names 2 machines"),
        ({"run_id": "a/b", "nnodes": 2}, "--run-id 'a/b'"),
        ({"run_id": ""}, "--run-id ''"),
    ],
)
def test_contradictions(machines: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        plan(**machines)


@pytest.mark.parametrize("use", [format_plan, format_commands, lambda made: build_node(made, 0)])
def test_several_machines_need_a_first(use: Callable[[LaunchPlan], object]) -> None:
    with pytest.raises(
        UsageError, match=r"which of the 2 machines is the first.*--master HOST:PORT"
    ):
        use(plan(nnodes=2))


def test_machines_of_a_rank_table(tmp_path: Path) -> None:
    table = write_table(tmp_path / "hccl.json")
    made = plan(rank_table=table, num_ranks=8)
    assert (made.num_nodes, made.processes_per_node) == (2, 4)
    assert find_own_node(made, {"10.0.0.2"}) == 1
    assert build_node(made, 1).master_addr == "10.0.0.1"
    command = node_command(made, 1)
    assert command[2:6] == ["--rank-table", str(table), "--node-rank", "1"]
    assert "--nnodes" not in command


@pytest.mark.parametrize(
    ("machines", "num_ranks", "words"),
    [
        ({}, 16, "has 8 devices, the recipe asks for 16; give --devices 8"),
        ({"hosts": "a,b"}, 8, "--hosts and --rank-table"),
        ({"nnodes": 3}, 8, "--nnodes 3, but --rank-table names 2 machines"),
        ({"node_rank": 2}, 8, "--node-rank 2"),
    ],
)
def test_contradictions_of_a_rank_table(
    tmp_path: Path, machines: dict[str, Any], num_ranks: int, words: str
) -> None:
    table = write_table(tmp_path / "hccl.json")
    with pytest.raises(UsageError, match=words):
        plan(rank_table=table, num_ranks=num_ranks, **machines)


def test_a_damaged_rank_table(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.json"):
        plan(rank_table=tmp_path / "absent.json")


def test_environment_of_a_rank_table(tmp_path: Path) -> None:
    made = plan(rank_table=write_table(tmp_path / "hccl.json"), num_ranks=8)
    assert rank_environment(made, 1, environ={}) == {
        "HCCL_IF_IP": "10.0.0.2",
        "RANK_TABLE_FILE": str(own_table_path(made, 1)),
        "HCCL_CONNECT_TIMEOUT": "300",
    }
    assert own_table_path(made, 1).is_absolute() and own_table_path(made, 1) != own_table_path(
        made, 0
    )
    longer = rank_environment(made, 1, environ={"HCCL_CONNECT_TIMEOUT": "900"})
    assert longer["HCCL_CONNECT_TIMEOUT"] == "900"


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"HCCL_CONNECT_TIMEOUT": "120"}, "HCCL_CONNECT_TIMEOUT=120.* at least 300"),
        ({"HCCL_CONNECT_TIMEOUT": "long"}, "HCCL_CONNECT_TIMEOUT=long"),
        ({"CM_CHIEF_IP": "10.0.0.1"}, "CM_CHIEF_IP is set.*unset it"),
    ],
)
def test_environment_against_a_rank_table(
    tmp_path: Path, environ: dict[str, str], words: str
) -> None:
    made = plan(rank_table=write_table(tmp_path / "hccl.json"), num_ranks=8)
    with pytest.raises(UsageError, match=words):
        rank_environment(made, 0, environ=environ)


def test_devices_of_a_rank_table(tmp_path: Path) -> None:
    upper = plan(rank_table=write_table(tmp_path / "hccl.json", first=4), num_ranks=8)
    name = "ASCEND_RT_VISIBLE_DEVICES"
    assert rank_environment(upper, 0, environ={})[name] == "4,5,6,7"
    assert name not in rank_environment(upper, 0, environ={name: "0,1,2,3"})
    turned = plan(rank_table=write_table(tmp_path / "turned.json", order=-1), num_ranks=8)
    with pytest.raises(UsageError, match=r"10\.0\.0\.1 the devices 3,2,1,0.*ascend"):
        rank_environment(turned, 0, environ={})


@pytest.mark.parametrize(
    ("machines", "environ", "expected"),
    [
        ({"hosts": "10.0.0.1,10.0.0.2"}, {}, "10.0.0.2"),
        ({"hosts": "10.0.0.1,10.0.0.2"}, {"HCCL_SOCKET_IFNAME": "eth1"}, None),
        ({"hosts": "10.0.0.1,10.0.0.2"}, {"HCCL_IF_IP": "10.1.0.2"}, None),
        ({"hosts": "a,b"}, {}, None),
        ({"hosts": "a,b", "node_rank": 1, "local_addr": "10.2.0.2"}, {"HCCL_IF_IP": "x"},
         "10.2.0.2"),
        ({"hosts": "a,b", "node_rank": 0, "local_addr": "10.2.0.2"}, {}, None),
        ({"nnodes": 2, "master": "a"}, {}, None),
        ({"hosts": "10.0.0.1,10.0.0.2", "device": "cuda"}, {}, None),
    ],
)  # fmt: skip
def test_the_network_of_hccl(
    machines: dict[str, Any], environ: dict[str, str], expected: str | None
) -> None:
    assert rank_environment(plan(**machines), 1, environ=environ).get("HCCL_IF_IP") == expected


def test_a_local_address_is_an_address() -> None:
    made = plan(nnodes=2, node_rank=1, master="a", local_addr="b")
    with pytest.raises(UsageError, match="--local-addr b"):
        rank_environment(made, 1, environ={})


def test_template_2_is_converted(tmp_path: Path) -> None:
    table = write_template2(tmp_path / "hccl.json")
    made = plan(rank_table=table, num_ranks=8, logs=tmp_path / "logs")
    assert made.num_nodes == 1
    prepare_rank_table(made, 0)
    written = load_rank_table(own_table_path(made, 0))
    assert written.version == "1.0"
    assert made.table is not None and written.servers == made.table.servers


def test_a_link_to_a_table_becomes_a_file(tmp_path: Path) -> None:
    (tmp_path / "mounted.json").symlink_to(write_table(tmp_path / "hccl.json"))
    made = plan(rank_table=tmp_path / "mounted.json", num_ranks=8, logs=tmp_path / "logs")
    prepare_rank_table(made, 1)
    assert not own_table_path(made, 1).is_symlink()
    assert load_rank_table(own_table_path(made, 1)) == load_rank_table(tmp_path / "hccl.json")


def test_plan_for_people(
    golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("HCCL_IF_IP", raising=False)
    monkeypatch.delenv("HCCL_SOCKET_IFNAME", raising=False)
    made = plan(hosts="10.0.0.1,10.0.0.2", run_id="r1")
    golden("launch_plan.txt", format_plan(made) + "\n")
    golden("launch_commands.txt", format_commands(made) + "\n")


def test_plan_of_a_rank_table_for_people(tmp_path: Path) -> None:
    text = format_plan(plan(rank_table=write_table(tmp_path / "t.json", first=4), num_ranks=8))
    assert "devices npu 4-7" in text
    assert "RANK_TABLE_FILE=" in text


def slurm_environ(script: str) -> list[dict[str, str]]:
    """Return what srun sets for each task of a script, by its directives."""
    directives = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)$", script, re.MULTILINE))
    num_nodes, each = int(directives["nodes"]), int(directives["ntasks-per-node"])
    return [
        {
            "SLURM_JOB_ID": "77",
            "SLURM_STEP_ID": "0",
            "SLURM_NTASKS": str(num_nodes * each),
            "SLURM_NNODES": str(num_nodes),
            "SLURM_PROCID": str(task),
            "SLURM_LOCALID": str(task % each),
            "SLURM_NODEID": str(task // each),
            "SLURM_JOB_NODELIST": f"n[1-{num_nodes}]",
        }
        for task in range(num_nodes * each)
    ]


@pytest.mark.parametrize("device", ["npu", "cuda", "cpu", "auto"])
@pytest.mark.parametrize("machines", [{}, {"nnodes": 4}, {"hosts": "n1,n2"}])
def test_slurm_script(tmp_path: Path, device: str, machines: dict[str, Any]) -> None:
    made = plan(device=device, **machines)
    script = slurm_script(made)
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    places = [recognise(environ, num_ranks=16) for environ in slurm_environ(script)]
    assert all(isinstance(place, Node) for place in places) and len(places) == made.num_nodes
    resource = {"npu": f"npu:{made.processes_per_node}", "cuda": f"gpu:{made.processes_per_node}"}
    assert {"#SBATCH --exclusive", "#SBATCH --mem=0"} <= set(script.splitlines())
    assert re.findall(r"--gres=(\S+)", script) == ([resource[device]] if device in resource else [])


def test_slurm_script_passes_arguments_on(tmp_path: Path) -> None:
    """Run the script with an srun that prints what it is told."""
    fake = tmp_path / "srun"
    fake.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n', encoding="utf-8")
    fake.chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", slurm_script(plan(nnodes=2))], capture_output=True, text=True, check=True,
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
    )  # fmt: skip
    told = done.stdout.splitlines()
    assert told[told.index("suite") :] == ["suite", "train", *TRAINING.arguments]


def test_slurm_with_a_rank_a_machine() -> None:
    places = [
        recognise(environ, num_ranks=2)
        for environ in slurm_environ(slurm_script(plan(num_ranks=2, nnodes=2)))
    ]
    assert [place.rank for place in places if isinstance(place, Worker)] == [0, 1]


@pytest.mark.parametrize("device", ["npu", "cuda", "cpu", "auto"])
def test_kubernetes_manifest(device: str) -> None:
    made = plan(device=device, nnodes=2)
    job = yaml.safe_load(kubernetes_manifest(made, image="registry:5000/suite:1 # x"))
    assert (job["apiVersion"], job["kind"]) == ("trainer.kubeflow.org/v1alpha1", "TrainJob")
    trainer = job["spec"]["trainer"]
    assert trainer["command"] == ["suite", "train", *TRAINING.arguments]
    assert trainer["image"] == "registry:5000/suite:1 # x"
    named = {"npu": "huawei.com/Ascend910", "cuda": "nvidia.com/gpu"}.get(device)
    resources = trainer.get("resourcesPerNode", {})
    assert resources == (
        {} if named is None else {key: {named: "8"} for key in ("requests", "limits")}
    )
    environ = {
        "PET_NNODES": str(trainer["numNodes"]),
        "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
        "PET_NODE_RANK": "1",
        "PET_MASTER_ADDR": "ssd-node-0-0.ssd",
    }
    found = recognise(environ, num_ranks=16)
    assert isinstance(found, Node) and found.num_nodes == 2


@pytest.mark.parametrize("name", ["ssd_r34_8p", "8p", "null", "A__B-", "x" * 64, "x" * 39 + "_y"])
def test_kubernetes_names_each_run_anew(name: str) -> None:
    training = dataclasses.replace(TRAINING, name=name)
    made = plan_launch(Machines(nnodes=2), training, run_id=None)
    metadata = yaml.safe_load(kubernetes_manifest(made, image="i"))["metadata"]
    assert list(metadata) == ["generateName"]
    assert re.fullmatch(r"[a-z]([-a-z0-9]{0,32}[a-z0-9])?-", metadata["generateName"])


def test_job_texts(golden: Callable[[str, str], None]) -> None:
    golden("launch_slurm.txt", slurm_script(plan(nnodes=2)) + "\n")
    golden("launch_kubernetes.txt", kubernetes_manifest(plan(nnodes=2), image="suite:1") + "\n")


def test_schedulers_choose_the_machines(tmp_path: Path) -> None:
    table = plan(rank_table=write_table(tmp_path / "hccl.json"), num_ranks=8)
    with pytest.raises(UsageError, match=r"--format slurm.*rank table"):
        slurm_script(table)
    with pytest.raises(UsageError, match=r"--format kubernetes.*rank table"):
        kubernetes_manifest(table, image="i")
    with pytest.raises(UsageError, match="the cluster chooses"):
        kubernetes_manifest(plan(hosts="a,b"), image="i")
