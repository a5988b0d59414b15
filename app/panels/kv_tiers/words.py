"""Words of the charts of tiers."""

from __future__ import annotations

from app.words.charts import ChartWords

CHARTS = {
    "tier-hits": ChartWords(
        "Prefix tokens found, by tier",
        "Over stretches of the run: prompt tokens that were taken over from the KV pool, loaded from host memory, and "
        "loaded from disk. Declined tokens were found in a tier and computed again, as that was predicted to take less "
        "time.",
        "tier",
        ("tier", "action", "tokens"),
    ),
    "tier-ttft": ChartWords(
        "TTFT by tier",
        "One dot for each request, by the lowest tier that its prefix was loaded from; the line is the median. Prompts "
        "of other lengths and other waiting times lie in it too: pair runs to see what a tier gains.",
        "tier",
        ("tier", "request", "duration_ns"),
    ),
}
