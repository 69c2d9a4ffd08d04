"""The parity of a graph of another tool: the reading that agrees best, and what differs then.

Its inner values have no names that are known here, so there is one stage: whole detections.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice, product
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from models.structures import Detections, Images
from suite.deploy.end_to_end import distance
from suite.deploy.pairing import Found, Overlap, Pairing, count_overlapping, pair_detections
from suite.deploy.parity import MIN_OVERLAPPING, Parity
from suite.deploy.sides import Fed, Photo, feed_images
from suite.deploy.stages import NOTHING_PAIRED
from suite.deploy.third_party_causes import find_cause_of_others
from suite.deploy.third_party_layouts import DESCRIPTIONS
from suite.deploy.third_party_pair import FEEDS, LABELS, Asked, Pair, Reading
from suite.errors import UsageError
from suite.graph_session import ORT
from suite.runtime import LoadedDetect, checkpoint_subject, unpad
from suite.sizing import build_sizing

# How many batches decide on the reading: generated images, and photos where there are some.
_TRIED = 2


@dataclass(frozen=True, kw_only=True)
class _Figures:
    """Of some images; see `suite.deploy.parity.Parity`. `found` counts the graph's detections."""

    pairing: Pairing
    overlap: Overlap
    batch_differences: int
    misfits: int
    nonfinite: int
    num_images: int
    found: int


def compare_third_party(pair: Pair, photos: Sequence[Photo]) -> tuple[Parity, Reading]:
    """Choose the reading of a graph and compare it with its checkpoint on whole images.

    Args:
        pair: both.
        photos: real photos; a detector fires on few things else.

    Raises:
        InputError: the graph fails, or an image cannot be read.
        UsageError: neither side finds anything, which proves nothing.
    """
    feds = feed_images(photos, pair.metadata)
    tried = [pair.ask_both(fed.pixels) for fed in islice(feds, _TRIED)]
    reading = _choose_reading(pair, tried)
    batches = [_compare(pair, fed, reading) for fed in feed_images(photos, pair.metadata)]
    pairing = sum((batch.pairing for batch in batches), start=NOTHING_PAIRED)
    overlap = sum((batch.overlap for batch in batches), start=Overlap(total=0, found=0))
    if pairing.total + sum(batch.found for batch in batches) == 0:
        raise UsageError(
            f"{pair.source}: neither it nor the checkpoint finds anything in the images, so "
            "nothing is proven; pass photos with --images"
        )
    alone = pair.file.layout.batch == 1
    parity = Parity(
        precision=pair.metadata.precision,
        detections=pairing.total,
        paired=pairing.paired,
        borderline=pairing.borderline,
        unpaired=pairing.unpaired,
        overlapping=None if pair.metadata.precision == "fp32" else overlap.share,
        batch_differences=None if alone else sum(batch.batch_differences for batch in batches),
        misfits=sum(batch.misfits for batch in batches),
        nonfinite=sum(batch.nonfinite for batch in batches),
        num_images=sum(batch.num_images for batch in batches),
        reading=f"{DESCRIPTIONS[pair.file.layout.name]}; fed {reading.feed}; {reading.labels}",
        subject=describe_subject(pair),
    )
    failed = parity.first_failure() is not None
    cause = find_cause_of_others(pair, tried, reading) if failed else ""
    return replace(parity, cause=cause), reading


def build_detect(pair: Pair, reading: Reading) -> LoadedDetect:
    """Return a graph of another tool as the function that accuracy is measured of."""

    def detect(images: Images) -> list[Detections]:
        pixels = images.to(torch.device("cpu")).normalised()
        answers = pair.ask(FEEDS[reading.feed](pixels))
        found = [pair.keep(raw, reading.labels, pixels.shape[2:]) for raw in answers]
        known = [_of_classes(one, pair) for one in found]
        rows = [[torch.from_numpy(value) for value in one] for one in known]
        padded: list[Tensor] = [
            pad_sequence(list(parts), batch_first=True) for parts in zip(*rows, strict=True)
        ]
        return unpad([*padded, torch.tensor([len(one[1]) for one in known])], images)

    metadata = pair.metadata
    return LoadedDetect(
        detect,
        sizing=build_sizing(metadata.resize, canvas_hw=metadata.image_hw),
        class_names=pair.trained.class_names,
        category_ids=pair.trained.category_ids,
        runtime=ORT.describe("cpu"),
        precision=metadata.precision,
        subject=describe_subject(pair),
    )


def describe_subject(pair: Pair) -> dict[str, Any]:
    """Return what a record says about a graph of another tool: what it is held against."""
    return checkpoint_subject(pair.trained) | {"graph_sha256": pair.file.sha256}


def _choose_reading(pair: Pair, tried: Sequence[Asked]) -> Reading:
    """Return the reading with the fewest differences; where labels never agree, without them."""

    def differ(reading: Reading) -> tuple[float, float]:
        answers = [(asked, asked.theirs[reading.feed]) for asked in tried]
        strict = sum(pair.mismatch(*answer, reading.labels) for answer in answers)
        return strict, sum(pair.mismatch(*answer, None) for answer in answers)

    return min((Reading(*names) for names in product(FEEDS, LABELS)), key=differ)


def _compare(pair: Pair, fed: Fed, reading: Reading) -> _Figures:
    ours = pair.ask_checkpoint(fed.pixels)
    raw = pair.ask(FEEDS[reading.feed](fed.pixels))
    theirs = [pair.keep(found, reading.labels, fed.network_hw) for found in raw]
    sides = list(zip(ours, theirs, strict=True))
    exact = pair.metadata.precision == "fp32"
    pairings = [pair_detections(*side, pair.limits) for side in sides]
    overlaps = [] if exact else [count_overlapping(*side, pair.limits) for side in sides]
    return _Figures(
        pairing=sum(pairings, start=NOTHING_PAIRED),
        overlap=sum(overlaps, start=Overlap(total=0, found=0)),
        batch_differences=_count_batch_differences(pair, fed, reading, theirs),
        misfits=sum(len(found[1]) - len(_of_classes(found, pair)[1]) for found in theirs),
        nonfinite=sum(int((~np.isfinite(part)).sum()) for found in raw for part in found[:2]),
        num_images=len(ours),
        found=sum(len(found[1]) for found in theirs),
    )


def _of_classes(found: Found, pair: Pair) -> Found:
    """Return those detections whose label is one of the checkpoint's classes."""
    boxes_xyxy, scores, labels = found
    known = (labels >= 0) & (labels < pair.trained.detector.num_classes)
    return boxes_xyxy[known], scores[known], labels[known]


def _count_batch_differences(
    pair: Pair, fed: Fed, reading: Reading, together: Sequence[Found]
) -> int:
    """Count images whose answer is another one where they come alone."""
    if pair.file.layout.batch == 1:
        return 0
    alone = [
        pair.keep(found, reading.labels, fed.network_hw)
        for row in range(len(fed.pixels))
        for found in pair.ask(FEEDS[reading.feed](fed.select(row).pixels))
    ]
    return sum(_differ(pair, one, other) for one, other in zip(alone, together, strict=True))


def _differ(pair: Pair, alone: Found, together: Found) -> bool:
    if pair.metadata.precision != "fp32":
        return count_overlapping(alone, together, pair.limits).share < MIN_OVERLAPPING
    if pair_detections(alone, together, pair.limits).unpaired == 0:
        return False
    # Near ties may fall otherwise in a batch: another box then, of the same score.
    return not distance(alone[1], together[1]) <= pair.limits.max_score_difference
