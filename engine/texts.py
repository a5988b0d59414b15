"""English prose that is always there: the reference pages that come with Python, in two parts that share no page.

One part is read to calibrate, the other is held back to measure.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

Part = Literal["calibration", "held"]


@cache
def prose(part: Part) -> str:
    """Every other page, by name, of those long enough to be prose."""
    from pydoc_data import topics  # 700 KB, needed by few runs

    pages = [topics.topics[name] for name in sorted(topics.topics) if len(topics.topics[name]) > 2000]
    return "\n\n".join(pages[0 if part == "calibration" else 1 :: 2])
