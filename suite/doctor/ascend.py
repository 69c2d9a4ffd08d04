"""Ascend devices: driver, health, free memory, and what HCCL needs to connect them.

Unverified on Ascend hardware: tests hold it against captured answers of the vendor's tools.
"""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from suite import device_problems
from suite.device_problems import find_device_files, release_of
from suite.doctor.cann import check_cann
from suite.doctor.checks import GIB, Check
from suite.doctor.needs import Needs
from suite.doctor.npu_smi import Chip, parse_health, parse_mapping
from suite.doctor.packages import check_package, read_version
from suite.errors import InputError
from suite.launch.ports import describe_holder, is_free
from suite.launch.rank_table.making import load_hccn_conf
from suite.vendor_tool import run_tool

_MANAGING_FILES = ("davinci_manager", "devmm_svm", "hisi_hdc")
_DRIVER_FILE = Path("/usr/local/Ascend/driver/version.info")
_DEVICE_IPS = Path("/etc/hccn.conf")
_KERNEL_PORTS = Path("/proc/sys/net/ipv4")

_MOUNT_TOOL = (
    "start the container with -v /usr/local/bin/npu-smi:/usr/local/bin/npu-smi:ro "
    "-v /usr/local/Ascend/driver:/usr/local/Ascend/driver:ro"
)
_FIRST_HCCL_PORT = 60000
_NUM_HCCL_PORTS = 16


def check_ascend(needs: Needs, *, has_torch: bool) -> Iterator[Check]:
    """Look at everything of Ascend; what only matters where there are devices, only there."""
    indices = find_device_files()
    yield _check_driver(indices)
    if indices:
        yield _check_health()
    yield check_cann()
    yield _check_torch_npu()
    if has_torch:
        yield from _check_devices()
    if indices:
        yield _check_device_ips(indices, needs)
        yield _check_hccl_ports()


def _check_driver(indices: Sequence[int]) -> Check:
    has_tool = shutil.which("npu-smi") is not None
    if not indices and not has_tool:
        return Check("npu driver", "missing", "no /dev/davinci* and no npu-smi")
    tool = "found" if has_tool else "not on PATH"
    value = f"{_read_driver_version()}, {len(indices)} of /dev/davinci*, npu-smi {tool}"
    # A container has devices one by one; without the managing ones none of them answers.
    folder = device_problems.DEVICE_FILES
    absent = [name for name in _MANAGING_FILES if not (folder / name).exists()]
    if not indices:
        absent = ["davinci0", *absent]
    if absent:
        flags = " ".join(f"--device /dev/{name}" for name in absent)
        value = f"{value}, no {', '.join(f'/dev/{name}' for name in absent)}"
        return Check("npu driver", "warning", value, f"start the container with {flags}")
    return Check("npu driver", "ok", value)


def _read_driver_version() -> str:
    text = _DRIVER_FILE.read_text(errors="replace") if _DRIVER_FILE.is_file() else ""
    found = re.search(r"^Version=(\S+)", text, re.MULTILINE)
    return found[1] if found else "of unknown version"


def _check_health() -> Check:
    if shutil.which("npu-smi") is None:
        return Check("npu health", "warning", "npu-smi is not on PATH", _MOUNT_TOOL)
    mapping = run_tool("npu-smi", "info", "-m")
    chips = parse_mapping(mapping.text)
    if not chips:
        value = mapping.problem or "npu-smi info -m: no chip in its answer"
        remedy = "reboot if driver or firmware have just been installed, then run: npu-smi info"
        return Check("npu health", "warning", value, remedy)
    health = _ask_health(chips)
    names = Counter(chip.name for chip in chips)
    value = ", ".join(f"{count} x {name}" for name, count in names.items())
    bad = {card: answer for card, answer in health.items() if answer != "OK"}
    if not bad:
        return Check("npu health", "ok", f"{value}, all OK")
    value += "".join(f", NPU {card}: {answer}" for card, answer in bad.items())
    good = ",".join(str(chip.index) for chip in chips if health.get(chip.card) == "OK")
    look = f"look at it with npu-smi info -t err-count -i {min(bad)}"
    remedy = f"{look}, or leave it out: export ASCEND_RT_VISIBLE_DEVICES={good}" if good else look
    return Check("npu health", "warning", value, remedy)


def _ask_health(chips: Sequence[Chip]) -> dict[int, str]:
    """Return the health of each card; after one that does not answer no other is asked."""
    answers: dict[int, str] = {}
    for card in sorted({chip.card for chip in chips}):
        output = run_tool("npu-smi", "info", "-t", "health", "-i", str(card))
        answers[card] = parse_health(output.text)
        if output.problem is not None:
            answers[card] = output.problem
            break
    return answers


def _check_torch_npu() -> Check:
    check = check_package("torch-npu", "npu-detection-suite[npu]")
    torch = read_version("torch")
    if check.status == "ok" and torch and release_of(check.value) != release_of(torch):
        value = f"{check.value} does not fit torch {torch}"
        remedy = 'run: pip install --upgrade "npu-detection-suite[npu]"'
        return Check("torch-npu", "warning", value, remedy)
    return check


def _check_devices() -> Iterator[Check]:
    import torch

    from suite.device import device_problem

    problem = device_problem("npu")
    if problem is not None:
        yield Check("npu", "missing", problem.cause, problem.remedy)
        return
    module = torch.get_device_module("npu")
    value = f"{module.device_count()} usable; this suite is unverified on Ascend hardware"
    yield Check("npu", "ok", value)
    yield _check_device_memory(module)


def _check_device_memory(module: Any) -> Check:
    free: dict[int, float] = {}
    total: dict[int, float] = {}
    try:
        for index in range(module.device_count()):
            free[index], total[index] = (size / GIB for size in module.mem_get_info(index))
    except (RuntimeError, AttributeError) as error:
        problem = (str(error) or type(error).__name__).splitlines()[0]
        return Check("npu memory", "warning", f"npu:{len(free)} does not tell: {problem}",
                     "run: npu-smi info")  # fmt: skip
    value = ", ".join(f"{free[i]:.1f} of {total[i]:.1f}" for i in free) + " GiB free"
    used = [index for index in free if free[index] < total[index] / 2]
    if used:
        value = f"{value}; others hold most of npu:{', npu:'.join(map(str, used))}"
        return Check("npu memory", "warning", value, "end the processes that npu-smi info lists")
    return Check("npu memory", "ok", value)


def _check_device_ips(indices: Sequence[int], needs: Needs) -> Check:
    """Look at the addresses that devices of different machines connect by."""
    if not _DEVICE_IPS.is_file():
        value = f"no {_DEVICE_IPS}, which runs over several machines need"
        remedy = f"start the container with -v {_DEVICE_IPS}:{_DEVICE_IPS}:ro"
        return Check("device ips", "warning" if needs.spans_machines else "ok", value, remedy)
    try:
        ips = load_hccn_conf(_DEVICE_IPS)
    except InputError as error:
        remedy = "run on the host, for each device N: hccn_tool -i N -ip -s address IP netmask MASK"
        return Check("device ips", "warning", str(error), remedy)
    for index in indices:
        same = [other for other in ips if other < index and ips[other] == ips.get(index)]
        if index in ips and not same:
            continue
        value = f"device {index} has {f'the IP of device {same[0]}' if same else 'none'}"
        remedy = f"run on the host: hccn_tool -i {index} -ip -s address IP netmask MASK"
        return Check("device ips", "warning", f"{value} in {_DEVICE_IPS}", remedy)
    return Check("device ips", "ok", ", ".join(ips[index] for index in indices))


def _check_hccl_ports() -> Check:
    named = os.environ.get("HCCL_IF_BASE_PORT") or str(_FIRST_HCCL_PORT)
    if not named.isdigit() or not 0 < int(named) <= 65536 - _NUM_HCCL_PORTS:
        value = f"HCCL_IF_BASE_PORT is {named!r}"
        return Check("hccl ports", "warning", value, "run: unset HCCL_IF_BASE_PORT")
    first, last = int(named), int(named) + _NUM_HCCL_PORTS - 1
    taken = next((port for port in range(first, last + 1) if not is_free(port)), None)
    if taken is not None:
        value = f"{taken} of {first}-{last} is taken{describe_holder(taken)}"
        return Check("hccl ports", "warning", value,
                     "end that process, or run: export HCCL_IF_BASE_PORT=17776")  # fmt: skip
    if _may_be_given_away(first, last):
        reserved = _read_kernel("ip_local_reserved_ports")
        ports = f"{reserved},{first}-{last}" if reserved else f"{first}-{last}"
        value = f"{first}-{last} are free, but any connection may be given them"
        remedy = f"run: sudo sysctl -w net.ipv4.ip_local_reserved_ports={ports}"
        return Check("hccl ports", "warning", value, remedy)
    return Check("hccl ports", "ok", f"{first}-{last} are free")


def _may_be_given_away(first: int, last: int) -> bool:
    """Whether the kernel may hand out one of these ports for an outgoing connection."""
    given = [int(port) for port in _read_kernel("ip_local_port_range").split() if port.isdigit()]
    if len(given) != 2:
        return False
    reserved: set[int] = set()
    for entry in _read_kernel("ip_local_reserved_ports").split(","):
        low, _, high = entry.partition("-")
        if low.isdigit():
            reserved |= set(range(int(low), int(high or low) + 1))
    return any(given[0] <= port <= given[1] and port not in reserved
               for port in range(first, last + 1))  # fmt: skip


def _read_kernel(name: str) -> str:
    path = _KERNEL_PORTS / name
    return path.read_text(encoding="ascii").strip() if path.is_file() else ""
