"""What was found: one `Finding` a thing, the rules they fall under, and a table of them.

A finding is an ``error`` (training or evaluation would stop or mean nothing), a ``warning`` (they
would run on something other than a person expects) or a ``note``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

from suite.data.formats.annotated import Problem, Report

Severity = Literal["error", "warning", "note"]

MAX_PER_RULE: Final = 10_000  # findings kept of one rule in one split; the others are counted
_SEVERITIES: Final = ("error", "warning", "note")
_MAX_SHOWN: Final = 5
_NUM_EXAMPLES: Final = 3
_STOPS: Final = "training and evaluation stop"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a person should know about a data set.

    Attributes:
        severity: error, warning or note.
        rule: its short name, the same for all findings of a kind.
        split: the one it is in; empty where it is about both.
        file: the file it is about; empty where it is about a whole split.
        item: the image, annotation or class in question, by the data set's own id.
        value: what was found.
        consequence: what training and evaluation will do with it.
    """

    severity: Severity
    rule: str
    split: str
    file: str
    item: str
    value: str
    consequence: str


class Detail(NamedTuple):
    """What one finding says beside its rule: file, item, value."""

    file: str
    item: str
    value: str


class Findings:
    """Collects findings, at most `limit` of each rule in each split, and counts all of them.

    Attributes:
        kept: in the order in which they were found.
        counts: of all, by split, severity and rule.
        problems: split -> rule -> how many of them its reader reported.
    """

    def __init__(self, limit: int = MAX_PER_RULE) -> None:
        self.limit = limit
        self.kept: list[Finding] = []
        self.counts: Counter[tuple[str, Severity, str]] = Counter()
        self.problems: dict[str, Counter[str]] = {}

    @property
    def num_errors(self) -> int:
        """How many errors were found."""
        return sum(n for (_, severity, _), n in self.counts.items() if severity == "error")

    def add(
        self,
        severity: Severity,
        rule: str,
        detail: Detail,
        *,
        split: str,
        consequence: str,
    ) -> None:
        """Add one finding."""
        self.add_all(severity, rule, [detail], total=1, split=split, consequence=consequence)

    def add_all(
        self,
        severity: Severity,
        rule: str,
        details: Iterable[Detail],
        *,
        total: int,
        split: str,
        consequence: str,
    ) -> None:
        """Add `total` findings of one kind; only as many of `details` are made as are kept."""
        if not total:
            return
        key = (split, severity, rule)
        room = max(0, self.limit - self.counts[key])
        self.counts[key] += total
        self.kept += [
            Finding(severity, rule, split, *detail, consequence) for detail in islice(details, room)
        ]

    def report_to(self, split: str) -> Report:
        """Return the `Report` that a reader of a split calls: each of its problems is an error."""

        problems = self.problems.setdefault(split, Counter())

        def report(problem: Problem) -> None:
            problems[problem.rule] += 1
            self.add(
                "error",
                problem.rule,
                Detail(problem.file, problem.item, problem.value),
                split=split,
                consequence=f"{_STOPS} here; {problem.remedy}",
            )

        return report

    def summary(self) -> list[dict[str, Any]]:
        """Return a row for each rule in each split: how many, and how many of them were kept."""
        kept = Counter((item.split, item.severity, item.rule) for item in self.kept)
        return [
            {
                "split": key[0],
                "severity": key[1],
                "rule": key[2],
                "count": count,
                "left_out": count - kept[key],
            }
            for key, count in sorted(self.counts.items(), key=_rank)
        ]


def format_findings(findings: Findings) -> str:
    """Return what was found as text, errors first; of what is found often, a few examples."""
    if not findings.kept:
        return "no findings"
    groups: dict[tuple[str, Severity, str], list[Finding]] = {key: [] for key in findings.counts}
    for finding in findings.kept:
        groups[finding.split, finding.severity, finding.rule].append(finding)
    lines: list[str] = []
    for key, total in sorted(findings.counts.items(), key=_rank):
        lines += map(make_printable, _describe_group(key, groups[key], total))
    return "\n".join(lines)


def _rank(entry: tuple[tuple[str, Severity, str], int]) -> tuple[int, str, str]:
    split, severity, rule = entry[0]
    return _SEVERITIES.index(severity), rule, split


def _describe_group(
    key: tuple[str, Severity, str], group: list[Finding], total: int
) -> Iterator[str]:
    split, severity, rule = key
    times = f", {total:,} times" if total > 1 else ""
    yield f"{severity}: {rule}{f' in {split}' if split else ''}{times}"
    shown = group if total <= _MAX_SHOWN else group[:_NUM_EXAMPLES]
    for finding in shown:
        yield "    " + ": ".join(
            part for part in (finding.file, finding.item, finding.value) if part
        )
    if len(shown) < total:
        listed = "" if total == len(group) else f" (the first {len(group):,} of all)"
        yield f"    and {total - len(shown):,} more, which --json lists{listed}"
    for consequence in dict.fromkeys(finding.consequence for finding in shown):
        yield f"    -> {consequence}"


def make_printable(text: str) -> str:
    """Return text as a terminal may show it: names come from annotation files."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
