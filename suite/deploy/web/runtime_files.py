"""The files of onnxruntime-web that a page needs, out of its npm package.

They get names of ours that end with `.js`, because not every server knows what `.mjs` is.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Final

from suite.errors import InputError, MissingEnvironment
from suite.files import is_file, read_bounded
from suite.strict_nodes import clean

PACKAGE: Final = "onnxruntime-web@1.30.0"
# Our name -> where it lies in the package, and its sha256 in the release that npm fetches.
_FILES: Final = {
    "ort.js": (
        "dist/ort.wasm.min.mjs",
        "219e6a1fc8a9938268d18efca3c91d310bd2f4a59bbd13744df5b2b7fc6cee3b",
    ),
    "ort-wasm.js": (
        "dist/ort-wasm-simd-threaded.mjs",
        "e13f7f94fc51b4ca72b12faeb1ee95f4ace6dfbc8939bc718aabdc0a27c4299b",
    ),
    "ort-wasm.wasm": (
        "dist/ort-wasm-simd-threaded.wasm",
        "3398c10d07d229bd91b364548e130e0e51a8e5704b88c7c083ebbeb78842dee2",
    ),
}
RUNTIME_NAMES: Final = tuple(_FILES)

_MAX_BYTES = 2**27  # a file of 14 MB is the largest
_SECONDS = 600  # 33 MB are to be fetched
_BY_PATH = f"or unpack {PACKAGE} elsewhere and give its folder"


def read_runtime(folder: Path) -> dict[str, bytes]:
    """Return the runtime's files by their names in a page's folder.

    Args:
        folder: the unpacked package, any version, or its `dist`.

    Raises:
        InputError: a file is missing or too large.
    """
    remedy = f"give the unpacked npm package {PACKAGE}"
    files = {}
    for name, (place, _) in _FILES.items():
        path = folder / place
        if not is_file(path):
            path = folder / PurePosixPath(place).name
        files[name] = read_bounded(path, limit=_MAX_BYTES, remedy=remedy)
    return files


def fetch_runtime() -> dict[str, bytes]:
    """Let npm fetch the package and return the runtime's files; nothing of it is run or kept.

    Raises:
        InputError: the package is not the release that we know.
        MissingEnvironment: npm is absent or cannot fetch it.
    """
    npm = shutil.which("npm")
    if npm is None:
        raise MissingEnvironment(f"npm is not installed; install Node.js, {_BY_PATH}")
    with tempfile.TemporaryDirectory() as scratch:
        _pack(npm, scratch)
        try:
            (archive,) = Path(scratch).glob("*.tgz")
            files = _read_archive(archive)
        except (ValueError, KeyError, OSError, tarfile.TarError, EOFError) as error:
            raise InputError(f"{PACKAGE}: npm fetched no such package; {_BY_PATH}") from error
    for name, (place, expected) in _FILES.items():
        if hashlib.sha256(files[name]).hexdigest() != expected:
            raise InputError(f"{PACKAGE}: {place} is not that of the release; {_BY_PATH}")
    return files


def _pack(npm: str, folder: str) -> None:
    command = [npm, "pack", PACKAGE, "--ignore-scripts", "--silent", "--pack-destination", folder]
    try:
        done = subprocess.run(  # noqa: S603 - no part of it comes from outside
            command,
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=_SECONDS,
            check=False,
        )
    except OSError as error:
        raise _unfetched(str(error.strerror)) from error
    except subprocess.TimeoutExpired as error:
        raise _unfetched(f"no end within {_SECONDS} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if "error" in line.lower()]
        raise _unfetched(lines[0].strip() if lines else f"exit code {done.returncode}")


def _unfetched(reason: str) -> MissingEnvironment:
    # What npm prints may hold escape sequences, its own or a registry's.
    return MissingEnvironment(
        f"npm cannot fetch {PACKAGE} ({clean(reason)}); try again, {_BY_PATH}"
    )


def _read_archive(path: Path) -> dict[str, bytes]:
    """Read the members by their names; nothing is unpacked."""
    with tarfile.open(path, "r:gz") as archive:
        members = {
            name: archive.getmember(f"package/{place}") for name, (place, _) in _FILES.items()
        }
        if any(not member.isreg() or member.size > _MAX_BYTES for member in members.values()):
            raise ValueError(path)
        files = {}
        for name, member in members.items():
            stream = archive.extractfile(member)
            assert stream is not None  # a regular file
            files[name] = stream.read()
    return files
