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
    "tier-stack": ChartWords(
        "Parts of TTFT, by tier",
        "Means over requests, by the lowest tier that a prefix was loaded from. Waiting is until the first step that "
        "computed for the request began; keeping others is time spent on blocks that were evicted meanwhile; decoding "
        "is the tier codec's part of loading; computing is the rest.",
        "tier",
        ("tier", "action", "duration_ns", "codec_ns"),
    ),
    "tier-waits": ChartWords(
        "Time of copies",
        "Time that copies between the KV pool and its tiers took, reading and coding included. The engine stood still "
        "for the lower part; the rest ran beside steps. With synchronous copies nothing is hidden. Requests wait for "
        "their loads in either case.",
        "tier",
        ("tier", "action", "duration_ns", "waited_ns"),
    ),
    "tier-levels": ChartWords(
        "Tier codec over time",
        "Where the tier codec follows the link: one dot for each stretch of blocks that was read at one level, or "
        "computed again. The rate is that of the block before, by which the level was chosen. A level is the finest "
        "whose time still met the bound on TTFT.",
        "tier",
        ("tier", "level", "link_bytes_per_s", "left_s"),
    ),
    "tier-loss": ChartWords(
        "Error of the tier codec, by layer",
        "Of all blocks that went to disk: how far keys and values lie from what was computed, as the root of the "
        "summed squares over that of the numbers themselves. Bins are wider in deeper layers.",
        "tier",
        ("tier", "bytes", "stored_bytes"),
    ),
}
