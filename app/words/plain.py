"""Texts that people or models wrote, shown as text: nothing in them becomes markup."""

from __future__ import annotations

import re
import time
from typing import Any

_MARKS = re.compile(r"([\\`*_{}\[\]()#+\-.!|<>~$:&=^\"'@/])")


def plain(text: Any) -> str:
    """The text with every character that Markdown, HTML or Streamlit's directives could read as markup taken
    literally.
    """
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def cut(text: str, letters: int = 60) -> str:
    """The beginning of a long text."""
    return text if len(text) <= letters else f"{text[:letters]} ..."


def clock(unix_ns: int | None) -> str:
    """A wall-clock time as people write it; a dash when it is not known."""
    if not unix_ns:
        return "–"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_ns / 1e9))


def milliseconds(value: float | None) -> str:
    """A duration given in ms, with three significant digits and a fitting unit."""
    if value is None:
        return "–"
    if abs(value) >= 1_000_000:
        return f"{value / 1000:,.0f} s"
    if abs(value) >= 1000:
        return f"{_three(value / 1000)} s"
    return f"{_three(value)} ms" if abs(value) >= 1 or value == 0 else f"{_three(value * 1000)} µs"


def _three(value: float) -> str:
    """Three significant digits, never in powers of ten."""
    return f"{float(f'{value:.3g}'):g}"


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 request``, ``7 requests``."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def is_number(text: str) -> bool:
    """Whether what an address says can be the number of something."""
    return text.isascii() and text.isdecimal() and len(text) < 16
