"""A search for capacity on the page: its bracket, every rate tried, and the share of requests in time at each."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import streamlit as st

from app.components.chart_card import chart_card, page_palette
from app.components.result_table import result_table
from app.experiments.figures import capacity_rates
from app.experiments.missing_runs import missing_runs
from app.experiments.plan import Experiment
from app.experiments.rate_search import capacity_result
from app.experiments.tables import rates_table
from app.lab import Lab
from app.panels.sentences import label_in_words
from app.views.missing import say_missing
from app.words.charts import ChartWords
from app.words.plain import plain
from app.words.states import DISTURBED_RATES
from store.samples import request_figures_query

RATES = ChartWords(
    "SLO attainment by request rate",
    "Every point is a rate at which the same requests arrived. Bars are intervals of 95 %: of repeats by how they "
    "differ, of one run by its number of requests. A click opens the first run.",
    "request",
    ("arrival_ns", "first_token_ns", "end_ns"),
)


def capacity_view(lab: Lab, experiment: Experiment) -> None:
    """Draw the search as far as it is."""
    say_missing(lab, experiment, missing_runs(lab.home, experiment))
    result = capacity_result(lab.home, experiment)
    with st.container(horizontal=True):
        for label in result["labels"]:
            st.badge(plain(label), color="orange", icon=":material/label:", help=label_in_words(label))
    for sentence in result["summary"]:
        st.markdown(f"- {plain(sentence)}")
    if any(about["disturbed"] for about in result["variants"].values()):
        st.warning(DISTURBED_RATES, icon=":material/warning:")
    table = rates_table(result)
    st.caption(plain(table.note))
    if not table.rows:
        return
    figure = capacity_rates(experiment, result, page_palette())
    query = request_figures_query(table.rows[0]["run_id"])
    told, shown = " ".join(result["summary"]), pa.Table.from_pylist(table.values())
    chart_card(RATES, figure, shown, query, name="rates", summary=told, opens=_run_of)
    result_table(table)


def _run_of(point: Mapping[str, Any]) -> dict[str, str] | None:
    run = point.get("customdata")
    run = run[0] if isinstance(run, list) and run else run
    return {"run": str(run)} if run else None
