"""Words of the charts of the KV pool's layout."""

from __future__ import annotations

from app.words.charts import ChartWords

CHARTS = {
    "layout-parts": ChartWords(
        "What the KV pool's memory is used for",
        "Used: keys and values of computed tokens. Internal fragmentation: the unused rest of each request's last "
        "block or pages. Reserved: more that requests hold, for tokens that are not computed yet or never will be. "
        "Kept: held by nobody, such as pages that stay mapped. Free: the rest. The line is what the operating system "
        "really has behind the pool, where memory is mapped on demand.",
        "layout",
        ("used_bytes", "internal_bytes", "reserved_bytes", "kept_bytes", "free_bytes", "resident_bytes"),
    ),
    "layout-pages": ChartWords(
        "Memory mapped and given back",
        "Over stretches of the run: bytes that pages were mapped for, and bytes that were given back to the operating "
        "system. With deferred reclaim a request takes over the pages of one that ended, and both are fewer.",
        "layout",
        ("mapped_bytes", "released_bytes"),
    ),
}
