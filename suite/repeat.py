"""The verb `repeat`: run a recorded run again and say whether the same came out.

The run's folder holds all that decides it: `recipe.yaml` as resolved, and in `manifest.json` what
it was run on. In the same surroundings (software, kind of device, data, commit) every bit has to be
equal on CPUs with one or two ranks; elsewhere kernels add in another order, so that what counts is
AP within the noise of equal runs.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from suite.errors import InputError, SuiteError
from suite.records import Record, load_record
from suite.report.figures import AP_NOISE
from suite.run_folder import create_run_folder
from suite.same_runs import compare_runs, find_run

# Where a manifest says what decides the bits.
_SURROUNDINGS: Final = (
    ("software", "torch"),
    ("software", "torch_npu"),
    ("software", "numpy"),
    ("software", "pillow"),
    ("software", "simplejpeg"),
    ("hardware", "device"),
    ("hardware", "device_count"),
    ("hardware", "cores"),
    ("conditions", "threads"),
    ("subject", "data_digest"),
    ("subject", "val_digest"),
    ("git", "commit"),
    ("git", "dirty"),
)


@dataclass(frozen=True, kw_only=True)
class Repeated:
    """What came out.

    Attributes:
        folder: of the new run.
        surroundings: what was different around it, as "name: then, now".
        num_compared: tensors and values.
        difference: where the two runs first differ; None: nowhere.
        ap_before, ap_now: None where a run was not judged.
        promised: whether equal surroundings promise equal bits: on CPUs with one or two ranks.
    """

    folder: Path
    surroundings: tuple[str, ...]
    num_compared: int
    difference: str | None
    ap_before: float | None
    ap_now: float | None
    promised: bool

    @property
    def matched(self) -> bool:
        """Whether it is the same run, or as near to it as other surroundings allow."""
        if self.difference is None:
            return True
        if self.promised and not self.surroundings:
            return False
        if self.ap_before is None or self.ap_now is None:
            return False
        return abs(self.ap_before - self.ap_now) <= AP_NOISE


def repeat(manifest: Path, *, output: Path) -> Repeated:
    """Train again what a manifest stands for, in a process of its own, and compare.

    Args:
        manifest: `manifest.json` of a finished run folder.
        output: where the new run folder is made.

    Raises:
        InputError: the manifest is none, or its run is not there or has not ended.
        SuiteError: the new run fails.
    """
    before = load_record(manifest)
    folder = manifest.parent
    if before["kind"] != "manifest":
        raise InputError(f"{manifest}: is a record of {before['kind']}; give a run's manifest.json")
    for name in ("recipe.yaml", "record.json", "checkpoints"):
        if not (folder / name).exists():
            raise InputError(f"{folder}: has no {name}; only a run that has ended can be repeated")
    again = _train(folder / "recipe.yaml", create_run_folder(output, f"repeat-{folder.name}"))
    num_compared, difference = compare_runs(folder, again)
    now = load_record(again / "manifest.json")
    ap_before, ap_now = (
        load_record(run / "record.json")["metrics"].get("ap") for run in (folder, again)
    )
    return Repeated(
        folder=again,
        surroundings=tuple(_list_differences(before, now)),
        num_compared=num_compared,
        difference=difference,
        ap_before=ap_before,
        ap_now=ap_now,
        promised=now["hardware"]["device_kind"] == "cpu" and now["hardware"]["device_count"] <= 2,
    )


def format_repeated(done: Repeated) -> str:
    """Render the answer, and what was different around the run."""
    lines = [f"around it: {sentence}" for sentence in done.surroundings]
    compared = f"{done.num_compared} tensors and values"
    if done.difference is None:
        return "\n".join([*lines, f"repeat: EXACT ({compared} are equal)"])
    ap = (
        f"AP {done.ap_before:.4f} and now {done.ap_now:.4f}"
        if None not in (done.ap_before, done.ap_now)
        else "AP not known"
    )
    verdict = "the same within noise" if done.matched else "DIFFERS"
    return "\n".join([*lines, f"repeat: {verdict}, {ap}; first at {done.difference}"])


def _train(recipe: Path, output: Path) -> Path:
    command = [sys.executable, "-m", "suite", "train", str(recipe), "--output", str(output)]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 - our own
    if done.returncode != 0:
        raise SuiteError(f"{recipe}: the run ended with exit code {done.returncode}, as said above")
    return find_run(output)


def _list_differences(before: Record, now: Record) -> Iterator[str]:
    for section, name in _SURROUNDINGS:
        then, today = ((record[section] or {}).get(name) for record in (before, now))
        if then != today:
            yield f"{section} {name}: {_show(then)}, now {_show(today)}"


def _show(value: Any) -> str:
    return "unknown" if value is None else str(value)[:40]
