"""Words of the charts that speculation draws."""

from __future__ import annotations

from app.words.charts import ChartWords

CHARTS = {
    "spec-speed": ChartWords(
        "Speed with and without guesses",
        "Tokens per second in steps that verified guesses and in steps that did not, by the number of requests in the "
        "step; steps with prompt work are left out. Speculation pays where the first lies above the second.",
        "iteration",
        ("draft_tokens", "emitted_tokens", "start_ns", "end_ns"),
    ),
    "spec-position": ChartWords(
        "Acceptance by place",
        "Of the guesses at each place of a draft that were tested, the share that was accepted. A guess is tested "
        "when all before it were accepted.",
        "slice",
        ("drafted", "accepted"),
    ),
    "spec-lengths": ChartWords(
        "Accepted lengths",
        "How many verifications accepted how many guesses. The model's own token comes on top of each.",
        "slice",
        ("drafted", "accepted"),
    ),
    "spec-time": ChartWords(
        "Acceptance over time",
        "Tokens per request and pass of the model, guesses per request, and the share of tested guesses that was "
        "accepted.",
        "slice",
        ("drafted", "accepted", "emitted"),
    ),
    "spec-chosen": ChartWords(
        "Chosen length",
        "Guesses per request by the number of requests in the step. With smart control it falls as the batch grows: "
        "verifying stops being free.",
        "iteration",
        ("draft_tokens", "decode_requests"),
    ),
    "spec-predicted": ChartWords(
        "Predicted and measured step time",
        "What smart control expected a step to take, from a regression on this run's own steps, against what it took.",
        "iteration",
        ("start_ns", "end_ns"),
    ),
}
