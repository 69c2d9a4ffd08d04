"""Statistics of repeated timings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def summarise_ms(seconds: Sequence[float], *, prefix: str) -> dict[str, float]:
    """Return percentiles in milliseconds as `<prefix>_ms_p50`, `_p90`, `_p99`."""
    milliseconds = np.asarray(seconds) * 1000
    return {f"{prefix}_ms_p{q}": float(np.percentile(milliseconds, q)) for q in (50, 90, 99)}
