"""Published sets from a server on the loopback: layout, what is skipped, what stays after harm."""

from __future__ import annotations

import hashlib
import io
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from suite.cli import cli
from suite.data import downloading
from suite.data.downloading import (
    BACKBONES,
    DATA_SETS,
    Archive,
    Piece,
    download_set,
)
from suite.errors import InputError
from suite.progress import transfer_progress
from suite.recipe import load_recipe

IMAGES = {f"train/{number}.jpg": bytes([number]) * 5000 for number in range(4)}
ANNOTATIONS = {"annotations/train.json": b"{}", "annotations/captions.json": b"[]"}
AT_ONCE = (0.0, 0.0)


def zip_bytes(pages: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in pages.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # with a date that stays
    return file.getvalue()


def tar_bytes(pages: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in pages.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


@pytest.fixture
def coco(site: Any) -> tuple[Archive, Archive]:
    """A set of the shape of COCO's: annotations without captions, and a folder of four images."""
    return (
        Archive(
            site.put("/annotations/boxes.zip", zip_bytes(ANNOTATIONS)),
            (Piece("annotations/train.json"),),
        ),
        Archive(site.put("/zips/train.zip", zip_bytes(IMAGES)), (Piece("train", 4),)),
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "data" / "set"


def files_in(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".sha256"
    }


SET = {"annotations/train.json": b"{}", **IMAGES}


# The road


def test_a_set_is_laid_out_and_nothing_else_stays(
    coco: tuple[Archive, ...], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download_set(coco, folder)
    assert files_in(folder) == SET
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "annotations",
        "boxes.zip.sha256",
        "train",
        "train.zip.sha256",
    ]
    said = capsys.readouterr()
    digest = hashlib.sha256(zip_bytes(IMAGES)).hexdigest()
    assert said.out == ""
    assert said.err.startswith(
        f"{folder}/boxes.zip: needed until it is unpacked, from {coco[0].url}\n"
        f"{folder}/train.zip: needed until it is unpacked, from {coco[1].url}\n"
        f"fetching {coco[0].url}\n"
    )
    assert "train.zip (MB) 1/1 " in said.err
    assert f"train.zip: no digest is published; kept for the next time: sha256 {digest}" in said.err


def test_a_prefix_is_left_out(site: Any, folder: Path) -> None:
    pages = {f"kit/2012/{name}": content for name, content in IMAGES.items()}
    url = site.put("/voc.tar", tar_bytes({**pages, "kit/2012/Masks/0.png": b"", "kit/x": b""}))
    download_set((Archive(url, (Piece("train", 4),), prefix="kit/2012/"),), folder)
    assert files_in(folder) == IMAGES


def test_what_is_complete_is_left_alone(
    coco: tuple[Archive, ...], site: Any, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download_set(coco, folder)
    (folder / "annotations" / "train.json").write_bytes(b"mine")
    site.asked.clear()
    capsys.readouterr()
    download_set(coco, folder)
    assert site.asked == []
    assert files_in(folder) == {**SET, "annotations/train.json": b"mine"}
    assert capsys.readouterr().err == (
        f"{folder}/annotations/train.json: complete\n{folder}/train: complete\n"
    )


def test_only_what_is_absent_is_brought(coco: tuple[Archive, ...], site: Any, folder: Path) -> None:
    both = replace(coco[0], pieces=(*coco[0].pieces, Piece("annotations/captions.json")))
    (folder / "annotations").mkdir(parents=True)
    (folder / "annotations" / "train.json").write_bytes(b"mine")
    (folder / "annotations" / "other.json").write_bytes(b"mine too")
    download_set((both,), folder)
    assert files_in(folder) == {
        "annotations/captions.json": b"[]",
        "annotations/other.json": b"mine too",
        "annotations/train.json": b"mine",
    }


def test_a_folder_that_lacks_files_is_not_touched(
    coco: tuple[Archive, ...], site: Any, folder: Path
) -> None:
    (folder / "train").mkdir(parents=True)
    (folder / "train" / "0.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"train: 3 of the 4 published files are not there; move"):
        download_set(coco, folder)
    assert files_in(folder) == {"train/0.jpg": b"mine"}
    assert site.asked == []  # nor is anything fetched in vain


def test_the_bar_begins_again_with_another_file(capsys: pytest.CaptureFixture[str]) -> None:
    with transfer_progress("a.zip") as bar:
        for done, total in ((0, 10), (3, 10), (0, 5), (5, 5), (5, 5)):
            bar.update(done * 10**6, total * 10**6)
    assert capsys.readouterr().err == "a.zip (MB) 5/5 ETA 0:00:00\n"


# Harm


def test_interruptions_of_the_network_are_bridged(
    coco: tuple[Archive, ...], site: Any, folder: Path
) -> None:
    site.faults = [{"status": 503}, {"num_bytes": 50}, {}, {"hangs_up": True}, {"num_bytes": 9000}]
    download_set(coco, folder, delays_s=AT_ONCE)
    assert files_in(folder) == SET
    assert [headers["Range"] for _, headers in site.asked] == [
        None,
        None,
        "bytes=50-",
        None,
        None,
        "bytes=9000-",
    ]


def test_the_same_call_goes_on_after_an_end(
    coco: tuple[Archive, ...], site: Any, folder: Path
) -> None:
    site.faults = [{}, {"num_bytes": 9000}]
    with pytest.raises(InputError, match=r"train\.zip .*ended after 9000"):
        download_set(coco, folder, delays_s=())
    download_set(coco, folder)
    assert files_in(folder) == SET
    assert [path for path, _ in site.asked] == ["/annotations/boxes.zip"] + ["/zips/train.zip"] * 2
    assert site.asked[2][1]["Range"] == "bytes=9000-"


def test_an_unpacking_that_was_killed_begins_again(
    coco: tuple[Archive, ...], site: Any, folder: Path
) -> None:
    half = folder / ".train.zip.unpacked" / "train"
    half.mkdir(parents=True)
    (half / "0.jpg").write_bytes(b"ha")
    (folder / "train.zip").write_bytes(zip_bytes(IMAGES))
    download_set(coco[1:], folder)
    assert files_in(folder) == IMAGES
    assert site.asked == []


def test_wrong_bytes_leave_nothing(coco: tuple[Archive, ...], folder: Path) -> None:
    archive = replace(coco[1], digest="0" * 64)
    with pytest.raises(InputError, match=f"{archive.url}: its sha256 is .* expected 0{{64}}"):
        download_set((archive,), folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zip_bytes({**IMAGES, "../x.jpg": b""}), r"train\.zip: file name '\.\./x\.jpg' climbs"),
        (
            zip_bytes({"val/0.jpg": b""}),
            "not the published archive, 1 files of train lack; delete it to fetch it again",
        ),
        (zip_bytes({"train/0.jpg": b""}), "not the published archive, 3 files of train lack"),
        (zip_bytes(IMAGES)[:-30], "damaged, or neither zip nor tar"),
        (b"<html>Please log in</html>", "damaged, or neither zip nor tar"),
    ],
    ids=["hostile", "other", "fewer", "cut", "page"],
)
def test_an_archive_that_is_not_the_published_one(
    site: Any, folder: Path, content: bytes, message: str
) -> None:
    archive = Archive(site.put("/train.zip", content), (Piece("train", 4),))
    with pytest.raises(InputError, match=message):
        download_set((archive,), folder)
    assert files_in(folder) == {"train.zip": content}
    assert sorted(files_in(folder.parent.parent)) == ["data/set/train.zip"]
    # It is not taken for the right one: what the publisher sends by then is, once this is deleted.
    assert [entry.name for entry in folder.iterdir()] == ["train.zip"]
    (folder / "train.zip").unlink()
    site.put("/train.zip", zip_bytes(IMAGES), tag='"2"')
    download_set((archive,), folder)
    assert files_in(folder) == IMAGES
    digest = hashlib.sha256(zip_bytes(IMAGES)).hexdigest()
    assert (folder / "train.zip.sha256").read_text() == digest + "\n"


def test_a_place_that_cannot_be_written_is_named(coco: tuple[Archive, ...], folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_bytes(b"")
    with pytest.raises(InputError, match=f"{folder}: cannot be written"):
        download_set(coco, folder)


# The command line


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["data", "download", *map(str, arguments)])


@pytest.fixture
def own(coco: tuple[Archive, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(DATA_SETS, "coco2017", coco)
    monkeypatch.chdir(tmp_path)


def test_the_verb_prints_the_folder(own: None, tmp_path: Path) -> None:
    done = run("coco2017")
    assert (done.exit_code, done.stdout) == (0, "data/coco2017\n")
    assert files_in(tmp_path / "data" / "coco2017") == SET
    done = run("coco2017", "--output", "here")
    assert (done.exit_code, done.stdout) == (0, "here\n")
    assert files_in(tmp_path / "here") == SET


def test_without_a_network_a_copy_in_the_named_place_is_enough(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    nowhere = Archive("http://127.0.0.1:1/zips/train.zip", (Piece("train", 4),))
    monkeypatch.setitem(DATA_SETS, "voc2012", (nowhere,))
    monkeypatch.chdir(tmp_path)
    failed = run("voc2012").exception
    assert isinstance(failed, InputError)
    assert str(failed).startswith(f"cannot fetch {nowhere.url} (")
    assert "refused" in str(failed)
    assert str(failed).endswith("place a copy of the file at data/voc2012/train.zip")
    Path("data/voc2012/train.zip").write_bytes(zip_bytes(IMAGES))
    assert run("voc2012").exit_code == 0
    assert files_in(tmp_path / "data" / "voc2012") == IMAGES


def test_weights_go_where_training_looks(
    site: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from suite.weights import fetch_weights

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    name = f"/resnet34-{hashlib.sha256(b'weights').hexdigest()[:8]}.pth"
    monkeypatch.setitem(BACKBONES, "resnet34", site.put(name, b"weights"))
    done = run("resnet34")
    path = Path(done.stdout.rstrip("\n"))
    assert (done.exit_code, path.read_bytes()) == (0, b"weights")
    assert path.is_relative_to(tmp_path)
    assert fetch_weights(BACKBONES["resnet34"]) == path
    assert len(site.asked) == 1
    done = run("resnet34", "--output", str(tmp_path / "mine"))
    assert done.stdout == f"{tmp_path}/mine{name}\n"


# What is published


def test_the_recipes_find_what_is_downloaded() -> None:
    for recipe, backbone in (("ssd_r34_8p", "resnet34"), ("retinanet_r50_fpn_8p", "resnet50")):
        loaded = load_recipe(recipe)
        assert loaded.detector.backbone_weights == BACKBONES[backbone]
        names = {piece.name for archive in DATA_SETS["coco2017"] for piece in archive.pieces}
        splits = (loaded.data.train, loaded.data.val)
        assert names == {name for split in splits for name in (split.annotations, split.images)}
        assert loaded.data.root == "data/coco2017"


def test_everything_published_comes_over_https_and_can_be_chosen() -> None:
    archives = [archive for chosen in DATA_SETS.values() for archive in chosen]
    urls = [*(archive.url for archive in archives), *BACKBONES.values()]
    assert all(url.startswith("https://") for url in urls)
    assert len({(archive.name()) for archive in archives}) == len(archives) == 4
    choices = cli.commands["data"].commands["download"].params[0].type  # type: ignore[attr-defined]
    assert set(choices.choices) == {*DATA_SETS, *BACKBONES}  # type: ignore[attr-defined]
    assert downloading.COCO2017 is DATA_SETS["coco2017"]
