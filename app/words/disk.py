"""Disk that runs take, in words."""

from __future__ import annotations


def size(count: float) -> str:
    """Bytes in three digits with a fitting unit, in powers of 1,000 as disks are sold."""
    for unit, power in (("TB", 12), ("GB", 9), ("MB", 6), ("kB", 3)):
        if count >= 10**power:
            return f"{float(f'{count / 10**power:.3g}'):g} {unit}"
    return f"{count:.0f} bytes"
