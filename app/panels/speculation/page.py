"""What speculative decoding did in a run that had it on: shown below the run's other charts, and where it loses, said
so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import streamlit as st

from app.charts.frame import column
from app.components.chart_card import chart_card, page_palette
from app.panels.panel import FinishedRun
from app.panels.speculation import charts
from app.panels.speculation.words import CHARTS
from app.words.plain import counted, milliseconds
from store import speculation

ENOUGH_STEPS = 5  # of each kind, before steps are compared
LOSES, WINS = 0.97, 1.03


def speculation_section(run: FinishedRun) -> None:
    """Draw the section of a run that had speculation on."""
    con, run_id, colours = run.con, run.facts.run_id, page_palette()
    st.subheader("Speculative decoding", anchor=False)
    totals = speculation.totals_query(run_id).one(con) or {}
    st.caption(totals_in_words(totals))
    batches_query = speculation.by_batch_query(run_id)
    batches = batches_query.table(con)
    verdict = verdict_in_words(batches.to_pylist())
    figure = charts.speed_by_batch(batches, colours)
    chart_card(CHARTS["spec-speed"], figure, batches, batches_query, name="spec-speed", summary=verdict, remark=verdict)
    left, right = st.columns(2)
    with left:
        query = speculation.acceptance_query(run_id)
        table = query.table(con)
        first = column(table, "acceptance")
        words = f"{100 * float(first[0]):.0f} % of first draft tokens were accepted." if first.size else charts.NOTHING
        chart_card(
            CHARTS["spec-position"],
            charts.acceptance_by_position(table, colours),
            table,
            query,
            name="spec-position",
            summary=words,
        )
        query = speculation.over_time_query(run_id)
        table = query.table(con)
        per_pass = totals.get("tokens_per_pass")
        words = f"{per_pass:.2f} tokens per request and pass over the run." if per_pass else charts.NOTHING
        chart_card(
            CHARTS["spec-time"],
            charts.acceptance_over_time(table, colours),
            table,
            query,
            name="spec-time",
            summary=words,
            until=run.until_s,
        )
    with right:
        query = speculation.lengths_query(run_id)
        table = query.table(con)
        words = f"{counted(int(np.nansum(column(table, 'verifications'))), 'verification')}."
        chart_card(
            CHARTS["spec-lengths"],
            charts.accepted_lengths(table, colours),
            table,
            query,
            name="spec-lengths",
            summary=words,
        )
        words = "Guesses per request, by requests in the step."
        figure = charts.chosen_lengths(batches, colours)
        chart_card(CHARTS["spec-chosen"], figure, batches, batches_query, name="spec-chosen", summary=words)
    asked = run.facts.spec.engine.speculation
    if asked is not None and asked.control == "smart":
        query = speculation.predictions_query(run_id)
        table = query.table(con)
        words = prediction_in_words(column(table, "predicted_ms"), column(table, "measured_ms"))
        figure = charts.predicted_times(table, colours)
        chart_card(CHARTS["spec-predicted"], figure, table, query, name="spec-predicted", summary=words, remark=words)


def totals_in_words(totals: Mapping[str, Any]) -> str:
    """What was guessed, what of it was accepted, and what guessing cost."""
    if not totals.get("verifications"):
        return (
            "Nothing was guessed in this run: nothing to guess was found, or no guess promised more than plain "
            "decoding."
        )
    return (
        f"{totals['drafted']:,} draft tokens, {totals['accepted']:,} accepted: {totals['mean_accepted']:.2f} per "
        f"verification, "
        f"{totals['tokens_per_pass']:.2f} tokens per request and pass of the model. Guessing took "
        f"{100 * totals['draft_share']:.1f} % of the time, {milliseconds(totals['draft_ms'])} in each step that "
        f"guessed."
    )


def verdict_in_words(batches: Sequence[Mapping[str, Any]]) -> str:
    """Where verifying steps were faster than plain ones of the same size and where they were slower, and why."""
    plain = {row["batch"]: row for row in batches if not row["verifies"] and row["steps"] >= ENOUGH_STEPS}
    said = []
    for row in batches:
        other = plain.get(row["batch"])
        if not row["verifies"] or row["steps"] < ENOUGH_STEPS or other is None:
            continue
        ratio, longer = row["tokens_per_s"] / other["tokens_per_s"], row["step_ms"] / other["step_ms"]
        at = f"With {counted(row['batch'], 'request')}"
        gave = (
            f"a verifying step took {longer:.2f} times as long as a plain one and gave "
            f"{row['tokens_per_pass']:.2f} tokens per request"
        )
        if ratio < LOSES:
            why = (
                "too few guesses were right"
                if row["tokens_per_pass"] < 1.5
                else "the added rows are no longer free: above the balance point arithmetic, not the reading of "
                "weights, takes the time"
            )
            said.append(f"{at} speculation loses, {ratio:.2f} times the speed: {gave}; {why}.")
        elif ratio > WINS:
            said.append(f"{at} it wins, {ratio:.2f} times the speed: {gave}.")
        else:
            said.append(f"{at} it makes no difference: {gave}.")
    if said:
        return " ".join(said[:4])
    return "Too few plain steps of the same size to compare with; compare this run with one without speculation."


def prediction_in_words(predicted: np.ndarray, measured: np.ndarray) -> str:
    """How far predictions were off."""
    known = np.isfinite(predicted) & np.isfinite(measured) & (measured > 0)
    if not known.any():
        return "No step time was predicted."
    off = float(np.median(np.abs(predicted[known] / measured[known] - 1)))
    return f"Half of {counted(int(known.sum()), 'prediction')} were within {100 * off:.0f} % of what the step took."
