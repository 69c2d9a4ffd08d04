"""The verb `predict`: detections of image files, as COCO results and drawn on the images."""

from __future__ import annotations

import itertools
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from models.structures import Detections
from suite.data.collating import collate
from suite.data.images import IMAGE_SUFFIXES, read_image
from suite.data.preparing import prepare_image
from suite.drawing import draw_detections
from suite.errors import InputError, SuiteError, UsageError
from suite.evaluation.coco import detections_to_results
from suite.files import write_text
from suite.progress import Progress
from suite.run_folder import create_run_folder
from suite.runtime import LoadedDetect, build_model_device, load_detect


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What `predict` did: the folder it wrote, the images and detections in it, files skipped."""

    folder: Path
    num_images: int
    num_detections: int
    skipped: tuple[str, ...]


@dataclass(frozen=True)
class _Found:
    """What is on one image; images count from 1."""

    number: int
    path: Path
    image: NDArray[np.uint8]
    detections: Detections


def predict(
    model: Path,
    sources: Sequence[str],
    *,
    output: Path,
    device: str = "auto",
    draw_threshold: float = 0.3,
) -> Prediction:
    """Detect on image files.

    Writes `results.json` (COCO results, all scores, with `file_name`; image_id counts from 1) and a
    drawn copy of every image, all together or nothing.

    Args:
        model: checkpoint or graph.
        sources: files, folders or glob patterns.
        output: where `predict-<n>` is made.
        device: cpu, cuda, npu or auto.
        draw_threshold: lowest score that is drawn.

    Raises:
        UsageError: no image is found.
        InputError: the model is unusable, or no image can be read.
        SuiteError: `output` cannot be written to.
    """
    paths = find_images(sources)
    loaded = load_detect(model, device=build_model_device(model, device))
    skipped: list[str] = []
    found = _detect_all(paths, loaded, skipped)
    first = next(found, None)
    if first is None:
        raise InputError(f"none of {len(paths)} images can be read; the first: {skipped[0]}")
    folder, num_detections = _write_folder(
        itertools.chain([first], found),
        loaded,
        output=output,
        name=f"predict-{model.stem}",
        threshold=draw_threshold,
    )
    return Prediction(
        folder=folder,
        num_images=len(paths) - len(skipped),
        num_detections=num_detections,
        skipped=tuple(skipped),
    )


def find_images(sources: Sequence[str]) -> list[Path]:
    """Return the image files that files, folders and glob patterns stand for, without repeats.

    Raises:
        UsageError: a source stands for none.
    """
    found: dict[Path, None] = {}
    for source in sources:
        paths = [path for path in _expand(source) if path.suffix.lower() in IMAGE_SUFFIXES]
        if not paths:
            known = " ".join(sorted(IMAGE_SUFFIXES))
            raise UsageError(f"{source}: no image there (known: {known})")
        found.update(dict.fromkeys(paths))
    return list(found)


def detect_image(loaded: LoadedDetect, image: NDArray[np.uint8]) -> Detections:
    """Detect on one decoded image [H,W,3]."""
    batch = collate([prepare_image(image, loaded.sizing)])
    return loaded.detect(batch.images)[0]


def _expand(source: str) -> list[Path]:
    try:
        return _list_matches(Path(source))
    except (OSError, ValueError) as error:  # no permission; a name too long; a pattern such as a**b
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(f"{source[:100]}: no such file, folder or pattern ({reason})") from error


def _list_matches(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(path.iterdir())
    if path.is_file():
        return [path]
    root = Path(path.anchor) if path.is_absolute() else Path()
    return sorted(root.glob(str(path.relative_to(path.anchor))))


def _detect_all(
    paths: Sequence[Path], loaded: LoadedDetect, skipped: list[str]
) -> Iterator[_Found]:
    """Yield what is found on each readable image; `skipped` takes the messages on the others."""
    progress = Progress(len(paths), label="predict")
    for number, path in enumerate(paths, start=1):
        try:
            image = read_image(path)
        except InputError as error:
            skipped.append(str(error))
            continue
        yield _Found(number, path, image, detect_image(loaded, image))
        progress.update(number)
    progress.close()


def _write_folder(
    all_found: Iterable[_Found], loaded: LoadedDetect, *, output: Path, name: str, threshold: float
) -> tuple[Path, int]:
    """Write a new folder, complete or not at all; return it and the number of detections."""
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".predict-", dir=output) as scratch:
            build = Path(scratch) / "predictions"
            build.mkdir()
            num_detections = _write_all(all_found, loaded, build, threshold)
            folder = create_run_folder(output, name)
            build.replace(folder)
    except OSError as error:
        reason = error.strerror or error
        raise SuiteError(f"{output}: the predictions cannot be written ({reason})") from error
    return folder, num_detections


def _write_all(
    all_found: Iterable[_Found], loaded: LoadedDetect, folder: Path, threshold: float
) -> int:
    """Write drawings and results; return the number of detections."""
    results: list[dict[str, Any]] = []
    for found in all_found:
        results += _name_results(found, loaded)
        target = folder / f"{found.number:06d}-{found.path.stem[:100]}.jpg"
        _draw(found, loaded, threshold).save(target, quality=92)
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    return len(results)


def _name_results(found: _Found, loaded: LoadedDetect) -> list[dict[str, Any]]:
    answer = found.detections
    results = detections_to_results(
        found.number, answer.boxes_xyxy, answer.scores, answer.labels, loaded.category_ids
    )
    return [{**result, "file_name": found.path.name} for result in results]


def _draw(found: _Found, loaded: LoadedDetect, threshold: float) -> Image.Image:
    answer = found.detections
    seen = answer.scores >= threshold
    return draw_detections(
        found.image,
        answer.boxes_xyxy[seen].numpy(),
        answer.scores[seen].numpy(),
        answer.labels[seen].numpy(),
        loaded.class_names,
    )
