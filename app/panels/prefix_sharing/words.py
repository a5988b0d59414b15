"""Words of the charts that prefix sharing draws."""

from __future__ import annotations

from app.words.charts import ChartWords

CHARTS = {
    "prefix-effects": ChartWords(
        "Three effects of prefix sharing",
        "What was spared, of what there would have been without sharing: prompt tokens found instead of computed; "
        "blocks of KV memory that requests held together, over time; bytes (weights and KV cache) that shared-prefix "
        "attention did not read again.",
        "iteration",
        ("prefix_hit_tokens", "prefill_tokens", "blocks_spared", "blocks_used", "kv_bytes_spared", "bytes"),
    ),
    "prefix-tokens": ChartWords(
        "Prefix-cache hits",
        "Hits: prompt tokens taken from blocks that were computed before, at a request's first admission. Computed: "
        "all other prompt tokens, also those computed again after a preemption. What a preempted request took back of "
        "its own blocks is neither.",
        "iteration",
        ("prefix_hit_tokens", "preempted_hit_tokens", "prefill_tokens"),
    ),
    "prefix-memory": ChartWords(
        "KV memory saved",
        "Blocks more that the running requests would hold if each had its own copy.",
        "iteration",
        ("blocks_spared",),
    ),
    "prefix-tree-played": ChartWords(
        "Prefix tree at this iteration",
        "All prefixes of the run, from the first token on the left; a stretch is as high as the number of requests "
        "that used it over the run. Its colours say how many of its blocks are in use, cached, evicted or not computed "
        "yet after the iteration that is shown, and follow it.",
        "block",
        ("block_hash", "ref_count", "event", "position"),
    ),
    "prefix-tree": ChartWords(
        "Prefix tree",
        "All text the pool has held, from the first token on the left: a span is as high as the number of requests "
        "that used it. In use: held by a request. Cached: held by nobody, found when it comes again. Grey: evicted.",
        "block",
        ("block_hash", "ref_count", "event", "position"),
    ),
}
