"""When a run was disturbed, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NAMES = {"throttled": "The device throttled itself", "others": "Other processes took the machine"}
MOST = 5  # stretches that are told


def disturbed_in_words(stretches: Sequence[Mapping[str, Any]]) -> str:
    """``stretches``: of ``store.machine.disturbed_stretches``; empty of none."""
    said = []
    for kind, name in NAMES.items():
        own = [one for one in stretches if one["kind"] == kind]
        if own:
            times = ", ".join(f"{one['from_s']:.1f} to {one['to_s']:.1f} s" for one in own[:MOST])
            more = f" and {len(own) - MOST} more" if len(own) > MOST else ""
            said.append(f"{name}: {times}{more}.")
    return " ".join(said)
