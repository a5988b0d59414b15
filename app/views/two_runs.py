"""Two runs of the same requests step by step: their figures, where their schedules part, and one request in both."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import streamlit as st

from app.charts.side_by_side import tokens_beside
from app.components.chart_card import chart_card, data_row, page_palette
from app.components.selection import number_of
from app.errors import LabError, on_page
from app.experiments.pair import in_order
from app.lab import Lab, get_lab
from app.panels.sentences import decision_in_words
from app.runs.facts import RunFacts, asked_apart, load_run
from app.views.missing import rows_to_come, wait_for_rows
from app.views.pair import draw_pair, pair_of_runs
from app.views.points import iteration_of
from app.views.unpaired import runs_unpaired
from app.words.plain import plain
from app.words.side_by_side import TOKENS, parting_in_words, waited_in_words
from app.words.waits import WAITS
from store.side_by_side import (
    SIDES,
    Parting,
    parting,
    requests_beside,
    requests_query,
    tokens_query,
    waited_apart,
)


def two_runs(lab: Lab, one: str, other: str) -> None:
    """Draw the page of two runs by their ids; says in words what keeps them from being compared."""
    try:
        before, after = in_order(load_run(lab.home, one), load_run(lab.home, other))
    except LabError as error:
        st.error(plain(on_page(error)), icon=":material/search_off:")
        return
    wrong = _not_comparable(before, after)
    if wrong:
        st.error(plain(wrong), icon=":material/block:")
        return
    if asked_apart(before, after):
        st.error(
            plain(
                f"{before.run_id} and {after.run_id} were not asked the same requests, so they are not compared "
                "request by request. Take two runs of the same scenario, seed and workload for that."
            ),
            icon=":material/block:",
        )
        both = {facts.run_id: facts for facts in (before, after)}
        runs_unpaired(lab, {run_id: facts.heading for run_id, facts in both.items()}, both)
        return
    with lab.database.read() as con:
        waiting = rows_to_come(con, [before.run_id, after.run_id])
    if waiting:
        wait_for_rows(lab, waiting)
        return
    st.markdown(f"**Two runs step by step**: {plain(after.heading)}")
    with st.container(horizontal=True, vertical_alignment="center"):
        for facts in (before, after):
            to = {"run": facts.run_id}
            st.page_link("pages/live.py", label=f"Run {facts.run_id}", query_params=to, width="content")
            st.caption(plain(facts.switches), width="content")
    result = pair_of_runs(before.run_id, after.run_id)
    names = {side: result[side]["name"] for side in SIDES}
    _schedules(before.run_id, after.run_id, names)
    draw_pair(before.run_id, after.run_id)
    _requests(lab, before.run_id, after.run_id, names)


def _not_comparable(before: RunFacts, after: RunFacts) -> str:
    if before.run_id == after.run_id:
        return f"run and beside both name {before.run_id}: name two runs."
    for facts in (before, after):
        if not facts.is_final:
            return f"The run {facts.run_id} is not over yet ({facts.state}); both can be compared once it is."
    return ""


@lru_cache(maxsize=16)
def _beside(before: str, after: str) -> tuple[Parting | None, list[dict[str, Any]]]:
    """Kept by the runs it rests on: they are over and never change."""
    with get_lab().database.read() as con:
        return parting(con, before, after), requests_beside(con, before, after)


def _schedules(before: str, after: str, names: dict[str, str]) -> None:
    st.markdown("**Where the schedules part**")
    told = _beside(before, after)[0]
    st.markdown("\n".join("- " + plain(sentence) for sentence in parting_in_words(told, names, decision_in_words)))
    if told is not None and told.at is not None:
        with st.container(horizontal=True):
            for side, run_id in zip(SIDES, (before, after), strict=True):
                if told.began_ns[side] is not None:
                    st.page_link(
                        "pages/live.py",
                        label=plain(f"Iteration {told.at} of {names[side]}"),
                        icon=":material/search:",
                        query_params={"run": run_id, "iteration": str(told.at)},
                        width="content",
                    )


def _requests(lab: Lab, before: str, after: str, names: dict[str, str]) -> None:
    rows = _beside(before, after)[1]
    st.markdown("**The same request in both**")
    if not rows:
        st.caption("No request ended in either run.")
        return
    query = requests_query(before, after)
    shown = [_row(row, names) for row in rows]
    asked = number_of("request")
    behind = next((at for at, row in enumerate(rows) if row["before"] == asked), None) if asked is not None else None
    if "request" in st.query_params and behind is None:
        st.warning(plain(f"There is no request {st.query_params['request']!r} in {before}; choose one below."))
    st.caption("Choose a row to see what it waited for in one run and not in the other.")
    chosen = st.dataframe(
        shown,
        hide_index=True,
        height=320,
        key=f"beside-{before}-{after}",
        on_select="rerun",
        selection_mode="single-row",
        alt=f"{len(rows)} requests with their latencies in both runs",
    )
    with lab.database.read() as con:
        data_row(query.table(con), query, name="requests-beside")
    picked = [row for row in chosen["selection"]["rows"] if row < len(rows)]
    at = picked[0] if picked else behind
    if at is None:
        at = max(range(len(rows)), key=lambda place: _apart(rows[place]))
    elif picked and asked != rows[at]["before"]:
        st.query_params["request"] = str(rows[at]["before"])
    _one(lab, before, after, names, rows[at])


def _apart(row: dict[str, Any]) -> float:
    """By how much a request's E2E latency differs, in ms."""
    sides = [row[f"e2e_ms_{side}"] for side in SIDES]
    return 0.0 if None in sides else abs(sides[1] - sides[0])


def _row(row: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    told: dict[str, Any] = {"request": row["request_id"], "group": row["group"]}
    for title, name in (("TTFT", "ttft_ms"), ("E2E", "e2e_ms")):
        for side in SIDES:
            value = row[f"{name}_{side}"]
            told[f"{title}, ms: {names[side]}"] = None if value is None else round(value, 1)
    for side in SIDES:
        waited = row["waited"][side]
        told[f"waited, ms: {names[side]}"] = None if waited is None else round(waited["waited_ms"], 1)
    apart = waited_apart(row) if all(row["waited"].values()) else []
    told["waits differ most for"] = WAITS[apart[0][0]] if apart else ""
    return told


def _one(lab: Lab, before: str, after: str, names: dict[str, str], row: dict[str, Any]) -> None:
    st.markdown(f"**Request {plain(row['request_id'])}**")
    apart = waited_apart(row)
    st.markdown("\n".join("- " + plain(sentence) for sentence in waited_in_words(row, apart, names)))
    runs = dict(zip(SIDES, (before, after), strict=True))
    with lab.database.read() as con:
        tables = {
            names[side]: tokens_query(run_id, row[side]).table(con)
            for side, run_id in runs.items()
            if row[side] is not None
        }
    if not tables:
        return
    first = next(side for side in SIDES if row[side] is not None)
    chart_card(
        TOKENS,
        tokens_beside(tables, page_palette()),
        next(iter(tables.values())),
        tokens_query(runs[first], row[first]),
        name="tokens-beside",
        summary=f"{len(tables)} runs.",
        opens=iteration_of({names[side]: runs[side] for side in SIDES if tables.get(names[side])}),
    )
