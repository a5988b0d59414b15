"""An answer by where each of its tokens came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from app.components.chart_card import data_row, page_palette
from app.panels.panel import FinishedRun
from app.panels.speculation.token_colours import ORIGINS, coloured, token_origins
from app.words.plain import counted
from app.words.text import PROVENANCE
from engine.config.text import token_texts
from store import speculation


def token_origins_section(run: FinishedRun, request: Mapping[str, Any]) -> None:
    """Draw the answer once more, each token by where it came from. ``request``: its row, answer included."""
    query = speculation.origins_query(run.facts.run_id, request["request"])
    passes = query.table(run.con)
    ids = request.get("output_token_ids") or []
    st.markdown(
        "**Where each token came from**", help="From the rows of the passes that gave them. " + PROVENANCE["measured"]
    )
    if not passes.num_rows or not ids:
        st.caption("No passes of this request were recorded.")
        return
    origins = token_origins(passes.to_pylist())
    counts = ", ".join(f"{origins.count(name)} {name}" for name in ORIGINS)
    st.caption(f"{counts}; {counted(passes.num_rows, 'pass', 'passes')} of the model for {counted(len(ids), 'token')}.")
    st.html(coloured(token_texts(run.facts.spec.engine.model, ids), origins, page_palette()))
    data_row(passes, query, name="token-origins")
