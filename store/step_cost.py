"""What one step of a run read, computed and took, and what one token of it cost: from the step's row, the model's facts
and the device's measured peaks.

    bytes = weights + kv_bytes_per_token * (tokens read + tokens written) - what was read in one pass for several
    per token: the step's, divided by the tokens it gave out, or by those it computed where it read prompts
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import duckdb

from store.limits import are_known
from store.query import Query

Facts = Mapping[str, Any]


@dataclass(frozen=True)
class StepCost:
    """One step. Bytes and FLOPs are the cost model's; None without the device's peaks, or without forward time."""

    iteration: int
    ms: float
    forward_ms: float
    requests: int  # that computed in it
    prompt_tokens: int
    computed: int  # tokens
    emitted: int  # tokens
    read_tokens: int  # whose keys and values attention read
    kv_token_bytes: float
    weight_bytes: float
    read_bytes: float  # keys and values, as far as they were read
    written_bytes: float
    spared_bytes: float
    flops: float
    flops_per_s: float | None  # peaks
    bytes_per_s: float | None

    @property
    def bytes(self) -> float:
        return self.weight_bytes + self.read_bytes + self.written_bytes

    @property
    def kv_bytes(self) -> float:
        return self.read_bytes + self.written_bytes

    @property
    def gives(self) -> bool:
        """Whether a token of it is one that was given out; else one that was computed."""
        return self.prompt_tokens == 0 and self.emitted > 0

    @property
    def tokens(self) -> int:
        """Those that share the step."""
        return self.emitted if self.gives else self.computed

    @property
    def intensity(self) -> float:
        """FLOP per byte."""
        return self.flops / self.bytes

    @property
    def balance(self) -> float | None:
        """FLOP per byte where arithmetic takes over from memory as the limit."""
        return None if self.flops_per_s is None or self.bytes_per_s is None else self.flops_per_s / self.bytes_per_s

    @property
    def arithmetic_ms(self) -> float | None:
        return None if self.flops_per_s is None else self.flops / self.flops_per_s * 1e3

    @property
    def memory_ms(self) -> float | None:
        return None if self.bytes_per_s is None else self.bytes / self.bytes_per_s * 1e3


def step_query(run_id: str, iteration: int) -> Query:
    return Query(
        """
SELECT iteration, (end_ns - start_ns) / 1e6 AS ms, forward_ns / 1e6 AS forward_ms,
       prefill_requests + decode_requests AS requests, prefill_tokens, prefill_tokens + decode_tokens + draft_tokens AS computed,
       emitted_tokens, context_tokens, flops, bytes, kv_bytes_spared
FROM iterations WHERE run_id = $run AND iteration = $iteration""".strip(),
        {"run": run_id, "iteration": iteration},
    )


def step_cost(con: duckdb.DuckDBPyConnection, run_id: str, iteration: int, row: Facts) -> StepCost | None:
    """What a step cost; None where it was not recorded, computed nothing, or the model's facts are not known.

    ``row``: the run's, with its ``model`` and ``peaks``.
    """
    found = step_query(run_id, iteration).one(con)
    per_token = (row.get("model") or {}).get("kv_bytes_per_token")
    if found is None or not per_token or not found["computed"] or not found["bytes"] or not found["flops"]:
        return None
    peaks = row.get("peaks")
    known = peaks if are_known(peaks) else {}
    spared = found["kv_bytes_spared"] or 0.0
    read, written = per_token * found["context_tokens"], per_token * found["computed"]
    return StepCost(
        iteration=found["iteration"],
        ms=found["ms"],
        forward_ms=found["forward_ms"],
        requests=found["requests"],
        prompt_tokens=found["prefill_tokens"],
        computed=found["computed"],
        emitted=found["emitted_tokens"],
        read_tokens=found["context_tokens"],
        kv_token_bytes=per_token,
        weight_bytes=found["bytes"] + spared - read - written,
        read_bytes=read - spared,
        written_bytes=written,
        spared_bytes=spared,
        flops=found["flops"],
        flops_per_s=known.get("flops_per_s"),
        bytes_per_s=known.get("bytes_per_s"),
    )


def usual_step(con: duckdb.DuckDBPyConnection, run_id: str) -> int | None:
    """The step to begin with: the median of those that decode for the most requests, else the longest; None of no step."""
    row = Query(
        """
WITH decodes AS (
  FROM iterations WHERE run_id = $run AND prefill_requests = 0 AND decode_requests > 0
), full_decodes AS (
  SELECT iteration, row_number() OVER (ORDER BY end_ns - start_ns, iteration) AS place, count(*) OVER () AS of
  FROM decodes WHERE decode_requests >= 0.9 * (SELECT max(decode_requests) FROM decodes)
)
SELECT coalesce(
  (SELECT iteration FROM full_decodes WHERE place = (of + 1) // 2),
  (SELECT arg_max(iteration, end_ns - start_ns) FROM iterations WHERE run_id = $run)
) AS iteration""".strip(),
        {"run": run_id},
    ).one(con)
    return None if row is None else row["iteration"]


def newest_step(con: duckdb.DuckDBPyConnection, run_id: str) -> int | None:
    """The last step recorded so far that computed anything."""
    row = Query(
        """
SELECT max(iteration) AS iteration FROM iterations
WHERE run_id = $run AND prefill_tokens + decode_tokens + draft_tokens > 0""".strip(),
        {"run": run_id},
    ).one(con)
    return None if row is None else row["iteration"]


def mean_lengths(con: duckdb.DuckDBPyConnection, run_id: str) -> tuple[float, float] | None:
    """Mean prompt and output of the run's requests that ended, tokens; None where none did."""
    row = Query(
        "SELECT avg(prompt_tokens) AS prompt, avg(output_tokens) AS output FROM requests WHERE run_id = $run",
        {"run": run_id},
    ).one(con)
    return None if row is None or row["prompt"] is None else (row["prompt"], row["output"])
