"""A search for capacity on the page: its bracket, every rate tried, and the share of requests in time at each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import streamlit as st

from app.charts.objectives import attainment_by_rate
from app.components.chart_card import chart_card, page_palette
from app.experiments.missing_runs import missing_runs
from app.experiments.plan import Experiment
from app.experiments.rate_search import capacity_result, repeats_in_words
from app.lab import Lab
from app.views.missing import say_missing
from app.words.charts import ChartWords
from app.words.plain import plain
from app.words.states import DISTURBED_RATES, LABELS
from store.samples import request_figures_query
from store.slo import GOODPUT_ATTAINMENT

RATES = ChartWords(
    "Requests in time by rate",
    "Every point is a run of the same requests, arriving faster or slower. A click opens that run.",
    "request",
    ("arrival_ns", "first_token_ns", "end_ns"),
)


def capacity_view(lab: Lab, experiment: Experiment) -> None:
    """Draw the search as far as it is."""
    say_missing(lab, experiment, missing_runs(lab.home, experiment))
    result = capacity_result(lab.home, experiment)
    with st.container(horizontal=True):
        for label in result["labels"]:
            st.badge(
                plain(label), color="orange", icon=":material/label:", help=LABELS.get(label, "A label of these runs.")
            )
    for sentence in result["summary"]:
        st.markdown(f"- {plain(sentence)}")
    if any(about["disturbed"] for about in result["variants"].values()):
        st.warning(DISTURBED_RATES, icon=":material/warning:")
    st.caption(plain(f"A rate holds with {result['criterion']}. {repeats_in_words(result['repeats'])}"))
    rows = [
        {
            "variant": name,
            "requests/s": probe["requests_per_s"],
            "in time": probe["attainment"],
            "ITL p99, ms": probe["itl_ms_p99"],
            "ITL samples": probe.get("itl_samples"),
            "delay p50, ms": probe["scheduling_delay_ms"],
            "output tokens/s": probe["output_tokens_per_s"],
            "holds": "yes" if probe["held"] else "no",
            "disturbances": probe.get("disturbances"),
            "run": probe["run_id"],
        }
        for name, about in result["variants"].items()
        for probe in about["probes"]
    ]
    if not rows:
        return
    groups = [
        {
            "name": name,
            "measured": [(probe["requests_per_s"], probe["attainment"]) for probe in about["probes"]],
            "runs": [probe["run_id"] for probe in about["probes"]],
        }
        for name, about in result["variants"].items()
    ]
    figure = attainment_by_rate(groups, page_palette(), goal=GOODPUT_ATTAINMENT)
    query = request_figures_query(rows[0]["run"])
    told = " ".join(result["summary"])
    chart_card(RATES, figure, pa.Table.from_pylist(rows), query, name="rates", summary=told, opens=_run_of)
    st.dataframe(
        [row | {"run": f"/?run={row['run']}"} for row in rows],
        hide_index=True,
        alt="Every rate tried and what it showed",
        column_config={
            "run": st.column_config.LinkColumn("run", display_text=r"run=(.*)"),
            "in time": st.column_config.NumberColumn(format="percent"),
            "requests/s": st.column_config.NumberColumn(format="%.3f"),
            "ITL samples": st.column_config.NumberColumn(format="localized"),
        },
    )
    for words in result["notes"]:
        st.caption(plain(words))


def _run_of(point: Mapping[str, Any]) -> dict[str, str] | None:
    run = point.get("customdata")
    run = run[0] if isinstance(run, list) and run else run
    return {"run": str(run)} if run else None
