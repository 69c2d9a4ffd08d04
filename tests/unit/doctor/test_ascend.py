"""What the doctor says of Ascend devices, held against captured answers of the vendor's tools."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from suite import vendor_tool
from suite.doctor import Check, ascend, doctor
from suite.doctor.npu_smi import Chip, parse_health, parse_mapping

CheckOf = Callable[[str], Check]
SAMPLES = Path(__file__).parent / "samples"


def sample(name: str) -> str:
    return (SAMPLES / name).read_text()


@contextmanager
def listening(port: int = 0) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", port)) as server:
        yield server.getsockname()[1]


def test_chips_are_read_by_the_headings() -> None:
    chips = parse_mapping(sample("mapping_910b3.txt"))
    assert chips == [Chip(index, index, "Ascend 910B3") for index in range(8)]
    two_chips = parse_mapping(sample("mapping_two_chips.txt"))
    assert [(chip.card, chip.index) for chip in two_chips] == [(0, 0), (0, 1), (1, 2), (1, 3)]
    assert {chip.name for chip in two_chips} == {"Ascend910"}
    for text in ("", sample("no_driver.txt"), sample("health_alarm.txt"), "NPU ID\n0 0 0 910"):
        assert parse_mapping(text) == []


def test_health_is_the_worst_of_a_card() -> None:
    assert parse_health(sample("health_one_chip.txt")) == "OK"
    assert parse_health(sample("health_older.txt")) == "OK"
    assert parse_health(sample("health_alarm.txt")) == "Alarm"
    assert parse_health(sample("no_driver.txt")) == "unknown"


@pytest.mark.usefixtures("eight_devices")
def test_a_machine_of_healthy_devices(
    check: CheckOf, npu_smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    npu_smi("mapping_910b3")
    monkeypatch.setattr(ascend, "_DRIVER_FILE", SAMPLES / "driver_version.info")
    value = "24.1.0, 8 of /dev/davinci*, npu-smi found"
    assert check("npu driver") == Check("npu driver", "ok", value)
    assert check("npu health") == Check("npu health", "ok", "8 x Ascend 910B3, all OK")


@pytest.mark.usefixtures("eight_devices")
def test_a_sick_device_is_named_with_the_healthy_rest(
    check: CheckOf, npu_smi: Callable[..., None]
) -> None:
    npu_smi("mapping_910b3", "health_alarm")
    found = check("npu health")
    assert (found.status, found.value) == ("warning", "8 x Ascend 910B3, NPU 7: Alarm")
    assert (found.remedy or "").endswith("export ASCEND_RT_VISIBLE_DEVICES=0,1,2,3,4,5,6")


@pytest.mark.usefixtures("eight_devices")
def test_a_tool_that_fails_is_quoted(check: CheckOf, npu_smi: Callable[..., None]) -> None:
    npu_smi("no_driver", before=f"cat {SAMPLES}/no_driver.txt; exit 1")
    assert check("npu health").value == (
        "npu-smi info -m: exit code 1, dcmi module initialize failed. ret is -8005"
    )
    npu_smi("no_driver")
    assert check("npu health").value == "npu-smi info -m: no chip in its answer"


@pytest.mark.usefixtures("eight_devices")
def test_a_tool_that_hangs_is_given_up(
    check: CheckOf, npu_smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    npu_smi("mapping_910b3", before="exec sleep 600")
    monkeypatch.setattr(vendor_tool, "_TIMEOUT_S", 0.2)
    started = time.monotonic()
    assert check("npu health").value == "npu-smi info -m: no answer within 0.2 s"
    assert time.monotonic() - started < 30


@pytest.mark.usefixtures("eight_devices")
def test_after_a_card_that_does_not_answer_no_other_is_asked(
    check: CheckOf, npu_smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    npu_smi("mapping_910b3", before='case "$*" in *"-i 2") exec sleep 600 ;; esac')
    monkeypatch.setattr(vendor_tool, "_TIMEOUT_S", 0.5)
    found = check("npu health")
    assert found.value.endswith("NPU 2: npu-smi info -t health -i 2: no answer within 0.5 s")
    assert (found.remedy or "").endswith("ASCEND_RT_VISIBLE_DEVICES=0,1")


def test_containers_get_the_flags_they_lack(
    check: CheckOf, npu_smi: Callable[..., None], tmp_path: Path
) -> None:
    npu_smi("mapping_910b3")
    found = check("npu driver")
    assert found.status == "warning"
    assert "--device /dev/davinci0 --device /dev/davinci_manager" in (found.remedy or "")
    (tmp_path / "dev" / "davinci0").touch()
    (tmp_path / "dev" / "davinci_manager").touch()
    assert check("npu driver").remedy == (
        "start the container with --device /dev/devmm_svm --device /dev/hisi_hdc"
    )


@pytest.mark.usefixtures("eight_devices")
def test_devices_without_the_tool_get_its_mount(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = check("npu health")
    assert found.value == "npu-smi is not on PATH"
    assert "-v /usr/local/Ascend/driver:/usr/local/Ascend/driver:ro" in (found.remedy or "")


def test_cann_is_told_from_its_environment(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = check("cann")
    assert "ASCEND_HOME_PATH is not set, libhccl.so does not load" in found.value
    assert (found.remedy or "").startswith("install the CANN toolkit 9.2.0")
    setup = tmp_path / "Ascend" / "ascend-toolkit" / "set_env.sh"
    setup.parent.mkdir(parents=True)
    setup.touch()
    assert check("cann").remedy == f"run: source {setup}"
    monkeypatch.setenv("ASCEND_HOME_PATH", "/opt/ascend")
    assert "ASCEND_HOME_PATH is /opt/ascend" in check("cann").value


def test_cann_version_is_read_from_either_file(check: CheckOf, cann_home: Path) -> None:
    assert check("cann") == Check("cann", "ok", f"{cann_home}, of unknown version")
    (cann_home / "version.cfg").write_text(sample("version.cfg"))
    assert check("cann").value == f"8.0.0 in {cann_home}"
    newer = cann_home / "aarch64-linux" / "ascend_toolkit_install.info"
    newer.parent.mkdir()
    newer.write_text(sample("ascend_toolkit_install.info"))
    assert check("cann").value == f"9.2.0 in {cann_home}"


@pytest.mark.parametrize(
    ("torch_npu", "cann", "status", "told"),
    [
        ("2.13.0", "9.2.0", "ok", "what torch-npu 2.13.0 is made for"),
        ("2.13.0", "9.1.0", "ok", "is made for 9.2.0, declared compatible"),
        ("2.13.0", "8.0.0", "warning", "torch-npu 2.13.0 is made for 9.2.0"),
        ("2.13.0", "9.10.0", "warning", "torch-npu 2.13.0 is made for 9.2.0"),
        ("2.13.0.post9", "9.2.0", "ok", "torch-npu 2.13.0.post9 is made for is not known here"),
    ],
)
def test_torch_npu_and_cann_are_paired_by_the_table(
    check: CheckOf,
    cann_home: Path,
    installed: Callable[..., None],
    *,
    torch_npu: str,
    cann: str,
    status: str,
    told: str,
) -> None:
    installed(torch_npu=torch_npu)
    (cann_home / "version.cfg").write_text(f"toolkit_running_version=[1.2.3:{cann}]\n")
    found = check("cann")
    assert found.status == status
    assert found.value.startswith(f"{cann} in {cann_home}")
    assert found.value.endswith(told)


def test_torch_npu_of_another_release_is_a_warning(
    check: CheckOf, installed: Callable[..., None]
) -> None:
    installed(torch_npu="2.9.0.post1", torch="2.13.0+cpu")
    found = check("torch-npu")
    assert found.status == "warning"
    assert found.value == "2.9.0.post1 does not fit torch 2.13.0+cpu"
    installed(torch_npu="2.13.0", torch="2.13.0+cpu")
    assert check("torch-npu") == Check("torch-npu", "ok", "2.13.0")


def test_device_memory_others_hold_is_told() -> None:
    gib = 2**30
    sizes = {0: (60 * gib, 64 * gib), 1: (5 * gib, 64 * gib)}
    module = SimpleNamespace(device_count=lambda: 2, mem_get_info=sizes.__getitem__)
    found = ascend._check_device_memory(module)
    assert found.status == "warning"
    assert found.value == "60.0 of 64.0, 5.0 of 64.0 GiB free; others hold most of npu:1"

    def fail(index: int) -> tuple[int, int]:
        raise RuntimeError("ACL error 507033\n[ERROR] more")

    module.mem_get_info = fail
    found = ascend._check_device_memory(module)
    assert found.value == "npu:0 does not tell: ACL error 507033"


@pytest.mark.usefixtures("eight_devices")
def test_device_ips_have_to_be_there_and_different(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert check("device ips").status == "ok"
    config = tmp_path / "hccn.conf"
    monkeypatch.setattr(ascend, "_DEVICE_IPS", config)
    config.write_text(sample("hccn.conf"))
    assert check("device ips").value.startswith("192.0.2.10, 192.0.2.11, ")
    config.write_text(sample("hccn.conf").replace("192.0.2.13", "192.0.2.12"))
    found = check("device ips")
    assert found.value == f"device 3 has the IP of device 2 in {config}"
    assert (found.remedy or "").startswith("run on the host: hccn_tool -i 3 -ip -s address")
    config.write_text("address_0=192.0.2.10\n")
    assert check("device ips").value == f"device 1 has none in {config}"
    config.write_text("address_0=192.0.2.10\naddress_0=192.0.2.11\n")
    found = check("device ips")
    assert (found.status, found.value) == ("warning", f"{config}:2: address_0 is given twice")
    assert "hccn_tool -i N -ip -s address" in (found.remedy or "")


@pytest.mark.usefixtures("eight_devices")
def test_ports_of_hccl_are_free_and_reserved(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ascend, "_KERNEL_PORTS", tmp_path)
    (tmp_path / "ip_local_port_range").write_text("32768\t60999\n")
    (tmp_path / "ip_local_reserved_ports").write_text("40000\n")
    found = check("hccl ports")
    assert (found.status, found.remedy) == (
        "warning",
        "run: sudo sysctl -w net.ipv4.ip_local_reserved_ports=40000,60000-60015",
    )
    (tmp_path / "ip_local_reserved_ports").write_text("40000,60000-60015\n")
    assert check("hccl ports") == Check("hccl ports", "ok", "60000-60015 are free")
    (tmp_path / "ip_local_reserved_ports").write_text("\n")
    (tmp_path / "ip_local_port_range").write_text("32768\t59999\n")
    assert check("hccl ports").status == "ok"


@pytest.mark.usefixtures("eight_devices")
def test_a_port_of_hccl_that_is_taken_is_named(
    check: CheckOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    with listening() as port:
        monkeypatch.setenv("HCCL_IF_BASE_PORT", str(port - 3))
        found = check("hccl ports")
    assert found.value.startswith(f"{port} of {port - 3}-{port + 12} is taken by process ")
    monkeypatch.setenv("HCCL_IF_BASE_PORT", "65530")
    assert check("hccl ports").remedy == "run: unset HCCL_IF_BASE_PORT"


def test_without_devices_nothing_is_said_of_their_network() -> None:
    names = {check.name for check in doctor()}
    assert not names & {"npu health", "npu memory", "device ips", "hccl ports"}
