"""Places for text beside marks, so that no label lies on another or on a mark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

CHARACTER: Final = 6.6  # mean width at 12 px of the widest common sans-serif


@dataclass
class Labels:
    """Places of text that do not overlap; boxes are left, top, right, bottom."""

    width: float
    bottom: float
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def block(self, x: float, y: float, radius: float = 6) -> None:
        """Keep text away from a mark."""
        self.taken.append((x - radius, y - radius, x + radius, y + radius))

    def place(self, x: float, y: float, label: str) -> tuple[float, float]:
        """Return left end and baseline of a label near a point, where there is room."""
        width = len(label) * CHARACTER
        ways = [(9.0, 4.0), (-9 - width, 4.0)]
        for away in range(6):
            rise = 15 * away
            ways += [(dx, dy) for dy in (-9.0 - rise, 17.0 + rise)
                     for dx in (-width / 2, 2.0, -2 - width)]  # fmt: skip
        places = [(x + dx, y + dy) for dx, dy in ways]
        free = (one for one in places if self._is_free(one, width))
        left, base = next(free, (min(max(0.0, x - width / 2), self.width - width), y - 9))
        self.taken.append((left, base - 11, left + width, base + 3))
        return left, base

    def _is_free(self, place: tuple[float, float], width: float) -> bool:
        left, top, right, bottom = place[0], place[1] - 11, place[0] + width, place[1] + 3
        if left < 0 or right > self.width or top < 0 or bottom > self.bottom:
            return False
        return not any(
            left < box[2] and box[0] < right and top < box[3] and box[1] < bottom
            for box in self.taken
        )
