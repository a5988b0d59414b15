"""Gates of papers' claims: what must hold for the outputs before any figure counts. Each answers with what is wrong, or nothing."""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np

from store.claim_figures import RunFigures, matched_share
from store.metrics import COMPLETED_SQL
from store.query import Query

Pair = tuple[RunFigures, RunFigures]  # a variant's run, and the baseline's of the same repeat


def books_query(run_id: str) -> Query:
    """Of one run: steps beyond their budget, prompt tokens asked for, computed and found, preemptions, requests that did not complete."""
    return Query(
        f"""
SELECT count(*) FILTER (prefill_tokens + decode_tokens + draft_tokens > token_budget) AS beyond,
       coalesce(sum(prefill_tokens), 0)::BIGINT AS computed, coalesce(sum(preempted), 0)::BIGINT AS preempted,
       (SELECT coalesce(sum(prompt_tokens), 0)::BIGINT FROM requests WHERE run_id = $run) AS asked,
       (SELECT coalesce(sum(cached_tokens), 0)::BIGINT FROM requests WHERE run_id = $run) AS cached,
       (SELECT count(*) FROM requests WHERE run_id = $run AND NOT {COMPLETED_SQL}) AS incomplete
FROM iterations WHERE run_id = $run""".strip(),
        {"run": run_id},
    )


def served(con: duckdb.DuckDBPyConnection, run: RunFigures) -> str:
    """Every request was served to its end."""
    lost = books_query(run.run_id).rows(con)[0]["incomplete"]
    return f"{lost} requests of {run.run_id} were not served to their end" if lost else ""


def tokens_equal(pairs: Sequence[Pair]) -> str:
    """Every request's tokens are the baseline's, in float32."""
    for own, base in pairs:
        for run in (own, base):
            dtype = (run.facts.get("model") or {}).get("dtype")
            if dtype != "float32":
                return f"{run.run_id} computed in {dtype}, and equal tokens are asked for in float32"
            lossy = [label for label in run.facts.get("labels") or [] if label.startswith("lossy ")]
            if lossy:
                return f"{run.run_id} is labelled {lossy[0]}: equal tokens can't be asked of it, ask for matched ones"
        if not own.samples.output_digest or own.samples.output_digest != base.samples.output_digest:
            return f"the tokens of {own.run_id} are not those of {base.run_id}"
    return ""


def matched(con: duckdb.DuckDBPyConnection, pairs: Sequence[Pair], least: float) -> str:
    """At least this share of an answer comes before the first token that differs from the baseline's, mean over the
    requests of all runs.
    """
    share = float(np.mean([matched_share(con, own.run_id, base.run_id) for own, base in pairs]))
    if share >= least:
        return ""
    own, base = pairs[0]
    return f"{share:.1%} of an answer, such as those of {own.run_id} and {base.run_id}, are alike; {least:.0%} is asked for"


def budget_kept(con: duckdb.DuckDBPyConnection, pairs: Sequence[Pair]) -> str:
    """No step computes more tokens than its budget."""
    for own, _ in pairs:
        beyond = books_query(own.run_id).rows(con)[0]["beyond"]
        if beyond:
            return f"{beyond} steps of {own.run_id} computed more tokens than their budget"
    return ""


def prefilled_once(con: duckdb.DuckDBPyConnection, pairs: Sequence[Pair]) -> str:
    """Every prompt token is computed once or found in the cache; after a preemption, once more."""
    for own, _ in pairs:
        books = books_query(own.run_id).rows(con)[0]
        accounted = books["computed"] + books["cached"]
        if accounted < books["asked"] or (accounted > books["asked"] and not books["preempted"]):
            return f"of {books['asked']} prompt tokens, {own.run_id} computed {books['computed']} and found {books['cached']}"
    return ""
