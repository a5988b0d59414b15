"""What a run's work cost in energy, where its device has a counter of it."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import pyarrow as pa
import streamlit as st

from app.charts.energy import energy_of_requests
from app.components.chart_card import chart_card, page_palette
from app.components.when_seen import when_seen
from app.lab import get_lab
from app.panels.panel import FinishedRun
from app.words.energy import CHARTS, request_energy_in_words, run_energy_in_words
from app.words.plain import plain
from store.energy import request_energy_query

HEIGHT = 400  # pixels, about


def request_share(run: FinishedRun, request: int, figures: dict[str, Any]) -> None:
    """Say what one request cost. ``figures``: the run's summary."""
    if figures.get("energy_j") is None:
        return
    row = request_energy_query(run.facts.run_id, request).one(run.con)
    if row is not None and row["joules"] is not None:
        st.caption(plain(request_energy_in_words(row)))


def energy_by_request(run_id: str, figures: dict[str, Any]) -> None:
    """Draw what each request cost, once a reader comes near it. ``figures``: the run's summary."""
    if figures.get("energy_j") is not None:
        when_seen(partial(_drawn, run_id, figures), key=f"energy-{run_id}", height=HEIGHT)


def _drawn(run_id: str, figures: dict[str, Any]) -> None:
    table = _answer(run_id)
    if table.num_rows:
        chart_card(
            CHARTS["energy-of-requests"],
            partial(energy_of_requests, table, page_palette()),
            table,
            request_energy_query(run_id),
            name="energy-of-requests",
            summary=run_energy_in_words(figures),
        )


@lru_cache(maxsize=16)
def _answer(run_id: str) -> pa.Table:
    """Kept: the run is over, and of ten million slices it takes a second."""
    with get_lab().database.read() as con:
        return request_energy_query(run_id).table(con)
