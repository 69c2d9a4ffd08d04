"""Finding the files that a dataset names: nothing outside its folder.

An annotation file comes from someone else, so the names in it are checked as text before any of
them is opened, and a link that leaves the folder is refused. Folders are listed once; no file is
looked at.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from suite.errors import InputError

_DRIVE = re.compile(r"[A-Za-z]:")
_MAX_NAME_BYTES = 255
_MAX_PATH_BYTES = 3072  # Linux takes 4096 for a whole path


class UnsafeName(InputError):
    """A name that leads out of its folder or cannot be a file name."""

    def __init__(self, source: str, reason: str, remedy: str) -> None:
        super().__init__(f"{source}: {reason}; {remedy}")
        self.reason = reason
        self.remedy = remedy


class ContainedFolder:
    """A folder that the names of an annotation file may not leave."""

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder of images; check the dataset's root")
        self.root = root
        self._resolved = root.resolve()
        self._links: dict[str, frozenset[str]] = {}

    def locate(self, name: str, *, source: str) -> Path:
        """Return where `name` is, whether or not the file exists.

        Args:
            name: relative to the folder, as the annotation file spells it.
            source: where the name stands, for the message.

        Raises:
            UnsafeName: it leads out of the folder or cannot be a file name.
        """
        reason = _refusal(name)
        if reason:
            raise UnsafeName(
                source, f"file name {name!r} {reason}", f"names must stay inside {self.root}"
            )
        parent, _, base = name.rpartition("/")
        path = self.root / name
        if base in self._linked_names(parent, source=source) and not self._contains(path):
            raise UnsafeName(
                source,
                f"file name {name!r} is a link that leads out of {self.root}",
                "put the file itself there",
            )
        return path

    def _linked_names(self, parent: str, *, source: str) -> frozenset[str]:
        if parent not in self._links:
            folder = self.root / parent
            if not self._contains(folder):
                raise UnsafeName(
                    source,
                    f"folder {parent!r} is a link that leads out of {self.root}",
                    "put the folder itself there",
                )
            self._links[parent] = _links_in(folder)
        return self._links[parent]

    def _contains(self, path: Path) -> bool:
        try:
            return path.resolve().is_relative_to(self._resolved)
        except RuntimeError:  # a link that points at itself
            return False


def _refusal(name: str) -> str:
    if not name or "\0" in name:
        return "is not a file name"
    if name.startswith(("/", "\\")) or _DRIVE.match(name):
        return "is absolute"
    parts = re.split(r"[/\\]", name)
    if ".." in parts:
        return "climbs with '..'"
    try:
        longest = max(len(part.encode()) for part in parts)
    except UnicodeEncodeError:
        return "is not valid text"
    too_long = longest > _MAX_NAME_BYTES or len(name.encode()) > _MAX_PATH_BYTES
    return "is too long" if too_long else ""


def _links_in(folder: Path) -> frozenset[str]:
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return frozenset()  # its images are missing, which their reader says
    except OSError as error:
        raise InputError(f"{folder}: cannot be listed ({error.strerror})") from error
    with entries:
        return frozenset(entry.name for entry in entries if entry.is_symlink())
