"""What a run's KV pool held: its capacity in tokens, and in requests of the run's own workload."""

from __future__ import annotations

import json
from dataclasses import dataclass

import duckdb

from store import queries


@dataclass(frozen=True)
class Capacity:
    """Of one run's KV pool."""

    tokens: int
    mean_request_tokens: float  # prompt and output, over the requests that ended
    full_precision_tokens: int  # that the same bytes would hold unpacked

    @property
    def requests(self) -> float:
        """Requests of the mean size that fit at once."""
        return self.tokens / self.mean_request_tokens if self.mean_request_tokens else 0.0


def capacity(con: duckdb.DuckDBPyConnection, run_id: str) -> Capacity | None:
    """None where the run never got so far as to say what model it had."""
    row = queries.run(con, run_id)
    model = (row or {}).get("model") or {}
    if isinstance(model, str):
        model = json.loads(model)
    if not model.get("kv_capacity_tokens"):
        return None
    asked = "SELECT avg(prompt_tokens + output_tokens) FROM requests WHERE run_id = $run"
    found = con.execute(asked, {"run": run_id}).fetchone()
    ratio = model["kv_bytes_per_token"] / model.get("kv_full_bytes_per_token", model["kv_bytes_per_token"])
    tokens = int(model["kv_capacity_tokens"])
    return Capacity(tokens, float((found and found[0]) or 0.0), round(tokens * ratio))
