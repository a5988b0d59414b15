"""What the KV pool's memory was used for over a run: computed tokens, the unused rest of blocks and pages, what is reserved, kept, free.

Only runs that had a layout chosen for them say so.
"""

from __future__ import annotations

from collections.abc import Sequence

from store.metrics import METRICS
from store.query import Query

BUCKETS = 240
PARTS = ("used", "internal", "reserved", "kept", "free")
"""Of the pool, in the order in which they are stacked."""


def parts_query(run_id: str, buckets: int = BUCKETS) -> Query:
    """Of stretches of the run: each part's mean, what was resident, and what was mapped and given back, in MB."""
    parts = ", ".join(f"avg({part}_bytes) / 1e6 AS {part}_mb" for part in PARTS)
    return Query(
        f"""
WITH steps AS (SELECT *, ntile($buckets) OVER (ORDER BY iteration) AS bucket FROM layouts WHERE run_id = $run)
SELECT max(time_ns) / 1e9 AS t, min(iteration) AS first, max(iteration) AS last, {parts}, max(resident_bytes) / 1e6 AS resident_mb,
       sum(mapped_bytes) / 1e6 AS mapped_mb, sum(released_bytes) / 1e6 AS released_mb, sum(mapping_ns) / 1e6 AS mapping_ms
FROM steps GROUP BY bucket ORDER BY bucket""".strip(),
        {"run": run_id, "buckets": buckets},
    )


def totals_query(run_ids: Sequence[str]) -> Query:
    """A row for each run that says: shares of the memory that requests held, and of the pool, over the time in steps; bytes mapped and
    given back, the time it took, and the most that was resident."""
    held = "(used_bytes + internal_bytes + reserved_bytes)"
    pool = f"({held} + kept_bytes + free_bytes)"
    shares = ", ".join(
        f"sum(ms * {part}_bytes) / nullif(sum(ms * {whole}), 0) AS {part}_share"
        for part, whole in (("used", held), ("internal", held), ("reserved", held), ("kept", pool), ("free", pool))
    )
    return Query(
        f"""
WITH steps AS (
  SELECT layouts.*, {METRICS["iteration_ms"].expression} AS ms FROM layouts JOIN iterations USING (run_id, iteration)
  WHERE run_id IN (SELECT unnest($runs::VARCHAR[]))
)
SELECT run_id, {shares}, max({pool}) / 1e6 AS pool_mb, max({held}) / 1e6 AS held_mb, max(used_bytes) / 1e6 AS used_mb,
       max(resident_bytes) / 1e6 AS resident_mb, sum(mapped_bytes) / 1e6 AS mapped_mb, sum(released_bytes) / 1e6 AS released_mb,
       sum(mapping_ns) / 1e6 AS mapping_ms
FROM steps GROUP BY run_id ORDER BY list_position($runs::VARCHAR[], run_id)""".strip(),
        {"runs": list(run_ids)},
    )
