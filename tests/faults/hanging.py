"""`suite` where images whose name ends in 3 are on a disk that does not answer."""

from __future__ import annotations

import os

from suite.cli import main
from suite.data.sample import ImageFile

read = ImageFile.read


def read_but_hang(file: ImageFile) -> bytes:
    if file.path.stem.endswith("3"):
        os.read(os.pipe()[0], 1)  # nobody ever writes
    return read(file)


if __name__ == "__main__":
    ImageFile.read = read_but_hang  # type: ignore[method-assign]
    main()
