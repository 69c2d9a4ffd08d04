"""What is said where npu or cuda is unusable: one sentence with the remedy for each cause."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from suite import device_problems
from suite.device import Kind, build_device, count_devices, device_problem
from suite.device_problems import Problem
from suite.errors import MissingEnvironment

TORCH = torch.__version__
RELEASE = TORCH.partition("+")[0]
INSTALL = 'run: pip install "npu-detection-suite[npu]"'


@pytest.fixture(autouse=True)
def unset_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ASCEND_HOME_PATH", "ASCEND_RT_VISIBLE_DEVICES", device_problems.NO_FALLBACK):
        # Set and deleted: at the end monkeypatch then also removes what the test set.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def install_torch_npu(source: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "torch_npu.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    # Set and deleted: at the end monkeypatch then also removes what was imported meanwhile.
    monkeypatch.setitem(sys.modules, "torch_npu", None)  # type: ignore[arg-type]
    del sys.modules["torch_npu"]


def say_problem(kind: Kind) -> str:
    return str(device_problem(kind))


def missing(library: str) -> str:
    text = f"{library}: cannot open shared object file: No such file or directory"
    return f"raise ImportError({text!r})"


WITHOUT_CANN = missing("libhccl.so")


def test_npu_that_is_not_installed_names_the_install_command(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch_npu" else real(name)
    )
    assert device_problem("npu") == Problem("torch_npu is not installed", INSTALL)
    with pytest.raises(MissingEnvironment) as info:
        build_device("npu", "fp32")
    assert info.value.exit_code == 4


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        (
            WITHOUT_CANN,
            "torch_npu is installed but CANN is not on LD_LIBRARY_PATH (libhccl.so not found, "
            "ASCEND_HOME_PATH not set); run: source /usr/local/Ascend/ascend-toolkit/set_env.sh",
        ),
        (
            "import os\nos.environ['ASCEND_HOME_PATH'] = '/opt/cann'\n" + missing("libascendcl.so"),
            "CANN in /opt/cann (ASCEND_HOME_PATH) is incomplete or not on LD_LIBRARY_PATH "
            "(libascendcl.so not found); install its toolkit and source the set_env.sh in it",
        ),
        (
            missing("libascend_hal.so"),
            "the Ascend driver is not installed here (libascend_hal.so not found); "
            "install it, or mount /usr/local/Ascend/driver into the container",
        ),
        (
            "raise ImportError('/x/libnpu_profiler.so: undefined symbol: aclAppLog')",
            "CANN does not fit torch_npu (/x/libnpu_profiler.so: undefined symbol: aclAppLog); "
            "install the CANN release that torch_npu's compatibility table names and source the "
            "set_env.sh in it",
        ),
        (
            "raise ImportError('/x/libtorch_npu.so: undefined symbol: _ZN2at')",
            f"torch_npu does not load beside torch {TORCH} (/x/libtorch_npu.so: undefined symbol: "
            f"_ZN2at); {INSTALL}",
        ),
        (
            "raise OSError('libtorch_npu.so: undefined symbol: _ZN2at')",
            f"torch_npu does not load beside torch {TORCH} (libtorch_npu.so: undefined symbol: "
            f"_ZN2at); {INSTALL}",
        ),
        (
            "raise RuntimeError('Two accelerators cannot be used at the same time in PyTorch: npu "
            "and cuda.\\n[ERROR] 2026-01-01')",
            f"torch {TORCH} is built for another accelerator, beside which torch_npu does not "
            f"load; run: pip install --force-reinstall torch=={RELEASE} "
            "--index-url https://download.pytorch.org/whl/cpu",
        ),
    ],
)
def test_npu_that_does_not_load_names_cause_and_remedy(
    source: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_torch_npu(source, tmp_path, monkeypatch)
    assert say_problem("npu") == problem
    for ask in (lambda: build_device("npu", "fp32"), lambda: count_devices("npu")):
        with pytest.raises(MissingEnvironment) as info:
            ask()
        assert str(info.value) == f"device npu: {problem}"


def test_npu_of_another_release_is_not_even_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_torch_npu("raise AssertionError('loaded')", tmp_path, monkeypatch)
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.12.0.post1")
    assert say_problem("npu") == (f"torch_npu 2.12.0.post1 does not fit torch {TORCH}; {INSTALL}")


@pytest.mark.parametrize(
    ("files", "visible", "problem"),
    [
        (
            (),
            None,
            "torch_npu loads but there is no /dev/davinci*; install the Ascend driver, or start "
            "the container with --device /dev/davinci0 --device /dev/davinci_manager",
        ),
        (
            ("davinci0", "davinci1"),
            "1,0",
            "torch_npu sees no device with ASCEND_RT_VISIBLE_DEVICES='1,0'; unset it, or name "
            "devices that exist in rising order, such as 0,1",
        ),
        (("davinci0",), None, "torch_npu loads but sees no device; check `npu-smi info`"),
    ],
)
def test_npu_without_devices_names_where_to_look(
    files: tuple[str, ...],
    visible: str | None,
    problem: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install_torch_npu("", tmp_path, monkeypatch)
    for file in ("davinci_manager", *files):
        (tmp_path / file).touch()
    monkeypatch.setattr(device_problems, "DEVICE_FILES", tmp_path)
    if visible is not None:
        monkeypatch.setenv("ASCEND_RT_VISIBLE_DEVICES", visible)
    empty = SimpleNamespace(device_count=lambda: 0)
    monkeypatch.setattr(torch, "get_device_module", lambda kind: empty)
    assert say_problem("npu") == problem


def test_auto_passes_over_a_broken_npu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install_torch_npu(WITHOUT_CANN, tmp_path, monkeypatch)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert build_device("auto", "fp32").kind == "cpu"


@pytest.mark.parametrize(
    ("cuda_version", "message"),
    [
        (None, r"built without CUDA; run: pip install --force-reinstall torch==\d+\.\d+\.\d+$"),
        ("13.0", r"built for CUDA 13\.0 but finds no usable GPU or driver; check `nvidia-smi`"),
    ],
)
def test_absent_cuda_names_build_and_remedy(
    cuda_version: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", cuda_version)
    with pytest.raises(MissingEnvironment, match=message):
        build_device("cuda", "fp32")
