"""What `npu-smi` says of the chips of this machine.

Its boxed table changes between releases; the mapping (`info -m`) and the health of one card
(`info -t health -i N`) are plainer and are read by their headings.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_TITLES = re.compile(r"NPU ID|Chip ID|Chip Logic ID|Chip Phy-ID|Chip Name")
_HEALTH = re.compile(r"^\s*Health(?: Status)?\s*:\s*(\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Chip:
    """One device.

    Attributes:
        card: what npu-smi calls NPU ID; a card of two chips has one.
        index: what torch and ASCEND_RT_VISIBLE_DEVICES count, npu-smi's Chip Logic ID.
    """

    card: int
    index: int
    name: str


def parse_mapping(text: str) -> list[Chip]:
    """Read `npu-smi info -m`; what is not a device (each card's controller) is left out.

    Lines that do not fit are skipped: none may fit.
    """
    chips = []
    titles: list[str] = []
    for line in text.splitlines():
        found = _TITLES.findall(line)
        if {"NPU ID", "Chip Logic ID", "Chip Name"} <= set(found):
            titles = found
            continue
        # The name is the last column and the only one with blanks inside.
        values = dict(zip(titles, line.split(maxsplit=max(len(titles) - 1, 0)), strict=False))
        card, index = values.get("NPU ID", ""), values.get("Chip Logic ID", "")
        if card.isdigit() and index.isdigit() and "Chip Name" in values:
            chips.append(Chip(int(card), int(index), values["Chip Name"].strip()))
    return chips


def parse_health(text: str) -> str:
    """Read `npu-smi info -t health`: the worst of a card's chips, "unknown" if it does not say."""
    found = _HEALTH.findall(text)
    return next((health for health in found if health != "OK"), "OK") if found else "unknown"
