"""Words of the charts of disaggregation."""

from __future__ import annotations

from app.words.charts import ChartWords

PARTS = {
    "prefill_queue": "prefill queue",
    "prefill": "prefill",
    "decode_queue": "decode queue",
    "transfer": "transfer",
    "decode": "decode",
}
"""Of ``store.handovers.PARTS``: as people read them."""

CHARTS = {
    "placement-lifetimes": ChartWords(
        "Lifetimes",
        "Prefill queue: from arrival to the first step that computed for the request. Prefill: from then to its first "
        "token. Decode queue: from there until the decode half had a place for it, and from the arrival of its blocks "
        "to the next step. Transfer: its keys and values on their way. Decode: until its end. Where there are many "
        "requests, a bar is the mean of neighbours.",
        "handover",
        ("prefilled_ns", "asked_ns", "end_ns", "joined_ns"),
    ),
    "placement-transfers": ChartWords(
        "Transfers",
        "A dot for each request: the bytes that were copied, and the time from asking for them to having them, "
        "checksums included. Transfers are made one after another, so one may wait for those before it. A straight "
        "line is bandwidth.",
        "handover",
        ("asked_ns", "end_ns", "bytes"),
    ),
    "placement-share": ChartWords(
        "Share of the CPU",
        "Over stretches of the run: the CPU threads that each half had for the steps that began there, each on a core "
        "of its own where both have one pool. With idle cores lent, a half has the other's while that has nothing to "
        "do; a controller moves them for longer. Without a dot no step of that half began.",
        "iteration",
        ("start_ns", "half", "half_threads"),
    ),
    "placement-busy": ChartWords(
        "Time in steps by half",
        "Over stretches of the run: the share of the time in which each half was in a step. A half that is seldom in a "
        "step has more threads than it needs; one that always is holds the other up.",
        "iteration",
        ("start_ns", "end_ns", "half"),
    ),
}
