"""The CANN toolkit: whether this shell knows it, its version, and whether torch-npu fits it."""

from __future__ import annotations

import ctypes
import os
import re
from pathlib import Path

from suite.doctor.checks import Check
from suite.doctor.packages import read_version

# Release of torch-npu -> that of CANN it is made for. From Ascend/pytorch, COMPATIBILITY.en.md
# (b48e64812) and the release notes of 26.2.0; newer releases say it there.
_CANN_OF = {
    "2.10.0.post4": "9.1.0",
    "2.10.0.post7": "9.2.0",
    "2.11.0": "9.1.0",
    "2.11.0.post3": "9.2.0",
    "2.12.0": "9.1.0",
    "2.12.0.post3": "9.2.0",
    "2.13.0": "9.2.0",
    "2.14.0": "9.2.0",
}
# Those notes also call all of these CANN compatible with all of these torch-npu.
_COMPATIBLE = ("8.5", "9.0", "9.1", "9.2")
_TABLE = "https://gitcode.com/Ascend/pytorch, COMPATIBILITY.en.md"

_ROOTS = (Path("/usr/local/Ascend"), Path.home() / "Ascend")
_SETUPS = ("cann/set_env.sh", "ascend-toolkit/set_env.sh")
_VERSION_FILES = (
    ("*-linux/ascend_toolkit_install.info", r"^version=(\S+)"),
    ("version.cfg", r"^(?:toolkit|runtime)_running_version=\[[^:\]]*:([^\]]+)\]"),
)


def check_cann() -> Check:
    """Look for CANN and hold its version against the installed torch-npu."""
    home = os.environ.get("ASCEND_HOME_PATH")
    has_library = _loads("libhccl.so")
    if not home or not has_library:
        told = f"ASCEND_HOME_PATH is {home or 'not set'}"
        value = f"{told}, libhccl.so {'loads' if has_library else 'does not load'}"
        return Check("cann", "missing", value, _find_remedy())
    version = _read_cann_version(Path(home))
    if version is None:
        return Check("cann", "ok", f"{home}, of unknown version")
    return _check_pair(f"{version} in {home}", version)


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _find_remedy() -> str:
    places = [root / setup for root in _ROOTS for setup in _SETUPS]
    installed = next((place for place in places if place.is_file()), None)
    if installed is not None:
        return f"run: source {installed}"
    wanted = _CANN_OF.get(read_version("torch-npu") or "", "9.2.0")
    return f"install the CANN toolkit {wanted} (hiascend.com), then run: source {places[1]}"


def _read_cann_version(home: Path) -> str | None:
    for pattern, field in _VERSION_FILES:
        for path in sorted(home.glob(pattern)):
            found = re.search(field, path.read_text(errors="replace"), re.MULTILINE)
            if found:
                return found[1]
    return None


def _check_pair(value: str, version: str) -> Check:
    torch_npu = read_version("torch-npu")
    if torch_npu is None:
        return Check("cann", "ok", value)
    wanted = _CANN_OF.get(torch_npu)
    if wanted is None:
        value = f"{value}; which CANN torch-npu {torch_npu} is made for is not known here"
        return Check("cann", "ok", value, f"compare with {_TABLE}")
    if version == wanted:
        return Check("cann", "ok", f"{value}, what torch-npu {torch_npu} is made for")
    if version.startswith(tuple(f"{release}." for release in _COMPATIBLE)):
        value = f"{value}; torch-npu {torch_npu} is made for {wanted}, declared compatible"
        return Check("cann", "ok", value)
    value = f"{value}; torch-npu {torch_npu} is made for {wanted}"
    return Check("cann", "warning", value, f"install the CANN toolkit {wanted} (hiascend.com)")
