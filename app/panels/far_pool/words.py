"""Words of the charts of a far pool."""

from __future__ import annotations

from app.words.charts import ChartWords

CHARTS = {
    "far-pools": ChartWords(
        "Blocks in both pools",
        "KV blocks that requests held in the KV pool and in the far pool. The far pool is used once the KV pool is "
        "full.",
        "far",
        ("near_blocks", "far_blocks"),
    ),
    "far-requests": ChartWords(
        "Where the KV cache of each request lies",
        "A row for each of the requests that borrowed most: the share of its keys and values that lay in the far pool "
        "over time. Empty: it had no place in the engine.",
        "lending",
        ("request", "blocks", "far_blocks"),
    ),
    "far-steps": ChartWords(
        "Step time over the far share",
        "A point for each step without prompt tokens: how long it took, over the share of its keys that lay in the far "
        "pool. Attention there and the wait for the emulated link are part of the time.",
        "far",
        ("keys", "near_keys", "compute_ns", "link_ns"),
    ),
}
