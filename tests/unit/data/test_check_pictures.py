"""Findings about image files: damage, EXIF against annotated sizes, equal content, processes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image

from suite.data.checking import pictures as pictures_module
from suite.data.checking.findings import Finding, Findings
from suite.data.checking.inspecting import Picture, Seen, Task, inspect
from suite.data.checking.pictures import Unusable, check_pictures
from suite.data.images import read_image
from suite.data.sample import ImageFile
from suite.errors import InputError


def draw(
    path: Path, *, size: tuple[int, int] = (32, 24), seed: int = 0, orientation: int = 1
) -> Path:
    """Write a JPEG or PNG of noise; `size` is width, height as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    exif = Image.Exif()
    if orientation != 1:
        exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(noise).save(path, exif=exif)
    return path


def picture(
    path: Path, image_id: int = 1, *, size: tuple[int, int] = (32, 24), split: str = "train"
) -> Picture:
    return Picture(split, image_id, ImageFile(path), size[::-1])


def look(*found: Picture, decode: bool = True, workers: int = 0) -> tuple[list[Finding], Unusable]:
    findings = Findings()
    unusable = check_pictures(found, decode=decode, workers=workers, findings=findings)
    return findings.kept, unusable


def test_sound_images_give_nothing_and_progress_is_told(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    found = [picture(draw(tmp_path / f"{n}.jpg", seed=n), n) for n in range(3)]
    findings = Findings()
    unusable = check_pictures(
        found, decode=True, workers=0, findings=findings, progress=lambda *at: seen.append(at)
    )
    assert findings.kept == []
    assert unusable == Unusable()
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_missing_damaged_and_resized_images_are_errors(tmp_path: Path) -> None:
    damaged = draw(tmp_path / "damaged.png")
    damaged.write_bytes(damaged.read_bytes()[:200])
    text = tmp_path / "text.jpg"
    text.write_text("not an image")
    found, unusable = look(
        picture(tmp_path / "gone.png", 1),
        picture(damaged, 2),
        picture(text, 3),
        picture(draw(tmp_path / "resized.png", size=(40, 24)), 4),
        picture(draw(tmp_path / "sound.png"), 5),
    )
    assert [(item.severity, item.rule, item.item) for item in found] == [
        ("error", "missing_image", "image 1"),
        ("error", "truncated_image", "image 2"),
        ("error", "undecodable_image", "image 3"),
        ("error", "size_mismatch", "image 4"),
    ]
    assert found[3].value == "the image is 40 x 24 but annotated as 32 x 24"
    assert found[1].file == str(damaged)
    assert unusable.damaged == {("train", number) for number in (1, 2, 3, 4)}


def test_without_decoding_only_files_are_looked_for(tmp_path: Path) -> None:
    draw(tmp_path / "damaged.png").write_bytes(b"\x89PNG")
    found, _ = look(picture(tmp_path / "gone.png"), picture(tmp_path / "damaged.png"), decode=False)
    assert [item.rule for item in found] == ["missing_image"]


@pytest.mark.parametrize(
    ("orientation", "annotated", "rule", "severity"),
    [
        (6, (24, 32), "exif_as_seen", "note"),
        (6, (32, 24), "exif_as_stored", "note"),
        (6, (30, 20), "size_mismatch", "error"),
        (3, (32, 24), "exif_unclear", "warning"),
        (1, (24, 32), "size_mismatch", "error"),
    ],
)
def test_exif_orientation_against_the_annotated_size(
    tmp_path: Path, orientation: int, annotated: tuple[int, int], rule: str, severity: str
) -> None:
    path = draw(tmp_path / "a.jpg", orientation=orientation)
    ((finding,), _) = look(picture(path, size=annotated))
    assert (finding.rule, finding.severity) == (rule, severity)
    if rule == "size_mismatch":
        with pytest.raises(InputError, match="but annotated as"):
            read_image(path, expected_hw=annotated[::-1])
        return
    turned = read_image(path, expected_hw=annotated[::-1])
    stored = np.asarray(Image.open(path))
    is_turned = not np.array_equal(turned, stored)
    assert is_turned == ("not turned" not in finding.consequence)


def test_a_wrong_size_names_the_stored_one_too(tmp_path: Path) -> None:
    path = draw(tmp_path / "a.jpg", orientation=6)
    ((finding,), _) = look(picture(path, size=(30, 20)))
    assert finding.value == "the image is 24 x 32, stored as 32 x 24 but annotated as 30 x 20"


@pytest.mark.parametrize("decode", [True, False])
def test_equal_content_within_and_across_splits(tmp_path: Path, decode: bool) -> None:
    one = draw(tmp_path / "one.png", seed=1)
    for name in ("copy.png", "val.png"):
        shutil.copy(one, tmp_path / name)
    other = draw(tmp_path / "other.png", seed=2)
    found, unusable = look(
        picture(one, 1),
        picture(tmp_path / "copy.png", 2),
        picture(other, 3),
        picture(tmp_path / "val.png", 1, split="val"),
        decode=decode,
    )
    same, shared = found
    assert (same.rule, same.severity, same.split) == ("same_content", "warning", "train")
    assert (same.file, same.item) == (str(tmp_path / "copy.png"), "image 2")
    assert same.value == f"same content as image 1, {one}"
    assert (shared.rule, shared.severity) == ("in_both_splits", "warning")
    assert (shared.file, shared.value) == (str(tmp_path / "val.png"), f"image 1, {one}")
    assert unusable.repeated == {("train", 2)}
    assert unusable.in_val == {("train", 1), ("train", 2)}


def test_only_files_of_one_size_are_digested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "short.bin").write_bytes(b"12")
    for name in ("a.bin", "b.bin"):
        (tmp_path / name).write_bytes(name.encode())
    asked: list[tuple[str, bool]] = []

    def note(task: Task) -> Seen:
        asked.append((task.picture.file.path.name, task.digest))
        return Seen("", "", b"")

    monkeypatch.setattr(pictures_module, "inspect", note)
    look(*(picture(tmp_path / name) for name in ("short.bin", "a.bin", "b.bin", "gone.bin")))
    assert asked == [("short.bin", False), ("a.bin", True), ("b.bin", True), ("gone.bin", False)]


def test_parts_of_a_file_are_images_too(tmp_path: Path) -> None:
    content = draw(tmp_path / "a.png").read_bytes()
    (tmp_path / "records").write_bytes(b"header" + content + b"rest" + content)
    part = ImageFile(tmp_path / "records", 6, len(content), "first")
    twin = ImageFile(tmp_path / "records", 10 + len(content), len(content), "second")
    cut = ImageFile(tmp_path / "records", 6, 10 * len(content), "third")
    found, _ = look(
        *(Picture("train", n, file, (24, 32)) for n, file in enumerate((part, twin, cut)))
    )
    assert [(item.rule, item.item) for item in found] == [
        ("truncated_image", "image 2"),
        ("same_content", "image 1"),
    ]


def test_processes_find_the_same_in_the_same_order(tmp_path: Path) -> None:
    found = [picture(draw(tmp_path / f"{n}.jpg", seed=n % 40), n) for n in range(50)]
    (tmp_path / "7.jpg").unlink()
    (tmp_path / "33.jpg").write_bytes(b"")
    alone, _ = look(*found)
    together, _ = look(*found, workers=2)
    assert together == alone
    assert {item.rule for item in alone} == {
        "missing_image", "undecodable_image", "same_content",
    }  # fmt: skip


def end_process_at_crash(task: Task) -> Seen:
    if task.picture.file.path.name == "crash.jpg":
        os.kill(os.getpid(), signal.SIGKILL)
    return inspect(task)


def test_an_image_that_ends_its_process_is_one_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forked(workers: int) -> Any:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        # Forked, so that the processes have the decoder that kills.
        return ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("fork"))

    monkeypatch.setattr(pictures_module, "_new_pool", forked)
    monkeypatch.setattr(pictures_module, "inspect", end_process_at_crash)
    names = [f"{n}.jpg" for n in range(40)]
    names[20] = "crash.jpg"
    found = [picture(draw(tmp_path / name, seed=n), n) for n, name in enumerate(names)]
    (tmp_path / "30.jpg").unlink()
    findings, unusable = look(*found, workers=2)
    assert [(item.rule, item.item) for item in findings] == [
        ("crashing_image", "image 20"),
        ("missing_image", "image 30"),
    ]
    assert unusable.damaged == {("train", 20), ("train", 30)}


def test_every_odd_image_gets_the_verdict_of_its_manifest(shared: Path) -> None:
    folder = shared / "data" / "odd_images"
    with (folder / "MANIFEST.tsv").open() as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    verdicts = {}
    for row in rows:
        size = json.loads(row["size"].replace("(", "[").replace(")", "]").replace("None", "[1, 1]"))
        (path,) = folder.rglob(row["file"])
        (finding, *_) = look(picture(path, size=(size[0], size[1])))[0] or [None]
        verdicts[row["file"]] = finding.rule if finding else ""
    assert len(verdicts) == len(rows) == 69
    for row in rows:
        rule, verdict = verdicts[row["file"]], row["pillow_13_result"]
        if verdict == "ok":
            assert rule in ("", "exif_as_seen", "exif_as_stored", "exif_unclear"), row
            assert (rule == "") == (row["exif_orientation"] in ("1", "None", "")), row
        elif "DecompressionBomb" in verdict and not row["file"].endswith(".ico"):  # never opened
            assert rule == "bomb_image", row
        else:
            assert rule in ("undecodable_image", "truncated_image"), row
