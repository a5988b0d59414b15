"""What prefix sharing gave in a run that had it on: shown below the run's other charts."""

from __future__ import annotations

import duckdb
import numpy as np
import streamlit as st

from app.charts.frame import column
from app.charts.prefix import EFFECTS, prefix_effects, prefix_memory, prefix_tokens, prefix_tree
from app.views.chartcard import chart_card, page_palette
from app.views.facts import RunFacts
from app.views.plain import counted
from app.words import CHARTS
from store import prefix


def prefix_section(con: duckdb.DuckDBPyConnection, facts: RunFacts) -> None:
    """Draw the section, or nothing where prefix sharing was off."""
    if facts.spec.engine.prefix_sharing is None:
        return
    colours, run_id = page_palette(), facts.run_id
    st.subheader("Prefix sharing", anchor=False)
    effects_query = prefix.effects_query(run_id)
    effects = effects_query.table(con)
    shares = {name: float(np.nan_to_num(column(effects, name)[0])) for name in EFFECTS}
    told = "; ".join(f"{words}: {100 * shares[name]:.1f} %" for name, words in EFFECTS.items()) + "."
    figure = prefix_effects(effects, colours)
    chart_card(CHARTS["prefix-effects"], figure, effects, effects_query, name="prefix-effects", summary=told)
    savings_query = prefix.savings_query(run_id)
    savings = savings_query.table(con)
    left, right = st.columns(2)
    with left:
        words = f"{float(np.nan_to_num(column(savings, 'hit_rate')[-1])) * 100:.1f} % of the prompt tokens were found."
        figure = prefix_tokens(savings, colours)
        chart_card(
            CHARTS["prefix-tokens"], figure, savings, savings_query, name="prefix-tokens", summary=words, remark=words
        )
    with right:
        most = float(np.nanmax(column(savings, "blocks_spared"), initial=0))
        words = f"At most {most:,.0f} blocks spared."
        figure = prefix_memory(savings, colours)
        chart_card(
            CHARTS["prefix-memory"], figure, savings, savings_query, name="prefix-memory", summary=words, remark=words
        )
    _tree(con, facts, int(np.nanmax(column(savings, "iteration"))))


def _tree(con: duckdb.DuckDBPyConnection, facts: RunFacts, last: int) -> None:
    iteration = last
    if last > 0:
        iteration = st.slider("Prefix tree after iteration", 0, last, last, key=f"prefix-at-{facts.run_id}")
    query = prefix.tree_query(facts.run_id, iteration)
    nodes = query.table(con)
    states = nodes["state"].to_pylist()
    words = f"{counted(len(states), 'prefix block')}, {states.count('in use')} in use, {states.count('cached')} cached, {states.count('evicted')} evicted."
    figure = prefix_tree(nodes, page_palette(), facts.spec.engine.block_size)
    chart_card(CHARTS["prefix-tree"], figure, nodes, query, name="prefix-tree", summary=words, remark=words)
