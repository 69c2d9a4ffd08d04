"""The section of real predictions: the drawings of `suite predict` beside a record.

`suite.report.html.beside` says where they lie. They are decoded by the reader that training uses,
made smaller and written anew, so that nothing but pixels of a file gets into the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from PIL import Image

from suite.data.images import read_image
from suite.errors import InputError
from suite.report.html.beside import NUM_PICTURES, find_pictures
from suite.report.html.frame import render_picture, shrink, text
from suite.report.html.section import Numbered, Section, cite, name_entry
from suite.report.layout import shorten

MAX_BYTES: Final = 32 * 1024 * 1024  # of a file
_SIDE: Final = 480  # pixels, the longer side
_MOST_PICTURES: Final = 3 * NUM_PICTURES  # of the page


def gallery_section(entries: Sequence[Numbered]) -> Section:
    """Return the pictures beside the latest records that have some."""
    room, parts = _MOST_PICTURES, list[str]()
    # The rows of one record have one file.
    for number, entry in {entry.path: (number, entry) for number, entry in entries[::-1]}.values():
        paths = find_pictures(entry.path)[:room]
        room -= len(paths)
        if paths:
            name = name_entry(entry, 80)
            figures = "".join(_render(path, name) for path in paths)
            parts.append(
                f"<h3>{text(name)} {cite(number)}</h3>\n"
                f'<div class="charts pictures">\n{figures}</div>\n'
            )
    return Section(
        key="gallery",
        heading="Predictions",
        lead="Drawn by suite predict: every box from its lowest score on, whether right or wrong.",
        parts=parts,
        remedy=("suite predict MODEL IMAGES --output RUN_FOLDER",
                "draws detections on pictures beside a run's record"),
    )  # fmt: skip


def _render(path: Path, name: str) -> str:
    told = shorten(path.name, 80)
    try:
        picture = _read(path)
    except InputError as error:
        return f"<figure><figcaption>{text(shorten(error, 200))}</figcaption></figure>\n"
    return render_picture(picture, alt=f"Detections of {name} drawn on {told}", caption=told)


def _read(path: Path) -> Image.Image:
    if path.stat().st_size > MAX_BYTES:
        raise InputError(f"{path.name}: larger than {MAX_BYTES} bytes, too large for a report")
    return shrink(Image.fromarray(read_image(path)), _SIDE)
