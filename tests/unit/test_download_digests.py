"""Files without a published digest: the first that proves to be right is the one that counts."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from suite.download import fetch, keep_digest
from suite.errors import InputError

CONTENT = bytes(range(256)) * 40
OTHER = CONTENT[::-1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "folder" / "a.zip"


def quiet(_: str) -> None:
    pass


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def names(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.parent.iterdir())


def test_the_first_file_counts_where_no_digest_is_published(site: Any, path: Path) -> None:
    said: list[str] = []
    url = site.put("/a.zip", CONTENT)
    keep_digest(path, fetch(url, path, say=said.append), say=said.append)
    sentence = f"no digest is published; kept for the next time: sha256 {sha256(CONTENT)}"
    assert said == [f"fetching {url}", f"a.zip: {sentence}"]
    assert (path.parent / "a.zip.sha256").read_text() == sha256(CONTENT) + "\n"
    fetch(url, path, say=said.append)
    assert (len(said), len(site.asked)) == (2, 1)

    path.unlink()
    site.put("/a.zip", OTHER, tag='"2"')
    with pytest.raises(InputError, match=r"as .*a\.zip\.sha256 says \(delete that to accept"):
        fetch(url, path, say=quiet)
    assert names(path) == ["a.zip.sha256"]
    (path.parent / "a.zip.sha256").unlink()
    fetch(url, path, say=quiet)
    assert path.read_bytes() == OTHER


def test_the_first_file_counts_once_it_has_proved_to_be_right(site: Any, path: Path) -> None:
    said: list[str] = []
    url = site.put("/a.zip", OTHER)
    assert fetch(url, path, say=quiet) == sha256(OTHER)
    assert names(path) == ["a.zip"]
    path.unlink()
    site.put("/a.zip", CONTENT, tag='"2"')
    assert fetch(url, path, say=quiet) == sha256(CONTENT)
    keep_digest(path, sha256(CONTENT), say=said.append)
    keep_digest(path, sha256(OTHER), say=said.append)  # another process was first
    assert said == [
        f"a.zip: no digest is published; kept for the next time: sha256 {sha256(CONTENT)}"
    ]
    assert fetch(url, path, say=quiet) == sha256(CONTENT)
    path.write_bytes(OTHER)
    with pytest.raises(InputError, match=r"its sha256 is "):
        fetch(url, path, say=quiet)


def test_a_digest_that_cannot_be_kept_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file/a\.zip\.sha256: cannot be written"):
        keep_digest(tmp_path / "file" / "a.zip", sha256(CONTENT), say=quiet)


def test_a_file_that_is_there_is_checked_and_stays(site: Any, path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(OTHER)
    with pytest.raises(InputError, match=r"its sha256 is .*; delete the file to fetch it again"):
        fetch("https://example.org/a.zip", path, digest=sha256(CONTENT), say=quiet)
    # Whatever the first one is.
    keep_digest(path, fetch("https://example.org/a.zip", path, say=quiet), say=quiet)
    assert path.read_bytes() == OTHER
    path.write_bytes(CONTENT)
    with pytest.raises(InputError, match=r"its sha256 is "):
        fetch("https://example.org/a.zip", path, say=quiet)


def test_a_kept_digest_must_be_one(path: Path) -> None:
    path.parent.mkdir()
    (path.parent / "a.zip.sha256").write_bytes(b"\xff\n")
    with pytest.raises(InputError, match=r"a\.zip\.sha256: not a sha256; delete it"):
        fetch("https://example.org/a.zip", path)
