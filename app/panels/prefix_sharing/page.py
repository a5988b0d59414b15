"""What prefix sharing gave in a run that had it on: shown below the run's other charts."""

from __future__ import annotations

from functools import partial

import duckdb
import numpy as np
import streamlit as st

from app.charts.frame import column
from app.components.chart_card import chart_card, data_row, page_palette
from app.panels.panel import FinishedRun
from app.panels.prefix_sharing.charts import EFFECTS, prefix_effects, prefix_memory, prefix_tokens, prefix_tree
from app.panels.prefix_sharing.words import CHARTS
from app.panels.prompt_text import texts_of_run
from app.runs.facts import RunFacts
from app.words.plain import counted
from store import prefix


def prefix_section(run: FinishedRun) -> None:
    """Draw the section of a run that had prefix sharing on."""
    con, facts = run.con, run.facts
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
    over_time = partial(chart_card, until=run.until_s)
    with left:
        hit_rate = float(np.nan_to_num(column(savings, "hit_rate")[-1]))
        words = f"{hit_rate * 100:.1f} % of the prompt tokens were prefix-cache hits."
        again = float(np.nan_to_num(column(effects, "tokens_found_again")[0]))
        words += f" Preempted requests found {counted(int(again), 'token')} again." if again else ""
        figure = prefix_tokens(savings, colours)
        over_time(
            CHARTS["prefix-tokens"], figure, savings, savings_query, name="prefix-tokens", summary=words, remark=words
        )
    with right:
        most = float(np.nanmax(column(savings, "blocks_spared"), initial=0))
        words = f"At most {most:,.0f} blocks saved."
        figure = prefix_memory(savings, colours)
        over_time(
            CHARTS["prefix-memory"], figure, savings, savings_query, name="prefix-memory", summary=words, remark=words
        )
    _tree(run, int(np.nanmax(column(savings, "iteration"))))
    _evictions(con, facts)


def _evictions(con: duckdb.DuckDBPyConnection, facts: RunFacts) -> None:
    """Which cached blocks gave way to whom, and who computed their text again."""
    query = prefix.evictions_query(facts.run_id)
    table = query.table(con)
    if not table.num_rows:
        return
    again = table.num_rows - table["computed_again_by"].null_count
    tokens = again * facts.spec.engine.block_size
    with st.expander(
        f"Evictions and what they cost: {counted(table.num_rows, 'block')}, {tokens:,} tokens computed again"
    ):
        st.caption(
            "A cached block that gave way: the request whose text it held, the one that got its place, and the one "
            "that later computed the same text again. Where nobody did, the eviction cost nothing."
        )
        titles = {name: st.column_config.Column(name.replace("_", " ")) for name in table.column_names}
        st.dataframe(
            table,
            hide_index=True,
            height=320,
            column_config=titles,
            alt=f"{table.num_rows} evictions, {again} of them paid for later",
        )
        data_row(table, query, name="evictions")


def _tree(run: FinishedRun, last: int) -> None:
    facts = run.facts
    iteration = last
    if last > 0:
        iteration = st.slider("Prefix tree after iteration", 0, last, last, key=f"prefix-at-{facts.run_id}")
    query = prefix.tree_query(facts.run_id, iteration)
    nodes = query.table(run.con)
    states = nodes["state"].to_pylist()
    words = (
        f"{counted(len(states), 'prefix block')}, {states.count('in use')} in use, {states.count('cached')} "
        f"cached, {states.count('evicted')} evicted."
    )
    figure = prefix_tree(nodes, page_palette(), facts.spec.engine.block_size, texts_of_run(run))
    chart_card(CHARTS["prefix-tree"], figure, nodes, query, name="prefix-tree", summary=words, remark=words)
