"""What the KV cache's codec gives and costs: room in tokens and requests, and quality against full precision, measured on request."""

from __future__ import annotations

import json
from typing import Any

import duckdb
import streamlit as st

from app.charts import CONFIG
from app.components.chart_card import data_row, page_palette
from app.errors import LabError
from app.lab import Lab
from app.panels.kv_quantization import measure as measuring
from app.panels.kv_quantization.codec_page import codecs_section, signed
from app.panels.kv_quantization.quality_charts import error_map, room_and_loss
from app.panels.kv_quantization.words import QUALITY
from app.runs.facts import RunFacts
from app.runs.hub import require_models_here
from app.words.plain import plain
from app.words.text import PROVENANCE
from store.capacity import Capacity, capacity
from store.quality import digest_of, quality, quality_query

LOOK_S = 0.5
SIZES = {"tokens": 512, "prompts": 2, "new_tokens": 32, "needle_tokens": 256}


def quality_section(lab: Lab, con: duckdb.DuckDBPyConnection, facts: RunFacts) -> None:
    """Draw the section of one run."""
    _room(con, facts)
    codecs_section(lab, con, facts)
    folder = lab.home.run_dir(facts.run_id)
    if measuring.is_measuring(folder):
        st.fragment(_while_it_lasts, run_every=LOOK_S)(lab, facts)
        return
    st.markdown("**Quality per codec**", help=QUALITY["how"])
    query, digest, latest = quality_query(facts.run_id), digest_of(folder), measuring.progress_of(folder)
    table = query.table(con)
    rows = table.to_pylist()
    if latest is not None and latest.error is not None:
        st.error(plain(f"{latest.error['message']} {latest.error.get('mend', '')}"), icon=":material/error:")
    words = "Measure again" if digest else "Measure quality"
    if st.button(words, key="measure-quality", icon=":material/straighten:", help=QUALITY["button"]):
        engine = facts.spec.engine
        try:
            require_models_here(engine)
            measuring.start(folder, measuring.spec_of(engine, measuring.codecs_for(engine), **SIZES))
        except LabError as error:
            st.error(plain(f"{error.message} {error.mend}"), icon=":material/error:")
        else:
            st.rerun()
    if digest is None:
        st.caption(QUALITY["none"])
    elif not rows or rows[0]["digest"] != digest:
        st.fragment(_until_read, run_every=LOOK_S)(lab, facts.run_id, digest)
    else:
        _result(rows)
        data_row(table, query, name="quality")


def capacity_figures(held: Capacity) -> list[tuple[str, str, str]]:
    """Label, value and help of each figure of a pool's capacity: what it took, what the memory could hold, whom that serves."""
    derived = PROVENANCE["derived"]
    requests = "–" if held.requests is None else f"{held.requests:,.1f}"
    tokens = " ".join(filter(None, (QUALITY["tokens"], held.why_in_words, derived)))
    found = [("KV capacity", f"{held.tokens:,} tok", tokens)]
    if held.is_trimmed:
        found.append(("Memory could hold", f"{held.could_hold_tokens:,} tok", f"{QUALITY['could_hold']} {derived}"))
    found.append(("Fits at once", f"{requests} req", f"{QUALITY['requests']} {derived}"))
    return found


def codec_figures(held: Capacity) -> list[tuple[str, str, str]]:
    """The same of how a number is stored."""
    derived = PROVENANCE["derived"]
    found = []
    if held.bits is not None:
        found.append(("Effective bits", f"{held.bits:.4g}", f"{QUALITY['bits']} {derived}"))
    if held.bits_served is not None:
        found.append(("Bits with windows", f"{held.bits_served:.3g}", f"{QUALITY['bits_served']} {derived}"))
    if held.codec is not None:
        gain = f"{held.tokens / max(1, held.full_precision_tokens):.2f}x"
        found.append(("Room gained", gain, f"{QUALITY['gain']} {derived}"))
    return found


def _room(con: duckdb.DuckDBPyConnection, facts: RunFacts) -> None:
    held = capacity(con, facts.run_id)
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
    full, codecs = rows[0], [row | {"perplexity_change": row["perplexity_ratio"] - 1} for row in rows[1:]]
    about = f"{full['model']}, {full['dtype']} on {full['device']}; {full['text_tokens']} tokens of {full['text']}."
    labels = json.loads(full["labels"])
    if labels:
        about += f" Labels: {', '.join(labels)}."
    st.caption(plain(about))
    shown = [_row(full["name"], None, full), *(_row(codec["name"], codec, codec) for codec in codecs)]
    said = "; ".join(
        f"{codec['name']}: {codec['capacity']:.2f} times the tokens, perplexity {signed(codec['perplexity_ratio'])}"
        for codec in codecs
    )
    st.dataframe(shown, hide_index=True, height="content", alt=f"Quality per codec. {plain(said)}")
    colours = page_palette()
    with st.container(border=True, key="card-room-and-loss"):
        st.markdown("**Room against loss**", help=QUALITY["chart"])
        figure = room_and_loss(codecs, colours)
        st.plotly_chart(
            figure, key="chart-room-and-loss", config=CONFIG, theme=None, alt=f"Room against loss. {plain(said)}"
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


def _row(name: str, codec: dict[str, Any] | None, measured: dict[str, Any]) -> dict[str, str]:
    found = f"{measured['needles_found']} of {measured['needles']}" if measured["needles"] else ""
    cut = "" if measured["chunking_logits"] is None else f"{measured['chunking_logits']:.2g}"
    row = {"codec": name, "bits": "", "room": "1.00x", "perplexity": f"{measured['perplexity']:.3f}"}
    if codec is None:
        return row | {
            "change": "",
            "KL, nats": "",
            "same next token": "",
            "same greedy text": "",
            "facts found": found,
            "logits, cut otherwise": cut,
        }
    greedy = codec["greedy_agreement"]
    return row | {
        "bits": f"{codec['bits']:.2f}",
        "room": f"{codec['capacity']:.2f}x",
        "change": signed(codec["perplexity_ratio"]),
        "KL, nats": f"{codec['kl']:.4f}",
        "same next token": f"{100 * codec['agreement']:.1f} %",
        "same greedy text": "" if greedy is None else f"{100 * greedy:.0f} %",
        "facts found": found,
        "logits, cut otherwise": cut,
    }
