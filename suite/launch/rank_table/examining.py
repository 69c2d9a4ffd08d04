"""Everything that is wrong with a rank table, told at once, before a device is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from suite.launch.rank_table.draft import finish_table
from suite.launch.rank_table.model import RankTable
from suite.launch.rank_table.reading import read_draft
from suite.launch.rank_table.rules import find_faults, find_warnings
from suite.launch.rank_table.section import Notes
from suite.launch.rank_table.strict_json import Fault, parse_json

MAX_SHOWN: Final = 50


@dataclass(frozen=True)
class Examined:
    """What a file says, or what is wrong with it.

    Attributes:
        table: None exactly where there are faults.
        faults: in the order of the file, then those between several values.
        warnings: what is worth knowing, one sentence each.
    """

    table: RankTable | None
    faults: tuple[Fault, ...]
    warnings: tuple[str, ...]


def examine_rank_table(content: bytes, *, source: str, num_ranks: int | None = None) -> Examined:
    """Read a rank table and find all its faults.

    Args:
        source: how messages name the content.
        num_ranks: how many ranks the job has, None where any number will do.

    Raises:
        InputError: it is damaged, no rank table, or of a version that cannot be used.
    """
    plain, oddities = parse_json(content, source=source)
    notes = Notes()
    draft = read_draft(plain, notes, source=source)
    faults = [*oddities, *notes.faults]
    if draft is not None:
        faults += find_faults(draft, num_ranks=num_ranks)
    ignored = (f"not used: {', '.join(notes.ignored)}",) if notes.ignored else ()
    if faults or draft is None:
        return Examined(None, tuple(faults), ignored)
    warnings = (*find_warnings(draft), *ignored)
    return Examined(finish_table(draft, warnings=warnings), (), warnings)


def list_faults(title: str, faults: Sequence[Fault]) -> str:
    """Return a message of one line a fault, no longer than a screen or two."""
    lines = [f"  {fault}" for fault in faults[:MAX_SHOWN]]
    if len(faults) > MAX_SHOWN:
        lines.append(f"  and {len(faults) - MAX_SHOWN:,} more")
    return "\n".join([f"{title}:", *lines])
