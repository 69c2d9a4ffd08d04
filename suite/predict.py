"""The verb `predict`: detections of image files, as COCO results and drawn on the images."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.structures import Detections
from suite.data.images import IMAGE_SUFFIXES, read_image
from suite.data.loading import Example, collate
from suite.data.transforms import normalisation_affine, resize_image
from suite.device import build_device
from suite.drawing import draw_detections
from suite.errors import InputError, UsageError
from suite.evaluation.coco import detections_to_results
from suite.events import Progress
from suite.files import replacing, write_text
from suite.run_folder import create_run_folder
from suite.runtime import LoadedDetect, load_detect


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What `predict` did: the folder it wrote, the images and detections in it, files skipped."""

    folder: Path
    num_images: int
    num_detections: int
    skipped: tuple[str, ...]


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
    drawn copy of every image.

    Args:
        model: checkpoint or graph.
        sources: files, folders or glob patterns.
        output: where `predict-<n>` is made.
        device: cpu, cuda, npu or auto.
        draw_threshold: lowest score that is drawn.

    Raises:
        UsageError: no image is found.
        InputError: the model is unusable, or no image can be read.
    """
    paths = find_images(sources)
    loaded = load_detect(model, device=build_device(device, "fp32"))  # type: ignore[arg-type]  # checked by click
    folder = create_run_folder(output, f"predict-{model.stem}")
    results: list[dict[str, Any]] = []
    skipped = []
    progress = Progress(len(paths), label="predict")
    for number, path in enumerate(paths, start=1):
        try:
            image = read_image(path)
        except InputError as error:
            skipped.append(str(error))
            continue
        found = detect_image(loaded, image)
        results += _name_results(number, path, found, loaded)
        _write_drawing(
            folder / f"{number:06d}-{path.stem}.jpg", image, found, loaded, draw_threshold
        )
        progress.update(number)
    progress.close()
    if len(skipped) == len(paths):
        raise InputError(f"none of {len(paths)} images can be read; the first: {skipped[0]}")
    write_text(folder / "results.json", json.dumps(results, indent=1) + "\n")
    return Prediction(
        folder=folder,
        num_images=len(paths) - len(skipped),
        num_detections=len(results),
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
            raise UsageError(
                f"{source}: no image there (known: {' '.join(sorted(IMAGE_SUFFIXES))})"
            )
        found.update(dict.fromkeys(paths))
    return list(found)


def detect_image(loaded: LoadedDetect, image: NDArray[np.uint8]) -> Detections:
    """Detect on one decoded image [H,W,3]."""
    nothing = np.zeros((0, 4), dtype=np.float32), np.zeros(0, dtype=np.int64)
    pixels = resize_image(image, loaded.image_hw)
    hw = (image.shape[0], image.shape[1])
    batch = collate([Example(pixels, normalisation_affine(), *nothing, original_hw=hw, image_id=0)])
    return loaded.detect(batch.images)[0]


def _expand(source: str) -> list[Path]:
    path = Path(source)
    if path.is_dir():
        return sorted(path.iterdir())
    if path.is_file():
        return [path]
    root = Path(path.anchor) if path.is_absolute() else Path()
    return sorted(root.glob(str(path.relative_to(path.anchor))))


def _name_results(
    number: int, path: Path, found: Detections, loaded: LoadedDetect
) -> list[dict[str, Any]]:
    results = detections_to_results(
        number, found.boxes_xyxy, found.scores, found.labels, loaded.category_ids
    )
    return [{**result, "file_name": path.name} for result in results]


def _write_drawing(
    target: Path,
    image: NDArray[np.uint8],
    found: Detections,
    loaded: LoadedDetect,
    threshold: float,
) -> None:
    seen = found.scores >= threshold
    drawing = draw_detections(
        image,
        found.boxes_xyxy[seen].numpy(),
        found.scores[seen].numpy(),
        found.labels[seen].numpy(),
        loaded.class_names,
    )
    with replacing(target) as temporary:
        drawing.save(temporary, quality=92)
