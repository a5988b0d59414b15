"""Words of the charts of programs and pins."""

from __future__ import annotations

from app.words.charts import ChartWords

PARTS = {"running": "running", "queued": "queue", "tool": "tool"}
"""Of ``store.programs.PARTS``: as people read them."""

ACTIONS = {"pin": "pinned", "unpin": "unpinned", "decline": "not worth pinning", "evict": "given up at the turn's end"}

REASONS = {
    "back": "tool back in time",
    "ttl": "time to live over",
    "forced": "forced: the room was needed",
    "cancelled": "next turn given up",
    "end": "run over",
}

CHARTS = {
    "time-to-live-programs": ChartWords(
        "Time of programs",
        "Running: turns with a place in the engine, computing again included. Queue: turns that had arrived and had no "
        "place. Tool: from the end of a turn to the arrival of the next. Only programs that were served to their end; "
        "where there are many, a bar is the mean of neighbours.",
        "request",
        ("program", "arrival_ns", "first_scheduled_ns", "end_ns"),
    ),
    "time-to-live-completion": ChartWords(
        "Completion time of programs",
        "The share of all programs that were done within a time, from the arrival of their first turn to the end of "
        "their last. The further left the curve, the sooner programs are done.",
        "request",
        ("program", "arrival_ns", "end_ns"),
    ),
    "time-to-live-pinned": ChartWords(
        "Pinned blocks",
        "KV blocks that pins kept from being evicted, after each change. Marks say why pins ended: the tool was back, "
        "the time was over, or the room was needed.",
        "pin",
        ("pinned", "action", "reason"),
    ),
}
