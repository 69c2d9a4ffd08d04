"""The published data sets and weights that `suite data download` brings, and how they are laid out.

What a set consists of is plain data. Each archive is fetched to the folder of the set, unpacked
beside the place of its content, renamed into place and deleted; a piece under its final name is
therefore complete. A copy of an archive that a person put there is used instead of the network.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from suite.data.archives import unpack
from suite.download import RETRY_DELAYS_S, fetch, keep_digest, say_on_stderr
from suite.errors import InputError
from suite.locking import alone
from suite.progress import transfer_progress


@dataclass(frozen=True)
class Piece:
    """A file or folder of a set.

    Attributes:
        name: in the folder of the set and in that of its archive, such as annotations/a.json.
        num_files: how many the published folder has; None where they are not counted.
    """

    name: str
    num_files: int | None = None


@dataclass(frozen=True)
class Archive:
    """A zip or tar file.

    Attributes:
        url: https.
        pieces: what is wanted of it.
        prefix: the folder of the archive that the pieces are in, with a final slash.
        digest: its sha256, where the publisher states it.
    """

    url: str
    pieces: tuple[Piece, ...]
    prefix: str = ""
    digest: str | None = None

    def name(self) -> str:
        """Return the name of the file."""
        return Path(urlsplit(self.url).path).name


# The publisher's page links http://images.cocodataset.org, whose host has a certificate for its own
# name only: this is the same bucket under that name. No digest is published.
_COCO_URL: Final = "https://s3.amazonaws.com/images.cocodataset.org"

COCO2017: Final = (
    Archive(
        f"{_COCO_URL}/annotations/annotations_trainval2017.zip",
        (
            Piece("annotations/instances_train2017.json"),
            Piece("annotations/instances_val2017.json"),
        ),
    ),
    Archive(f"{_COCO_URL}/zips/val2017.zip", (Piece("val2017", 5_000),)),
    Archive(f"{_COCO_URL}/zips/train2017.zip", (Piece("train2017", 118_287),)),
)

# Where http://host.robots.ox.ac.uk, of the publisher's page, redirects to for good, as its
# administrator states in https://github.com/pytorch/vision/pull/9216. No digest is published.
VOC2012: Final = (
    Archive(
        "https://thor.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar",
        (Piece("Annotations", 17_125), Piece("ImageSets"), Piece("JPEGImages", 17_125)),
        prefix="VOCdevkit/VOC2012/",
    ),
)

DATA_SETS: Final = {"coco2017": COCO2017, "voc2012": VOC2012}
# As the shipped recipes name them, with torchvision's digests.
BACKBONES: Final = {
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
}


def download_set(
    archives: Sequence[Archive], folder: Path, *, delays_s: Sequence[float] = RETRY_DELAYS_S
) -> None:
    """Bring what is not there yet of a set; progress and statements go to stderr.

    Args:
        archives: such as `COCO2017`.
        folder: of the set; it is made.
        delays_s: seconds to wait before each further try, while tries are in vain.

    Raises:
        InputError: an archive cannot be had, is damaged, hostile or another one than expected, or a
            folder of the set has fewer files than the published one. What is complete stays.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / ".download.lock", say=say_on_stderr):
            # All are looked at before the first is fetched: that can take hours.
            missing = [(archive, _find_missing(archive, folder)) for archive in archives]
            for archive, pieces in missing:
                if pieces:
                    _bring(archive, pieces, folder, delays_s=delays_s)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written or read ({error})") from error


def _find_missing(archive: Archive, folder: Path) -> list[Piece]:
    """Return the pieces that are not there, and say how things stand."""
    missing = []
    for piece in archive.pieces:
        if _is_complete(folder / piece.name, piece):
            say_on_stderr(f"{folder / piece.name}: complete")
        else:
            missing.append(piece)
    if missing:
        say_on_stderr(f"{folder / archive.name()}: needed until it is unpacked, from {archive.url}")
    return missing


def _bring(
    archive: Archive, missing: Sequence[Piece], folder: Path, *, delays_s: Sequence[float]
) -> None:
    place = folder / archive.name()
    with transfer_progress(place.name) as bar:
        found = fetch(
            archive.url,
            place,
            digest=archive.digest,
            progress=bar.update,
            say=bar.say,
            delays_s=delays_s,
        )
    _unpack(place, missing, prefix=archive.prefix)
    if not archive.digest:
        keep_digest(place, found)  # not before: a wrong first file would make the right one wrong
    place.unlink()


def _unpack(place: Path, pieces: Sequence[Piece], *, prefix: str) -> None:
    """Bring pieces of an archive under their names beside it, each in one step."""
    temporary = place.with_name(f".{place.name}.unpacked")
    if temporary.exists():  # of a process that was killed
        shutil.rmtree(temporary)
    temporary.mkdir()
    try:
        with transfer_progress(f"unpack {place.name}") as bar:
            wanted = [prefix + piece.name for piece in pieces]
            unpack(place, temporary, wanted=wanted, progress=bar.update)
        for piece in pieces:
            num_lacking = _count_lacking(temporary / prefix / piece.name, piece)
            if num_lacking:
                raise InputError(
                    f"{place}: not the published archive, {num_lacking} files of {piece.name} "
                    "lack; delete it to fetch it again"
                )
        if sys.platform != "win32":
            os.sync()  # so that no crash leaves the names of files without their content
        for piece in pieces:
            target = place.parent / piece.name
            target.parent.mkdir(parents=True, exist_ok=True)
            (temporary / prefix / piece.name).rename(target)
    finally:
        shutil.rmtree(temporary)


def _is_complete(path: Path, piece: Piece) -> bool:
    num_lacking = _count_lacking(path, piece)
    if num_lacking and path.exists():
        raise InputError(
            f"{path}: {num_lacking} of the {piece.num_files} published files are not there; "
            "move it away and start again"
        )
    return num_lacking == 0


def _count_lacking(path: Path, piece: Piece) -> int:
    """Return how many files of a piece are not there."""
    if not path.exists() or piece.num_files is None:
        return int(not path.exists())
    with os.scandir(path) as entries:
        return max(piece.num_files - sum(entry.is_file() for entry in entries), 0)
