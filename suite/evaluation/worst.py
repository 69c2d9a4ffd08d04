"""The images on which a detector errs most, with every error, for a gallery.

A mistake is a wrong detection above a score, or a true box that none above it has (IoU 0.5).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

import numpy as np

from suite.evaluation.columns import Flags, Integers
from suite.evaluation.matching import NONE, Matched
from suite.evaluation.tide import FOUND_KINDS, Errors

NUM_IMAGES: Final = 12
MAX_MISTAKES: Final = 50  # listed of one image


def find_worst(matched: Matched, errors: Errors, *, min_score: float) -> list[dict[str, Any]]:
    """Return the images with most mistakes, worst first; of two alike the lower id first."""
    is_wrong = (errors.kind != NONE) & (matched.found.score >= min_score)
    is_missed = _find_missed(matched, min_score)
    num_images = len(matched.columns.image_ids)
    mistakes = np.bincount(matched.found.image[is_wrong], minlength=num_images)
    mistakes += np.bincount(matched.truth.image[is_missed], minlength=num_images)
    order = np.argsort(-mistakes, kind="stable")[:NUM_IMAGES]
    return [
        _describe_image(image, matched, errors, (is_wrong, is_missed))
        for image in order.tolist()
        if mistakes[image]
    ]


def _find_missed(matched: Matched, min_score: float) -> Flags:
    match = matched.match[0][matched.found.score >= min_score]
    is_missed = ~matched.is_ignored
    is_missed[match[match != NONE]] = False
    return is_missed


def _describe_image(
    image: int, matched: Matched, errors: Errors, mistaken: tuple[Flags, Flags]
) -> dict[str, Any]:
    is_wrong, is_missed = mistaken
    wrong = np.flatnonzero(is_wrong & (matched.found.image == image))
    missed = np.flatnonzero(is_missed & (matched.truth.image == image))
    wrong = wrong[np.argsort(-matched.found.score[wrong], kind="stable")]
    kinds = Counter(FOUND_KINDS[kind] for kind in errors.kind[wrong].tolist())
    kinds.update({"missed": len(missed)} if len(missed) else {})
    is_true = ~matched.is_ignored & (matched.truth.image == image)
    return {
        "image_id": int(matched.columns.image_ids[image]),
        "true_boxes": int(is_true.sum()),
        "mistakes": len(wrong) + len(missed),
        "kinds": dict(kinds.most_common()),
        "why": kinds.most_common(1)[0][0],
        "boxes": list(_list_boxes(matched, errors, wrong, missed))[:MAX_MISTAKES],
    }


def _list_boxes(
    matched: Matched, errors: Errors, wrong: Integers, missed: Integers
) -> Iterator[dict[str, Any]]:
    category_ids = matched.columns.category_ids
    for position in missed.tolist():
        yield {
            "kind": "missed",
            "category_id": int(category_ids[matched.truth.label[position]]),
            "bbox": matched.truth.xywh[position].tolist(),
            "score": None,
        }
    for position in wrong.tolist():
        yield {
            "kind": FOUND_KINDS[errors.kind[position]],
            "category_id": int(category_ids[matched.found.label[position]]),
            "bbox": matched.found.xywh[position].tolist(),
            "score": float(matched.found.score[position]),
        }
