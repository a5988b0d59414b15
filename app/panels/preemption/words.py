"""Words of the charts that preemption draws."""

from __future__ import annotations

from app.words.charts import ChartWords

CHARTS = {
    "swap-waits": ChartWords(
        "Time computed, and time held up by copies",
        "Time in steps, added up over stretches of the run: what the engine computed, and what it stood still for "
        "because blocks were still being copied. Asynchronous copies move the second into the first.",
        "swap",
        ("waited_ns",),
    ),
    "swap-copies": ChartWords(
        "Copies per swap",
        "One dot per swap: how many copies it took. Out: a request was preempted. In: it came back. Ahead: whole "
        "blocks of a request that still ran, before it had to go. Neighbouring blocks that are copied together "
        "make them fewer.",
        "swap",
        ("copies", "bytes", "blocks"),
    ),
    "swap-bandwidth": ChartWords(
        "Bandwidth of a copy",
        "One dot per swap: bytes per second it reached, over the mean size of its copies. The line is n / "
        "(t_launch + n / X), with launch and rate fitted to these swaps.",
        "swap",
        ("bytes", "copies", "start_ns", "end_ns"),
    ),
    "swap-crossover": ChartWords(
        "Swap or recompute",
        "What it takes to have a request's keys and values again, by its length. Dots: a swap out and the swap in "
        "that followed, as measured. Lines, predicted: swapping by the fitted launch and rate; computing again at "
        "the arithmetic that this run's prompt steps reached.",
        "swap",
        ("tokens", "start_ns", "end_ns"),
    ),
    "swap-spread": ChartWords(
        "Spread over sessions",
        "Mean time per output token of each session, lowest first. Jain's index is 1 where all sessions have the "
        "same, and 1/n where one of n has everything.",
        "request",
        ("first_token_ns", "end_ns", "output_tokens"),
    ),
}
