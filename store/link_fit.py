"""What a copy takes on a link, fitted to copies that were timed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Numbers = Sequence[float] | np.ndarray
FEWEST = 3  # transfers that a line is fitted to


@dataclass(frozen=True)
class LinkFit:
    """What a copy takes on a link: ``launch_s`` to begin, and bytes at ``bytes_per_s``; infinite where larger copies
    took no longer, so that no rate can be told."""

    launch_s: float
    bytes_per_s: float

    def seconds(self, copies: float, nbytes: float) -> float:
        return copies * self.launch_s + nbytes / self.bytes_per_s

    def bandwidth(self, nbytes: float) -> float:
        """Bytes per second that copies of so many bytes reach."""
        return nbytes / (self.launch_s + nbytes / self.bytes_per_s)


def fit_link(copies: Numbers, nbytes: Numbers, seconds: Numbers) -> LinkFit | None:
    """``seconds = copies * launch + bytes / rate`` by least squares of the relative error, neither negative; None of too few swaps."""
    c, n, t = (np.asarray(x, dtype=np.float64) for x in (copies, nbytes, seconds))
    use = (t > 0) & (n > 0)
    c, n, t = c[use], n[use], t[use]
    if c.size < FEWEST:
        return None
    a = np.stack([c / t, n / t], axis=1)
    scale = a.max(axis=0)
    launch, per_byte = np.linalg.lstsq(a / scale, np.ones(c.size), rcond=None)[0] / scale
    if launch < 0 or not np.isfinite(launch):
        launch, per_byte = 0.0, float((a[:, 1].sum()) / (a[:, 1] ** 2).sum())
    if per_byte <= 0 or not np.isfinite(per_byte):
        launch, per_byte = float(a[:, 0].sum() / (a[:, 0] ** 2).sum()), 0.0
    return LinkFit(float(launch), 1 / float(per_byte) if per_byte else math.inf)
