"""What the KV cache's codec gives and costs: room in tokens and requests, and quality against full precision, measured
on request.
"""

from __future__ import annotations

from typing import Any

import duckdb
import streamlit as st

from app.charts import CONFIG
from app.components.chart_card import data_row, page_palette
from app.components.result_table import result_table
from app.errors import LabError
from app.lab import Lab
from app.panels.kv_quantization import measure as measuring
from app.panels.kv_quantization.codec_page import codecs_section
from app.panels.kv_quantization.quality_charts import error_map, room_and_loss
from app.panels.kv_quantization.tables import quality_table
from app.panels.kv_quantization.words import QUALITY
from app.panels.panel import FinishedRun
from app.rights import Right, may
from app.runs.facts import RunFacts
from app.runs.hub import require_models_here
from app.words.plain import plain
from app.words.text import PROVENANCE
from store.pool_room import PoolRoom, pool_room
from store.quality import digest_of, quality, quality_query
from telemetry.refusal import in_words

LOOK_S = 0.5
SIZES = {"tokens": 512, "prompts": 2, "new_tokens": 32, "needle_tokens": 256}


def quality_section(run: FinishedRun) -> None:
    """Draw the section of one run."""
    lab, con, facts = run.lab, run.con, run.facts
    query = quality_query(facts.run_id)
    table = query.table(con)  # before all that is read below: what comes meanwhile is drawn once it is here, too
    _room(con, facts)
    codecs_section(lab, con, facts)
    folder = lab.home.run_dir(facts.run_id)
    if measuring.is_measuring(folder):
        st.fragment(_while_it_lasts, run_every=LOOK_S)(lab, facts)
        return
    st.markdown("**Quality per codec**", help=QUALITY["how"])
    digest, latest, rows = digest_of(folder), measuring.progress_of(folder), table.to_pylist()
    if latest is not None and latest.error is not None:
        st.error(plain(in_words(latest.error)), icon=":material/error:")
    words = "Measure again" if digest else "Measure quality"
    if may(Right.MEASURE) and st.button(
        words, key="measure-quality", icon=":material/straighten:", help=QUALITY["button"]
    ):
        engine = facts.spec.engine
        try:
            require_models_here(engine)
            measuring.start(folder, measuring.spec_of(engine, measuring.codecs_for(engine), **SIZES))
        except LabError as error:
            st.error(plain(in_words(error)), icon=":material/error:")
        else:
            st.rerun()
    if digest is None:
        st.caption(QUALITY["none"])
    elif not rows or rows[0]["digest"] != digest:
        st.fragment(_until_read, run_every=LOOK_S)(lab, facts.run_id, digest)
    else:
        _result(rows)
        data_row(table, query, name="quality")


def codec_figures(held: PoolRoom) -> list[tuple[str, str, str]]:
    """Label, value and help of each figure of how a number is stored."""
    derived = PROVENANCE["derived"]
    figures = []
    if held.bits is not None:
        figures.append(("Effective bits", f"{held.bits:.4g}", f"{QUALITY['bits']} {derived}"))
    if held.bits_served is not None:
        figures.append(
            ("Effective bits with windows", f"{held.bits_served:.3g}", f"{QUALITY['bits_served']} {derived}")
        )
    if held.codec is not None:
        gain = f"{held.tokens / max(1, held.full_precision_tokens):.2f}x"
        figures.append(("KV capacity, times", gain, f"{QUALITY['gain']} {derived}"))
    return figures


def _room(con: duckdb.DuckDBPyConnection, facts: RunFacts) -> None:
    held = pool_room(con, facts.run_id)
    if held is None:
        return
    with st.container(horizontal=True, key="kv-room"):
        st.metric("Stored as", plain(held.name), help=QUALITY["stored"], border=True, width="content")
        for label, value, words in codec_figures(held):
            st.metric(label, value, help=words, border=True, width="content")


def _while_it_lasts(lab: Lab, facts: RunFacts) -> None:
    folder = lab.home.run_dir(facts.run_id)
    if not measuring.is_measuring(folder):
        st.rerun()
    latest = measuring.progress_of(folder)
    phase, share = ("starting", 0.0) if latest is None else (latest.phase, latest.share)
    st.progress(share, text=plain(f"Measuring quality: {phase}"))


def _until_read(lab: Lab, run_id: str, digest: str) -> None:
    """The result is written, its rows are on their way into the database."""
    with lab.database.read() as con:
        if any(row["digest"] == digest for row in quality(con, run_id)):
            st.rerun()
    st.caption("Reading the result")
    st.skeleton(height=160)


def _result(rows: list[dict[str, Any]]) -> None:
    """``rows``: full precision first, then every codec, as ``store.quality`` gives them."""
    table = quality_table(rows)
    codecs = [row | {"perplexity_change": row["perplexity_ratio"] - 1} for row in rows[1:]]
    st.caption(plain(table.note))
    result_table(table)
    colours = page_palette()
    with st.container(border=True, key="card-room-and-loss"):
        st.markdown("**KV capacity against perplexity**", help=QUALITY["chart"])
        figure = room_and_loss(codecs, colours)
        st.plotly_chart(
            figure,
            key="chart-room-and-loss",
            config=CONFIG,
            theme=None,
            alt=f"KV capacity against perplexity. {plain(table.summary)}",
        )
    names = [codec["name"] for codec in codecs]
    with st.container(border=True, key="card-head-error"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown("**Error per layer and head**", help=QUALITY["heads"], width="stretch")
            name = st.selectbox("Codec", names, key="quality-codec", label_visibility="collapsed", width=220)
        codec = codecs[names.index(name)]
        most = max(max(row) for side in ("key_error", "value_error") for row in codec[side]) or 1.0
        for side, title in (("key_error", "Keys"), ("value_error", "Values")):
            largest = max(max(row) for row in codec[side])
            st.caption(f"{title}: off by {100 * largest:.1f} % in the worst head")
            figure = error_map(codec[side], colours, most=most)
            st.plotly_chart(
                figure,
                key=f"chart-{side}",
                config=CONFIG,
                theme=None,
                alt=f"{title} of {name}: at most {100 * largest:.1f} % off.",
            )
