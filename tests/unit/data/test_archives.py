"""Archives of others: what is wanted comes out, nothing leaves the folder, damage is named."""

from __future__ import annotations

import contextlib
import io
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.data import archives
from suite.data.archives import unpack
from suite.errors import InputError

PAGES = {"a/1.jpg": b"one" * 1000, "a/deep/2.jpg": b"two", "b.json": b"{}", "c/3.jpg": b"three"}
WANTED = ("a", "b.json")


def write_zip(path: Path, pages: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in pages.items():
            archive.writestr(name, content)
    return path


def write_tar(path: Path, pages: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in pages.items():
            kind = tarfile.REGTYPE if content else tarfile.DIRTYPE
            add_to_tar(archive, name, content, type=kind)
    return path


def add_to_tar(archive: tarfile.TarFile, name: str, content: bytes = b"", **fields: Any) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    archive.addfile(info, io.BytesIO(content))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside" / "folder").mkdir(parents=True)
    return tmp_path / "outside" / "folder"


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_what_is_wanted_comes_out(
    write: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path, folder: Path
) -> None:
    shown: list[tuple[int, int]] = []
    pages = {"a/": b"", **PAGES, "ab/4.jpg": b"4", "b.json.bak": b"5"}
    archive = write(tmp_path / "archive", pages)
    unpack(archive, folder, wanted=WANTED, progress=lambda *state: shown.append(state))
    assert files_in(folder) == {name: PAGES[name] for name in ("a/1.jpg", "a/deep/2.jpg", "b.json")}
    assert shown == [(3000, 3005), (3003, 3005), (3005, 3005)]


HOSTILE_NAMES = ["../x", "a/../../x", "/x", "\\x", "a\\..\\..\\x", "C:/x", "a/" + "x" * 256]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_a_name_that_leaves_the_folder_ends_it(
    write: Callable[[Path, dict[str, bytes]], Path], name: str, tmp_path: Path, folder: Path
) -> None:
    archive = write(tmp_path / "archive", {**PAGES, name: b"x"})
    with pytest.raises(InputError, match=r"archive: file name .* must stay inside"):
        unpack(archive, folder, wanted=WANTED)
    assert files_in(folder.parent) == {}


@pytest.mark.parametrize(
    ("kind", "refusal"),
    [
        (tarfile.SYMTYPE, "a link or device"),
        (tarfile.LNKTYPE, "a link or device"),
        (tarfile.FIFOTYPE, "a link or device"),
        (tarfile.CHRTYPE, "a link or device"),
        (tarfile.GNUTYPE_SPARSE, "sparse"),
    ],
)
def test_a_tar_may_hold_files_and_folders_alone(
    kind: bytes, refusal: str, tmp_path: Path, folder: Path
) -> None:
    for name, wanted in (("c", WANTED), ("a/x", WANTED)):
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            add_to_tar(archive, "b.json", b"{}")
            add_to_tar(archive, name, type=kind, linkname="/etc/passwd")
        if name == "c":
            unpack(tmp_path / "a.tar", folder, wanted=wanted)  # it is not wanted
            assert files_in(folder) == {"b.json": b"{}"}
        else:
            with pytest.raises(InputError, match=f"'a/x' is {refusal}, not unpacked"):
                unpack(tmp_path / "a.tar", folder, wanted=wanted)


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        (lambda info: setattr(info, "external_attr", 0o120777 << 16), "a link or device"),
        (lambda info: setattr(info, "flag_bits", 1), "encrypted"),
        (lambda info: setattr(info, "compress_type", 14), "compressed in way 14"),
        (lambda info: setattr(info, "file_size", 10**12), "1000000000000 bytes unpacked, at most"),
        (lambda info: setattr(info, "file_size", 4), "neither zip nor tar .*; delete it to fetch"),
        (lambda info: setattr(info, "file_size", 2), "neither zip nor tar .*; delete it to fetch"),
        (lambda info: setattr(info, "CRC", 0), "damaged.*Bad CRC-32"),
    ],
    ids=["link", "encrypted", "lzma", "bomb", "more", "less", "checksum"],
)
def test_a_zip_that_is_not_what_it_should_be(
    change: Callable[[zipfile.ZipInfo], None], refusal: str, tmp_path: Path, folder: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/x", b"xyz")
        change(archive.filelist[0])  # as the directory at the end will say
    with pytest.raises(InputError, match=refusal):
        unpack(tmp_path / "a.zip", folder, wanted=WANTED)


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_damage_is_named_wherever_it_is(
    write: Callable[[Path, dict[str, bytes]], Path], tmp_path: Path
) -> None:
    whole = write(tmp_path / "whole", PAGES)
    content = whole.read_bytes().rstrip(b"\0")  # what a tar ends with
    for number in range(60):
        (tmp_path / "cut").write_bytes(content[: len(content) * number // 60])
        (tmp_path / str(number)).mkdir()
        with pytest.raises(InputError, match="cut: damaged, or neither zip nor tar"):
            unpack(tmp_path / "cut", tmp_path / str(number), wanted=WANTED)


def test_damage_in_a_tar_is_not_taken_for_its_end(tmp_path: Path, folder: Path) -> None:
    content = bytearray(write_tar(tmp_path / "a.tar", PAGES).read_bytes())
    content[content.index(b"b.json")] = ord("x")  # against the checksum of the header
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(InputError, match=r"damaged.*no end, but something else at byte 4608"):
        unpack(tmp_path / "a.tar", folder, wanted=WANTED)


def test_a_compressed_tar_is_refused(tmp_path: Path, folder: Path) -> None:
    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as archive:
        add_to_tar(archive, "b.json", b"{}")
    with pytest.raises(InputError, match="damaged, or neither zip nor tar"):
        unpack(tmp_path / "a.tar.gz", folder, wanted=WANTED)


def test_no_file_is_written_twice(tmp_path: Path, folder: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the duplicate
        archive.writestr("b.json", b"1")
        archive.writestr("b.json", b"2")
    with pytest.raises(OSError, match="exists"):
        unpack(tmp_path / "a.zip", folder, wanted=WANTED)


def test_the_disk_is_asked_before_the_first_byte(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("a/1", b"x")
        archive.writestr("a/2", b"x")
        archive.filelist[1].file_size = 10**18
    monkeypatch.setattr(archives, "MAX_BYTES", 10**19)
    with pytest.raises(InputError, match=r"1000000000\.0 GB are needed"):
        unpack(tmp_path / "a.zip", folder, wanted=WANTED)
    assert files_in(folder) == {}


def test_the_number_of_members_is_limited(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write_zip(tmp_path / "a.zip", PAGES)
    monkeypatch.setattr(archives, "MAX_MEMBERS", 4)
    unpack(archive, folder, wanted=["b.json"])
    monkeypatch.setattr(archives, "MAX_MEMBERS", 3)
    with pytest.raises(InputError, match="more than 3 members"):
        unpack(archive, folder, wanted=["c"])


NAMES = (
    st.lists(st.sampled_from(["a", "b.json", "..", ".", "", "/", "\\", "C:", "x"]), min_size=1)
    .map("/".join)
    .filter(bool)
)


@settings(deadline=None, max_examples=150)
@given(names=st.lists(NAMES, min_size=1, max_size=4, unique=True), zipped=st.booleans())
def test_nothing_is_ever_written_elsewhere(
    names: list[str], zipped: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    base = tmp_path_factory.mktemp("base")
    (base / "b" / "c").mkdir(parents=True)
    pages = dict.fromkeys(names, b"x")
    archive = (write_zip if zipped else write_tar)(base / "archive", pages)
    with contextlib.suppress(InputError, OSError):
        unpack(archive, base / "b" / "c", wanted=WANTED)
    written = {Path(name).parts[:3] for name in files_in(base)}
    assert written <= {("archive",), ("b", "c", "a"), ("b", "c", "b.json")}
