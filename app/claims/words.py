"""A verdict in words: the same on the command line, the page and in the report."""

from __future__ import annotations

import time
from collections.abc import Iterator

from app.claims.judge import VERDICTS, Judgement
from app.experiments.tables import with_interval


def heading(found: Judgement) -> str:
    """``reproduced, quick run of 2026-11-27 04:50 UTC``."""
    return f"{found.verdict}, {'quick' if found.quick else 'whole'} run of {ended(found)}"


def ended(found: Judgement) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(found.ended_unix_ns / 1e9))


def sentences(found: Judgement) -> Iterator[str]:
    """What the verdict means, what it rests on, and what stands beside it: the paper's figure and what differs."""
    evidence = found.evidence
    yield VERDICTS[found.verdict]
    yield from evidence["reasons"]
    if "paper" in evidence:
        yield f"The paper: {evidence['paper']['figure']} ({evidence['paper']['setup']})."
        yield from (f"Differs: {line}" for line in evidence["differs"])
    yield from evidence.get("notes", ())


def figure_rows(found: Judgement) -> list[tuple[str, str, str, str]]:
    """Our figures: name, what it is, where on the sweep, and its value with its interval."""
    rows = []
    for name, drawn in found.evidence.get("figures", {}).items():
        for x, value, ends in zip(drawn["x"], drawn["values"], drawn["intervals"], strict=True):
            rows.append((name, drawn["title"], "" if x is None else f"{x:g}", with_interval(value, ends) or "none"))
    return rows
