"""The figures of a verification, what they must not exceed, and how they are shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

MAX_HEAD_DIFFERENCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The figures of a verification.

    Attributes:
        logits, deltas: largest absolute difference of the raw heads.
        candidates, candidates_unpaired: on generated heads; those without an equal (either side).
        nms_cases, nms_differences: arrays put through both NMS stages; those with a differing bit.
        detections: found by PyTorch over all images; `paired` have an equal in the graph's answer,
            `borderline` sit on a threshold or a tie, `unpaired` are neither (of either side).
        batch_differences: images whose answer depends on the batch around them.
        misfits: rows that break the output's promise: padding that is not 0, 0, -1, labels that are
            no class, scores not above the threshold or not in order.
        nonfinite: values in the graph's outputs that are NaN or infinite.
        num_images: compared end to end.
        metadata: fields of the graph's metadata that say something else than the checkpoint.

    Without NMS in the graph, all but heads, batches and non-finite values are 0.
    """

    logits: float
    deltas: float
    candidates: int = 0
    candidates_unpaired: int = 0
    nms_cases: int = 0
    nms_differences: int = 0
    detections: int = 0
    paired: int = 0
    borderline: int = 0
    unpaired: int = 0
    batch_differences: int
    misfits: int = 0
    nonfinite: int
    num_images: int
    metadata: tuple[str, ...] = ()

    def failures(self) -> list[str]:
        """Return what does not hold, first stage first; empty when the graph is the checkpoint."""
        worst = float(np.maximum(self.logits, self.deltas))  # NaN if either is
        checks = [
            (self.metadata, f"metadata says otherwise: {', '.join(self.metadata)}"),
            (
                not worst <= MAX_HEAD_DIFFERENCE,
                f"heads differ by {worst:.3g}, allowed {MAX_HEAD_DIFFERENCE:g}",
            ),
            (
                self.candidates_unpaired,
                f"{self.candidates_unpaired} candidates have no counterpart (of {self.candidates})",
            ),
            (
                self.nms_differences,
                f"NMS stage differs in {self.nms_differences} of {self.nms_cases} cases",
            ),
            (
                self.unpaired,
                f"{self.unpaired} detections have no counterpart (of {self.detections})",
            ),
            (
                self.batch_differences,
                f"{self.batch_differences} images change with the batch around them",
            ),
            (self.misfits, f"{self.misfits} output rows break the padding or label rules"),
            (self.nonfinite, f"{self.nonfinite} values are NaN or infinite"),
        ]
        return [sentence for fails, sentence in checks if fails]

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data."""
        return asdict(self) | {"metadata": list(self.metadata)}


def format_parity(parity: Parity) -> str:
    """Return the figures as lines for people, stage by stage."""
    images = f"{parity.num_images} images"
    lines = [f"heads       logits within {parity.logits:.1e}, deltas within {parity.deltas:.1e}"]
    if parity.nms_cases:
        lines += [
            f"candidates  {parity.candidates}, {parity.candidates_unpaired} have no counterpart",
            f"NMS stage   {parity.nms_cases} cases, {parity.nms_differences} not bit-equal",
            f"end to end  {parity.detections} detections on {images}, {parity.paired} paired, "
            f"{parity.borderline} borderline, {parity.unpaired} have no counterpart",
        ]
    lines.append(f"batch       {parity.batch_differences} of {images} differ alone and in a batch")
    return "\n".join([*lines, *(f"FAILED      {failure}" for failure in parity.failures())])
