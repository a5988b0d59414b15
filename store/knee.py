"""Where a curve turns: the point after which more of one thing costs far more of the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FEWEST_POINTS = 4
LEAST_BEND = 0.2  # of the square that the curve fills: a curve that bends less has no knee


def knee(x: Sequence[float], y: Sequence[float]) -> int | None:
    """The place in ``x`` and ``y`` of the point farthest from the line between the ends, both axes scaled to one (Kneedle, Satopää
    2011); None of a curve that hardly bends, or of fewer than four points with a value.
    """
    across, up = np.asarray(x, np.float64), np.asarray(y, np.float64)
    known = np.flatnonzero(np.isfinite(across) & np.isfinite(up))
    known = known[np.argsort(across[known], kind="stable")]
    if len(known) < FEWEST_POINTS or np.ptp(across[known]) == 0 or np.ptp(up[known]) == 0:
        return None
    right = (across[known] - across[known].min()) / np.ptp(across[known])
    high = (up[known] - up[known].min()) / np.ptp(up[known])
    chord = high[0] + (high[-1] - high[0]) * right
    bend = np.abs(high - chord)
    place = int(np.argmax(bend))
    return int(known[place]) if bend[place] >= LEAST_BEND else None
