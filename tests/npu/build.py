"""Compile the simulated NPU once for all processes, for this torch, Python and source.

The library lies in the cache folder of the suite, outside of the checkout. g++ is called directly,
with the headers and libraries that torch brings: no ninja, no setuptools.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from suite.files import cache_folder, completing
from suite.locking import alone

SIMULATION = Path(__file__).parent / "simulation"
_SOURCES = SIMULATION / "cxx"
_TORCH = Path(torch.__file__).parent

_COMPILER = "g++"
_COMPILE = ("-std=c++20", "-O1", "-fPIC", "-w")
_LIBRARIES = ("torch", "torch_cpu", "torch_python", "c10")


def missing_tool() -> str | None:
    """Say why nothing can be compiled here; None where it can."""
    if shutil.which(_COMPILER) is None:
        return "no C++ compiler (g++), which the simulated NPU is built with"
    if not (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return "no Python.h, which the simulated NPU is built with"
    return None


def build_simulation() -> list[Path]:
    """Return the folders that PYTHONPATH needs for `import torch_npu`; compile where that is new.

    Raises:
        RuntimeError: the compiler fails; holds what it said.
    """
    folder = cache_folder("simulated_npu") / _key()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with alone(
        folder.with_name(f"{folder.name}.lock"),
        say=lambda sentence: print(sentence, file=sys.stderr),
    ):
        if not folder.is_dir():
            with completing(folder) as temporary:
                _compile(temporary)
    return [SIMULATION / "python", folder]


def _key() -> str:
    digest = hashlib.sha256()
    for path in sorted(_SOURCES.iterdir()):
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return f"torch-{torch.__version__}-{sys.implementation.cache_tag}-{digest.hexdigest()[:16]}"


def _compile(folder: Path) -> None:
    sources = sorted(_SOURCES.glob("*.cpp"))
    objects = [folder / f"{source.stem}.o" for source in sources]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_compile_one, sources, objects))
    libraries = [f"-l{name}" for name in _LIBRARIES]
    library = folder / f"simulated_npu{sysconfig.get_config_var('EXT_SUFFIX')}"
    _run("-shared", *objects, "-o", library, f"-L{_TORCH / 'lib'}", *libraries)
    for path in objects:
        path.unlink()


def _compile_one(source: Path, target: Path) -> None:
    includes = (_TORCH / "include", sysconfig.get_path("include"))
    _run(*_COMPILE, *(f"-I{folder}" for folder in includes), "-c", source, "-o", target)


def _run(*arguments: str | Path) -> None:
    finished = subprocess.run([_COMPILER, *arguments], capture_output=True, text=True)
    if finished.returncode != 0:
        raise RuntimeError(f"the simulated NPU does not compile:\n{finished.stderr}")
