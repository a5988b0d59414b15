"""Random streams: one per purpose, so that changing one part of a workload leaves every other part as it was."""

from __future__ import annotations

import hashlib
import random


def stream(seed: int, *purpose: object) -> random.Random:
    """The generator for one purpose, such as ``stream(0, "decodes", "arrivals")``; equal arguments give equal draws.

    ``random.Random`` and not numpy: its sequences for a given seed do not change between releases.
    """
    text = "\0".join(str(part) for part in (seed, *purpose))
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest(), "big"))
