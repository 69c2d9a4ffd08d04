"""A folder in shared memory for the length of a run, and what killed runs left there."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from suite.errors import MissingEnvironment
from suite.locking import alone, is_held

_ROOT: Final = Path("/dev/shm")  # noqa: S108 - folders of this user alone are made there
_PREFIX: Final = "npu-detection-suite-"
_LOCK: Final = "in-use"


@contextmanager
def open_shared_folder() -> Iterator[Path]:
    """Yield a new folder in shared memory; it goes at the end.

    Those of processes that could not delete theirs, having been killed, go first.

    Raises:
        MissingEnvironment: this system has no such folder.
    """
    if not _ROOT.is_dir():
        raise MissingEnvironment(f"--cache ram needs {_ROOT}, which is not here; use --cache disk")
    for left in _ROOT.glob(f"{_PREFIX}*"):
        if not is_held(left / _LOCK):
            shutil.rmtree(left, ignore_errors=True)
    # Found by its name only once it is locked.
    hidden = _ROOT / f".{_PREFIX}{secrets.token_hex(8)}"
    try:
        hidden.mkdir(mode=0o700)
    except OSError as error:
        raise MissingEnvironment(
            f"{_ROOT}: cannot be written ({error.strerror}); use --cache disk"
        ) from error
    folder = hidden.with_name(hidden.name.removeprefix("."))
    try:
        with alone(hidden / _LOCK, say=lambda _: None):  # nobody else knows its name
            hidden.rename(folder)
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(hidden, ignore_errors=True)
