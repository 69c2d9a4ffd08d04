"""From a `Detect` and a data set to COCO's twelve numbers, and the verb `eval`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from typing import Any

from suite.data.loading import EvaluationSet, iterate_evaluation
from suite.data.sample import Dataset
from suite.data.workers import Workers
from suite.evaluation.coco import Evaluation, detections_to_results, evaluate_coco
from suite.launch.ranks import Ranks
from suite.runtime import Detect
from suite.sizing import Sizing


def detect_dataset(
    detect: Detect,
    dataset: Dataset,
    *,
    sizing: Sizing,
    batch_size: int,
    workers: Workers,
    progress: Callable[[int], None] = lambda _: None,
    ranks: Ranks | None = None,
) -> list[dict[str, Any]]:
    """Run a detector over every image and return COCO results with the data set's own ids.

    Args:
        sizing: of the network's input.
        progress: called with the number of images done.
        ranks: among which the images are shared out; all of them get all results.
    """
    ranks = ranks or Ranks()
    results: list[dict[str, Any]] = []
    done = 0
    images = EvaluationSet(dataset.samples[ranks.rank :: ranks.num_ranks], sizing)
    with closing(iterate_evaluation(images, batch_size=batch_size, workers=workers)) as batches:
        for batch in batches:
            for image_id, found in zip(batch.image_ids, detect(batch.images), strict=True):
                results += detections_to_results(
                    image_id, found.boxes_xyxy, found.scores, found.labels, dataset.category_ids
                )
            done += len(batch.image_ids)
            progress(min(done * ranks.num_ranks, len(dataset.samples)))
    return list(chain.from_iterable(ranks.gather(results)))


def evaluate(
    detect: Detect,
    dataset: Dataset,
    *,
    sizing: Sizing,
    batch_size: int,
    workers: Workers,
    progress: Callable[[int], None] = lambda _: None,
    ranks: Ranks | None = None,
) -> tuple[Evaluation, list[dict[str, Any]]]:
    """Detect on every image of a data set and let the referee judge; also return the results.

    The arguments are those of `detect_dataset`.
    """
    ranks = ranks or Ranks()
    results = detect_dataset(
        detect,
        dataset,
        sizing=sizing,
        batch_size=batch_size,
        workers=workers,
        progress=progress,
        ranks=ranks,
    )
    judged = ranks.share(lambda: asdict(evaluate_coco(dataset.coco, results)))
    return Evaluation(**judged), results
