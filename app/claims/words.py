"""A verdict in words: the same on the command line, the page and in the report."""

from __future__ import annotations

import time
from collections.abc import Iterator

from app.claims.judge import VERDICTS, Judgement


def heading(judgement: Judgement) -> str:
    """``reproduced, quick run of 2026-11-27 04:50 UTC``."""
    return f"{judgement.verdict}, {'quick' if judgement.quick else 'whole'} run of {ended(judgement)}"


def ended(judgement: Judgement) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(judgement.ended_unix_ns / 1e9))


def sentences(judgement: Judgement) -> Iterator[str]:
    """What the verdict means, what it rests on, and what stands beside it: the paper's figure and what differs."""
    evidence = judgement.evidence
    yield VERDICTS[judgement.verdict]
    yield from evidence["reasons"]
    if "paper" in evidence:
        yield f"The paper: {evidence['paper']['figure']} ({evidence['paper']['setup']})."
        yield from (f"Differs: {line}" for line in evidence["differs"])
    yield from evidence.get("notes", ())
