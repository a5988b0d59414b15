"""Who is told how far the steps before a run are."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, float], None]
"""Told the phase and the share of it that is done."""


def silent(phase: str, share: float) -> None:
    """Tells nobody."""
