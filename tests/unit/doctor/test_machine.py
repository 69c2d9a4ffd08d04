"""Memory, disk, limits, cores, name and port of the machine, and what a recipe asks of them."""

from __future__ import annotations

import copy
import re
import resource
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from suite.checkpoint import build_recipe_detector
from suite.doctor import Check, doctor, machine, network
from suite.doctor.needs import NUM_CHECKPOINTS, Needs, measure_needs
from suite.recipe import Recipe, load_recipe
from suite.recipe_verbs import copy_recipe

CheckOf = Callable[[str], Check]
GIB = 2**30


def check_for(recipe: Recipe, name: str) -> Check:
    (found,) = [check for check in doctor(recipe=recipe) if check.name == name]
    return found


def disk(*, free: float, total: float = 64) -> Callable[[object], SimpleNamespace]:
    return lambda folder: SimpleNamespace(total=int(total * GIB), free=int(free * GIB))


def test_scarce_disk_is_measured_in_checkpoints(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", disk(free=1.5))
    found = check("disk")
    assert found.status == "warning"
    assert "4 checkpoints of 0.28 GiB" in found.value
    assert (found.remedy or "").startswith("free 0.6 GiB, or pass suite train --output")
    monkeypatch.setattr(shutil, "disk_usage", disk(free=2.5))
    assert check("disk").status == "ok"


def test_checkpoints_are_counted_as_training_keeps_them() -> None:
    assert NUM_CHECKPOINTS == 4


@pytest.mark.parametrize("ema", ["null", "0.99"])
def test_a_checkpoint_has_the_size_that_is_foretold(ema: str, tmp_path: Path) -> None:
    overrides = {"detector.width": "0.25", "optimizer.ema_decay": ema}
    recipe = load_recipe("ssd_r34_8p", overrides)
    detector = build_recipe_detector(recipe)
    sgd = torch.optim.SGD(detector.parameters(), lr=0.1, momentum=0.9)
    torch.stack([parameter.sum() for parameter in detector.parameters()]).sum().backward()
    sgd.step()
    averaged = None if ema == "null" else copy.deepcopy(detector).state_dict()
    state = {"weights": detector.state_dict(), "ema": averaged, "optimizer": sgd.state_dict()}
    torch.save(state, tmp_path / "checkpoint.pth")
    size = (tmp_path / "checkpoint.pth").stat().st_size
    foretold = measure_needs(recipe, num_here=8, has_torch=True).checkpoint_bytes
    assert foretold == pytest.approx(size, rel=0.05)


def test_without_a_recipe_the_largest_shipped_detector_counts() -> None:
    recipe = load_recipe("retinanet_r50_fpn_8p")
    needs = measure_needs(recipe, num_here=8, has_torch=True)
    assert needs.checkpoint_bytes == pytest.approx(Needs().checkpoint_bytes, rel=1e-3)
    assert measure_needs(recipe, num_here=8, has_torch=False).checkpoint_bytes == (
        Needs().checkpoint_bytes
    )


def test_shared_memory_has_room_for_the_batches_on_their_way(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "_SHARED_MEMORY", Path("/"))
    monkeypatch.setattr(shutil, "disk_usage", disk(free=0.06, total=0.0625))
    found = check("shared memory")
    assert found.status == "warning"
    assert "--ipc=host" in (found.remedy or "")
    monkeypatch.setattr(shutil, "disk_usage", disk(free=2))
    assert check("shared memory").status == "ok"
    recipe = load_recipe("retinanet_r50_fpn_8p")
    found = check_for(recipe, "shared memory")
    # 8 ranks x 17 batches x 8 images x 3 x 800 x 1344 bytes
    assert found.value.endswith("retinanet_r50_fpn_8p fills 3.3")
    assert "--shm-size=8g" in (found.remedy or "")
    in_main_process = load_recipe("retinanet_r50_fpn_8p", {"data.workers": "0"})
    assert check_for(in_main_process, "shared memory").status == "ok"


def test_scarce_memory_is_a_warning(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:  9999 kB\nMemAvailable:    1048576 kB\n")
    monkeypatch.setattr("suite.provenance._MEMORY_FILE", meminfo)
    found = check("memory")
    assert found.status == "warning"
    assert found.value.endswith("1.0 GiB available")
    monkeypatch.setattr("suite.provenance._MEMORY_FILE", tmp_path / "absent")
    assert check("memory").status == "ok"


def test_loader_processes_are_counted_against_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("retinanet_r50_fpn_8p")  # 8 devices x 8 loader processes
    monkeypatch.setattr(machine, "count_cores", lambda: 192)
    assert check_for(recipe, "cores") == Check("cores", "ok", "192, for 8 x 8 loader processes")
    monkeypatch.setattr(machine, "count_cores", lambda: 48)
    found = check_for(recipe, "cores")
    assert (found.status, found.remedy) == ("warning", "pass --set data.workers=6")


def test_a_containers_quota_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(machine, "describe_machine", lambda: {"cores": 64})
    assert machine.count_cores() == 64
    (tmp_path / "cpu.max").write_text("max 100000\n")
    assert machine.count_cores() == 64
    (tmp_path / "cpu.max").write_text("450000 100000\n")
    assert machine.count_cores() == 4


def test_few_open_files_are_a_warning(check: CheckOf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 524288))
    found = check("open files")
    assert (found.status, found.remedy) == ("warning", "run: ulimit -n 65536")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (256, 256))
    assert "--ulimit nofile=65536:65536" in (check("open files").remedy or "")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (resource.RLIM_INFINITY,) * 2)
    assert check("open files").value.startswith("unlimited a process")
    # Connections to the other ranks count.
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (1024, 1024))
    assert check("open files").status == "ok"
    many = load_recipe("ssd_r34_8p", {"devices": "1024", "global_batch": "32768"})
    assert check_for(many, "open files").status == "warning"


def test_few_processes_are_a_warning(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(machine, "_CGROUP", tmp_path)
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (50_000, 50_000))
    assert check("processes").status == "ok"
    (tmp_path / "pids.max").write_text("100\n")
    (tmp_path / "pids.current").write_text("60\n")
    found = check("processes")
    assert found.value.startswith("40 processes and threads")
    assert found.remedy == "start the container with --pids-limit=-1"
    (tmp_path / "pids.max").write_text("max\n")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (50, 50))
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert check("processes").remedy == "run: ulimit -u 4096"
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert check("processes").status == "ok"


def test_a_name_that_does_not_resolve_gets_its_line(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "gethostname", lambda: "node-a")
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    found = check("host name")
    assert (found.status, found.value) == ("warning", "node-a does not resolve")
    assert found.remedy == 'run: echo "127.0.0.1 node-a" | sudo tee -a /etc/hosts'


@pytest.mark.usefixtures("eight_devices")
def test_a_loopback_name_is_no_meeting_place_of_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "_resolve", lambda name: "127.0.1.1")
    assert check_for(load_recipe("retinanet_r50_fpn_8p"), "host name").status == "ok"
    two_machines = load_recipe("retinanet_r50_fpn_multinode")
    assert check_for(two_machines, "host name").status == "warning"
    assert check_for(two_machines, "device ips").status == "warning"
    monkeypatch.setattr(network, "_resolve", lambda name: "192.0.2.7")
    assert check_for(two_machines, "host name").status == "ok"


def test_the_rendezvous_port_that_is_taken_is_named(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", "1")  # which suite launch does not read
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(network, "DEFAULT_PORT", port)
        found = check("rendezvous port")
    assert found.status == "warning"
    assert found.value.startswith(f"{port} is taken by process ")
    told = re.match(r"pass suite launch --master HOST:(\d+) on every", found.remedy or "")
    assert told is not None
    assert int(told[1]) > port
    assert check("rendezvous port") == Check("rendezvous port", "ok", f"{port} is free")


@pytest.mark.usefixtures("eight_devices")
def test_the_port_matters_to_several_machines_only() -> None:
    def names(recipe: str) -> set[str]:
        return {check.name for check in doctor(recipe=load_recipe(recipe))}

    assert "rendezvous port" in names("retinanet_r50_fpn_multinode")
    assert "rendezvous port" not in names("retinanet_r50_fpn_8p")


def test_a_recipe_is_held_against_the_devices_there_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    recipe = load_recipe("retinanet_r50_fpn_multinode")  # 16 NPUs
    found = check_for(recipe, "devices")
    assert found.status == "missing"
    assert (found.remedy or "").endswith("multinode --devices 1 --device cpu")
    for index in range(8):
        (tmp_path / "dev" / f"davinci{index}").touch()
    found = check_for(recipe, "devices")
    assert found.status == "warning"
    assert found.remedy == (
        "start it on 2 such machines, or run: suite train retinanet_r50_fpn_multinode "
        "--devices 8 --device npu"
    )
    assert check_for(load_recipe("ssd_r34_8p"), "devices").status == "ok"
    on_cpu = load_recipe("ssd_r34_8p", {"device": "cpu", "precision": "fp32"})
    assert check_for(on_cpu, "devices").status == "ok"


def test_the_data_of_a_recipe_are_looked_for(tmp_path: Path) -> None:
    recipe = load_recipe("ssd_r34_8p", {"data.root": str(tmp_path / "none")})
    found = check_for(recipe, "data")
    assert found.status == "missing"
    assert (found.remedy or "").startswith("run: suite data download coco2017, or")
    recipe = load_recipe("ssd_r34_8p", {"data.root": str(tmp_path)})
    assert "no annotations/instances_train2017.json" in check_for(recipe, "data").value
    (tmp_path / "annotations").mkdir()
    for split in ("train", "val"):
        (tmp_path / "annotations" / f"instances_{split}2017.json").touch()
    assert check_for(recipe, "data").status == "ok"


def test_the_device_of_a_recipe_must_be_usable(run_suite: Callable[..., SimpleNamespace]) -> None:
    done = run_suite("doctor", "--recipe", "ssd_r34_8p")
    assert done.code == 4
    assert "device npu: torch_npu is not installed" in done.stderr
    done = run_suite("doctor", "--recipe", "ssd_r34_8p", "--device", "cpu")
    assert done.code == 0
    assert "ssd_r34_8p asks for 8 x cpu\n" in done.stdout
    assert run_suite("doctor", "--recipe", "ssd_r34_9p").code == 2


def test_remedies_name_what_was_typed(
    run_suite: Callable[..., SimpleNamespace], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    copy_recipe("ssd_r34_8p", Path("mine.yaml"))
    (tmp_path / "my data").mkdir()
    asked = ["--recipe", "mine.yaml", "--data", "my data", "--devices", "4"]
    done = run_suite("doctor", *asked, "--set", "devices=2", "--set", "data.workers=0")
    typed = "mine.yaml --data 'my data' --set data.workers=0"
    assert f"-> to run it elsewhere: suite train {typed} --devices 1 --device cpu\n" in done.stdout
    assert "mine asks for 2 x npu, this machine has none" in done.stdout
    assert "in my data\n" in done.stdout


@pytest.mark.parametrize(
    "flag", [["--data", "d"], ["--devices", "2"], ["--device-ids", "0"], ["--set", "seed=1"]]
)
def test_flags_that_override_a_recipe_need_one(
    run_suite: Callable[..., SimpleNamespace], flag: list[str]
) -> None:
    done = run_suite("doctor", *flag)
    assert done.code == 2
    assert f"{flag[0]} overrides a recipe: add --recipe RECIPE" in done.stderr


def test_the_help_names_what_the_flags_take(run_suite: Callable[..., SimpleNamespace]) -> None:
    words = run_suite("doctor", "--help").stdout.split()
    assert words[words.index("--recipe") + 1] == "RECIPE"
    assert words[words.index("--json") + 1] == "Print"
