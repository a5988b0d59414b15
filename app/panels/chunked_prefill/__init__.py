"""Chunked prefill: what the scheduler decides because of it. Its effect is in the charts of every run."""

from __future__ import annotations

from app.panels.panel import Panel, Words


class ChunkedPrefill(Panel):
    """See ``Panel``."""

    setting = "chunked_prefill"
    words = Words(
        actions={"chunked": "the prompt of {request} was cut: {tokens} tokens now, the rest later"},
        reasons={"budget": "the token budget was spent"},
    )
