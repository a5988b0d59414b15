"""Words of the charts that speculation draws."""

from __future__ import annotations

from app.words.charts import ChartWords

CHARTS = {
    "spec-speed": ChartWords(
        "Throughput with and without draft tokens",
        "Tokens per second in steps that verified draft tokens (guesses) and in steps that did not, by the number of "
        "requests in the step; steps with prompt work are left out. Speculation pays where the first lies above the "
        "second.",
        "iteration",
        ("draft_tokens", "emitted_tokens", "start_ns", "end_ns"),
    ),
    "spec-position": ChartWords(
        "Acceptance rate by position",
        "Of the draft tokens at each position that were tested, the share that was accepted. A draft token is tested "
        "when all before it were accepted.",
        "slice",
        ("drafted", "accepted"),
    ),
    "spec-lengths": ChartWords(
        "Accepted draft tokens",
        "How many verifications accepted how many draft tokens. The model's own token comes on top of each.",
        "slice",
        ("drafted", "accepted"),
    ),
    "spec-time": ChartWords(
        "Acceptance rate over time",
        "Tokens per request and pass of the model, draft tokens per request, and the share of tested draft tokens that "
        "was accepted.",
        "slice",
        ("drafted", "accepted", "emitted"),
    ),
    "spec-chosen": ChartWords(
        "Draft length",
        "Draft tokens per request by the number of requests in the step. With smart control it falls as the batch "
        "grows: "
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
