"""How many cases a property is tried with."""

from __future__ import annotations

import os

SOAKING = "SERVESCOPE_SOAK_ROUNDS" in os.environ


def examples(count: int) -> int:
    """All of them in ``make soak``; a third in ``make test``, which draws others each time."""
    return count if SOAKING else max(10, count // 3)
