"""Titles and explanations of the pictures that are drawn on a canvas."""

from __future__ import annotations

from app.words.charts import ChartWords

PICTURES = {
    "iteration": ChartWords(
        "One iteration",
        "A bar for each request of the batch: what it had in the KV cache, and the tokens that were computed for it. "
        "Beside it the five steps of the iteration, the least time that was predicted, and its place on the roofline.",
        "slice",
        ("kind", "tokens", "context_len", "drafted", "accepted"),
    ),
    "kv-map": ChartWords(
        "KV map",
        "Every block of the KV pool is a cell, rebuilt from the recorded changes of blocks. Move over a cell to see "
        "whose it is, click it to keep it in sight.",
        "block",
        ("block", "event", "request"),
    ),
    "lifelines": ChartWords(
        "Requests over time",
        "From arrival to end: waiting, prefill, decode, thrown out of the KV pool (to be computed again, or swapped "
        "out to host memory). A mark at the end: the request "
        "missed the objective. Framed is the selected request, and a line from top to bottom is the selected "
        "iteration.",
        "request",
        ("arrival_ns", "first_scheduled_ns", "first_token_ns", "end_ns"),
    ),
    "waterfall": ChartWords(
        "One request over time",
        "What it waited for, every step that computed for it, and the time before each of its tokens.",
        "slice",
        ("itl_ns",),
    ),
}
