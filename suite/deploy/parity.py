"""The figures of a verification, and what they mean stage by stage: the drift waterfall.

Each stage is given the same input on both sides, so the first one that differs is where the fault
lies; those after it may only suffer from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from tabulate import tabulate

from suite.graph_metadata import Precision

MAX_HEAD_DIFFERENCE = 1e-3
# Of the network's input, in its own units: a byte is about 0.0175.
MAX_INPUT_DIFFERENCE = 1e-4
# Of very large images some sums of the resize do not fit into float32, so that a byte is another.
MAX_INPUT_SHARE = 1e-4
_ONE_BYTE = 1.01 / 255 / 0.224
# Of the heads' own deviation. Measured: 0.001 of fp16; of int8 0.05 to 0.3 with all in 8 bits.
MAX_HEAD_NOISE = {"fp16": 0.02, "int8": 0.5}
MIN_OVERLAPPING = 0.95
# int8 gives up accuracy for speed; what `suite quantize` may lose by default.
MAX_AP_DIFFERENCE = {"fp32": 1e-3, "fp16": 1e-3, "int8": 5e-3}
_VERDICTS = {True: "ok", False: "FAILED", None: "not judged"}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One comparison.

    Attributes:
        name: of the stage.
        compared: what of both sides, in words.
        difference: the largest found, in the unit that `compared` says; None: there is no number,
            such as where it is infinite.
        limit: what it may be.
        passed: None: shown, but no criterion for a graph of this precision.
        detail: what was looked at, as "of 12 images"; a failure's is a sentence of its own.
    """

    name: str
    compared: str
    difference: float | None
    limit: float | None
    passed: bool | None
    detail: str


@dataclass(frozen=True, kw_only=True)
class Parity:
    """The figures of a verification; None where a graph has no such stage.

    Attributes:
        precision: of the graph; decides what its figures are held against.
        network_input: largest difference of the network's input made from the same images.
        network_input_share: of its values that differ by more than `MAX_INPUT_DIFFERENCE`.
        logits, deltas: largest absolute difference of the raw heads.
        logits_noise, deltas_noise: root mean square of that difference over the deviation of the
            checkpoint's heads; of graphs below fp32, whose heads are not equal.
        candidates, candidates_unpaired: on generated heads; those without an equal (either side).
        nms_cases, nms_differences: arrays put through both NMS stages; those with a differing bit.
        detections: found by PyTorch over all images; `paired` have an equal in the graph's answer,
            `borderline` sit on a threshold or a tie, `unpaired` are neither (of either side).
        overlapping: share of detections with one of the same class at IoU 0.9 on the other side;
            of graphs below fp32, whose detections are not equal.
        batch_differences: images whose answer depends on the batch around them.
        misfits: rows that break the output's promise: padding that is not 0, 0, -1, labels that are
            no class, scores not above the threshold or not in order.
        nonfinite: values in the graph's outputs that are NaN or infinite.
        num_images: compared end to end.
        ap_checkpoint, ap_graph: COCO AP of both on `ap_images` images.
        metadata: fields of the graph's metadata that say something else than the checkpoint.
        cause: what is most probably guilty, as a sentence; empty where that is not known.
        reading: of a graph of another tool, how its input and outputs were understood.
        subject: what was compared, for records; no figure.

    Without NMS in the graph, the counts of candidates, cases and detections are 0.
    """

    precision: Precision = "fp32"
    network_input: float | None = None
    network_input_share: float = 0
    logits: float | None = None
    deltas: float | None = None
    logits_noise: float | None = None
    deltas_noise: float | None = None
    candidates: int = 0
    candidates_unpaired: int = 0
    nms_cases: int = 0
    nms_differences: int = 0
    detections: int = 0
    paired: int = 0
    borderline: int = 0
    unpaired: int = 0
    overlapping: float | None = None
    batch_differences: int | None
    misfits: int = 0
    nonfinite: int
    num_images: int
    ap_checkpoint: float | None = None
    ap_graph: float | None = None
    ap_images: int = 0
    metadata: tuple[str, ...] = ()
    cause: str = ""
    reading: str = ""
    subject: Mapping[str, Any] = field(default_factory=dict)

    def stages(self) -> list[Stage]:
        """Return the waterfall, in the order in which an image goes through a graph."""
        return list(_list_stages(self))

    def failures(self) -> list[str]:
        """Return what does not hold, first stage first; empty when the graph is the checkpoint."""
        return [stage.detail for stage in self.stages() if stage.passed is False]

    def first_failure(self) -> Stage | None:
        """Return the first stage that differs."""
        return next((stage for stage in self.stages() if stage.passed is False), None)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as plain data; what is infinite or NaN is no number there: None."""
        plain = asdict(self) | {"metadata": list(self.metadata)}
        del plain["subject"]
        return {
            name: _finite(value) if isinstance(value, float) else value
            for name, value in plain.items()
        }


def format_parity(parity: Parity) -> str:
    """Return the waterfall as a table for people; its last line names the first failed stage."""
    rows = [
        (
            stage.name,
            stage.compared,
            _number(stage.difference),
            _number(stage.limit),
            _VERDICTS[stage.passed],
            stage.detail,
        )
        for stage in parity.stages()
    ]
    header = ("stage", "compared", "difference", "limit", "", "")
    table = tabulate(rows, header, tablefmt="plain", disable_numparse=True)
    lines = [line.rstrip() for line in table.splitlines()]
    failed = parity.first_failure()
    if failed is None:
        unjudged = [stage.name for stage in parity.stages() if stage.passed is None]
        verdict = f"not judged: {', '.join(unjudged)}; " if unjudged else ""
        return "\n".join([*lines, *_remarks(parity), f"{verdict}no stage differs"])
    cause = f"; most probably: {parity.cause}" if parity.cause else ""
    return "\n".join([*lines, f"first difference: {failed.name}{cause}"])


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _remarks(parity: Parity) -> list[str]:
    if parity.precision == "int8" and parity.ap_graph is None:
        return ["an int8 graph is judged by its AP: pass --data"]
    return []


def _list_stages(parity: Parity) -> Iterator[Stage]:
    """Yield the stages that this graph has."""
    yield _judge_metadata(parity)
    if parity.network_input is not None:
        yield _judge_input(parity, parity.network_input)
    for name, difference in (("logits", parity.logits), ("deltas", parity.deltas)):
        if difference is not None:
            yield _judge_head(parity, name, difference)
    if parity.nms_cases:
        yield _judge_count(
            "candidates",
            "decoded boxes of the same heads",
            parity.candidates_unpaired,
            f"of {parity.candidates}",
            f"{parity.candidates_unpaired} candidates have no counterpart (of {parity.candidates})",
        )
        yield _judge_count(
            "NMS",
            "what is kept of the same candidates, in bits",
            parity.nms_differences,
            f"of {parity.nms_cases} cases",
            f"NMS stage differs in {parity.nms_differences} of {parity.nms_cases} cases",
        )
    if parity.nms_cases or parity.logits is None:
        yield _judge_end_to_end(parity)
    if parity.batch_differences is not None:
        yield _judge_count(
            "batch",
            "an image alone and among others",
            parity.batch_differences,
            f"of {parity.num_images}",
            f"{parity.batch_differences} images change with the batch around them",
        )
    yield _judge_rows(parity)
    if parity.ap_graph is not None and parity.ap_checkpoint is not None:
        yield _judge_ap(parity, parity.ap_checkpoint - parity.ap_graph)


def _judge_metadata(parity: Parity) -> Stage:
    fields = ", ".join(parity.metadata)
    return Stage(
        name="description",
        compared="what the graph says of itself",
        difference=len(parity.metadata),
        limit=0,
        passed=not parity.metadata,
        detail=f"metadata says otherwise: {fields}" if fields else parity.reading,
    )


def _judge_input(parity: Parity, difference: float) -> Stage:
    share = parity.network_input_share
    few = share <= MAX_INPUT_SHARE and difference <= _ONE_BYTE
    return Stage(
        name="input",
        compared="input tensor of the same images",
        difference=_finite(difference),
        limit=MAX_INPUT_DIFFERENCE,
        passed=difference <= MAX_INPUT_DIFFERENCE or few,
        detail=f"input tensor differs by {difference:.3g} ({share:.2%} of its values differ)"
        if share
        else "",
    )


def _judge_head(parity: Parity, name: str, difference: float) -> Stage:
    if parity.precision != "fp32":
        return _judge_noise(parity, name, getattr(parity, f"{name}_noise"))
    passed = difference <= MAX_HEAD_DIFFERENCE
    failure = f"heads differ by {difference:.3g} in {name}, allowed {MAX_HEAD_DIFFERENCE:g}"
    return Stage(
        name=name,
        compared=f"raw {name} of the same input",
        difference=_finite(difference),
        limit=MAX_HEAD_DIFFERENCE,
        passed=passed,
        detail="" if passed else failure,
    )


def _judge_noise(parity: Parity, name: str, noise: float) -> Stage:
    limit = MAX_HEAD_NOISE[parity.precision]
    passed = noise <= limit
    return Stage(
        name=name,
        compared=f"error of raw {name}, of their deviation",
        difference=_finite(noise),
        limit=limit,
        passed=passed,
        detail=f"{parity.precision} rounds here"
        if passed
        else f"heads are off by {noise:.0%} of the deviation of {name}, allowed {limit:.0%}: more "
        f"than {parity.precision} rounds",
    )


def _judge_end_to_end(parity: Parity) -> Stage:
    name, images = "end to end", f"{parity.num_images} images"
    if parity.overlapping is None:
        return _judge_count(
            name,
            f"detections on {images}",
            parity.unpaired,
            f"of {parity.detections}; {parity.borderline} sit on a threshold",
            f"{parity.unpaired} detections have no counterpart (of {parity.detections}; "
            f"{parity.borderline} sit on a threshold)",
        )
    enough = parity.overlapping >= MIN_OVERLAPPING
    return Stage(
        name=name,
        compared=f"detections on {images} without one at IoU 0.9",
        difference=1 - parity.overlapping,
        limit=1 - MIN_OVERLAPPING if parity.precision == "fp16" else None,
        passed=enough if parity.precision == "fp16" else None,
        detail=f"{parity.overlapping:.1%} of {parity.detections} detections have a counterpart at "
        "IoU 0.9" + ("" if enough or parity.precision == "int8" else "; 95 % are needed"),
    )


def _judge_rows(parity: Parity) -> Stage:
    problems = []
    if parity.misfits:
        problems.append(f"{parity.misfits} output rows break the padding or label rules")
    if parity.nonfinite:
        problems.append(f"{parity.nonfinite} values are NaN or infinite")
    return _judge_count(
        "rows",
        "what the outputs promise",
        parity.misfits + parity.nonfinite,
        "",
        "; ".join(problems),
    )


def _judge_ap(parity: Parity, drop: float) -> Stage:
    limit = MAX_AP_DIFFERENCE[parity.precision]
    difference = drop if parity.precision == "int8" else abs(drop)
    return Stage(
        name="AP",
        compared=f"COCO AP on {parity.ap_images} images",
        difference=difference,
        limit=limit,
        passed=difference <= limit,
        detail=f"AP of the checkpoint {parity.ap_checkpoint:.4f}, of the graph "
        f"{parity.ap_graph:.4f}",
    )


def _judge_count(name: str, compared: str, count: int, total: str, failure: str) -> Stage:
    return Stage(
        name=name,
        compared=compared,
        difference=count,
        limit=0,
        passed=count == 0,
        detail=failure if count else total,
    )
