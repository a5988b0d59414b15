"""Runs of the same requests with different codecs, side by side: room, speed and quality; the crossover; who was
preempted.
"""

from __future__ import annotations

import time
from typing import Any

import duckdb
import pyarrow as pa
import streamlit as st

from app.components.chart_card import chart_card, data_row, page_palette
from app.components.result_table import result_table
from app.errors import LabError
from app.lab import Lab
from app.panels.kv_quantization import codec_charts as charts
from app.panels.kv_quantization.codec_runs import Side, Sides, side_by_side
from app.panels.kv_quantization.crossover import crossovers
from app.panels.kv_quantization.measure import STANDARD
from app.panels.kv_quantization.tables import codec_table, signed
from app.panels.kv_quantization.words import AGAINST, CROSSOVER, CROSSOVER_HELP, HELP, POOLS
from app.rights import visitor
from app.runs.facts import RunFacts
from app.runs.folder import read_spec
from app.words.plain import counted, plain
from app.words.text import PROVENANCE
from engine.config import RunSpec
from scenarios import new_run_id
from store import codec_runs as queries
from store.quality import FULL_PRECISION
from telemetry.refusal import in_words


def codecs_section(lab: Lab, con: duckdb.DuckDBPyConnection, facts: RunFacts) -> None:
    """Draw the section for one finished run."""
    sides = side_by_side(con, facts.run_id, facts.spec.workload_hash)
    if not sides.sides:
        return
    st.markdown("**Codecs side by side**", help=HELP["table"])
    _table(sides)
    disturbed = [f"{side.name} ({'; '.join(side.disturbed)})" for side in sides.sides if side.disturbed]
    if disturbed:
        st.caption(plain(f"Disturbed while served, so their times are worth less: {', '.join(disturbed)}."))
    if sides.left_out:
        st.caption(
            f"{counted(sides.left_out, 'more run')} of these requests left out: other settings than the codec differ "
            f"too."
        )
    _missing(lab, facts, sides)
    if sides.full is not None and sides.packed:
        _against_full(con, sides, sides.full)
    _pools(con, sides)


def _against_full(con: duckdb.DuckDBPyConnection, sides: Sides, side: Side) -> None:
    """Charts that set every codec against full precision, the run ``side``."""
    colours = page_palette()
    rows = {side.name: side.row() for side in sides.sides}
    full = rows[side.name]
    packed = [row for name, row in rows.items() if name != side.name]
    styles = {row["codec"]: index for index, row in enumerate(packed)}
    query = queries.steps_query(sides.runs)
    said = ". ".join(against_in_words(row, full) for row in packed)
    figure = charts.against_full(packed, full, colours)
    chart_card(AGAINST, figure, sides.table(), query, name="codecs-against", summary=said)
    query = queries.cells_query(sides.runs)
    cells = query.table(con)
    crossings = crossovers(cells, sides)
    told = " ".join(one.words for one in crossings)
    figure = charts.crossover(crossings, styles, colours)
    chart_card(CROSSOVER, figure, cells, query, name="codecs-crossover", summary=told, remark=told)
    st.dataframe(
        [one.row() for one in crossings],
        hide_index=True,
        height="content",
        column_config={name: st.column_config.TextColumn(help=words) for name, words in CROSSOVER_HELP.items()},
        alt=plain(told),
    )


def against_in_words(row: dict[str, Any], full: dict[str, Any]) -> str:
    """One codec against full precision, in half a sentence per figure."""
    said = []
    for name, words in (
        ("capacity_tokens", "the capacity"),
        ("most_running", "the requests in flight"),
        ("output_tokens_per_s", "the output tokens/s"),
        ("decode_step_ms", "the decode step"),
    ):
        if row.get(name) and full.get(name):
            said.append(f"{row[name] / full[name]:.2f} times {words}")
    quality = "" if row["perplexity_ratio"] is None else f", perplexity {signed(row['perplexity_ratio'])}"
    return f"{row['codec']}: {', '.join(said)}{quality}"


def _table(sides: Sides) -> None:
    result_table(codec_table(sides), pinned="codec")
    data_row(sides.table(), queries.steps_query(sides.runs), name="codecs")


def _missing(lab: Lab, facts: RunFacts, sides: Sides) -> None:
    """What could be in the table and is not, with the buttons and commands that give it."""
    there = set(sides.names.values())
    options = [name for name in (FULL_PRECISION, *STANDARD) if name not in there]
    if len(sides.sides) == 1:
        st.caption(
            "No other codec has served these requests yet. Choose one and run it; or, from a terminal, several with "
            "repeats:"
        )
        st.code(compare_command(facts.spec.scenario), language="bash", wrap_lines=True)
    if options and not visitor().is_viewer:
        with st.container(horizontal=True, vertical_alignment="bottom", key="codec-run"):
            name = st.selectbox("Codec", options, key="codec-to-run", help=HELP["codec"], width=220)
            st.button(
                "Run these requests with it",
                key="run-codec",
                icon=":material/play_arrow:",
                help=HELP["run"],
                on_click=_run_with,
                args=(lab, facts, name),
            )
    if st.session_state.get("codec-error"):
        st.error(plain(st.session_state.pop("codec-error")), icon=":material/error:")
    unmeasured = [side.name for side in sides.packed if side.quality is None]
    if unmeasured:
        st.caption(
            plain(
                f"Quality of {', '.join(unmeasured)} is not measured on this model: press Measure quality below, or "
                f"run "
                f"servescope quality --run {facts.run_id}"
            )
        )


def compare_command(scenario: str) -> str:
    """The command that serves a scenario at full precision and with two codecs, in turns."""
    name = scenario if scenario.replace("-", "").isalnum() else "SCENARIO"
    return (
        f"servescope compare {name} --variant full:kv_quantization=off --variant int8:kv_quantization.codec=int8 "
        "--variant int4:kv_quantization.codec=int4 --repeats 3"
    )


def recoded(spec: RunSpec, name: str, run_id: str, created_unix_ns: int) -> RunSpec:
    """The same requests with another of the standard codecs, or at full precision."""
    codec = None if name == FULL_PRECISION else STANDARD[name]
    engine = spec.engine.model_copy(update={"kv_quantization": codec})
    checked = type(engine).model_validate(engine.model_dump())
    return spec.model_copy(update={"engine": checked, "run_id": run_id, "created_unix_ns": created_unix_ns})


def _run_with(lab: Lab, facts: RunFacts, name: str) -> None:
    try:
        spec = read_spec(lab.home.existing_run_dir(facts.run_id))
        changed = recoded(spec, name, new_run_id(), time.time_ns())
        lab.submit_like(changed)
    except (LabError, ValueError) as error:
        st.session_state["codec-error"] = in_words(error) if isinstance(error, LabError) else str(error)
        return
    st.query_params.from_dict({"run": changed.run_id})


def _pools(con: duckdb.DuckDBPyConnection, sides: Sides) -> None:
    query = queries.pools_query(sides.runs)
    table = query.table(con)
    said = ". ".join(pool_in_words(side.name, side.steps) for side in sides.sides)
    figure = charts.pools(table, sides.names, sides.sides[0].block_size, page_palette())
    chart_card(POOLS, figure, table, query, name="codecs-pools", summary=said, remark=f"{said}.")
    query = queries.preempted_query(sides.runs)
    thrown = query.table(con)
    st.markdown(
        "**Who was preempted**",
        help="Requests thrown out of the pool: when first, the tokens that were computed again, and the longest gap "
        "between two "
        f"tokens that their reader saw. {PROVENANCE['measured']}",
    )
    if not thrown.num_rows:
        st.caption("Nobody, with any of these codecs.")
        return
    st.dataframe(
        preempted_rows(thrown, sides),
        hide_index=True,
        height=min(320, 38 + 35 * thrown.num_rows),
        column_config={
            "run": st.column_config.LinkColumn("run", help="Opens the request.", display_text="open"),
            "first, s": st.column_config.NumberColumn(format="%.1f"),
            "longest gap, ms": st.column_config.NumberColumn(format="%.0f"),
            "end to end, ms": st.column_config.NumberColumn(format="%.0f"),
        },
        alt=f"{thrown.num_rows} preempted requests",
    )
    data_row(thrown, query, name="codecs-preempted")


def pool_in_words(name: str, steps: Any) -> str:
    """How full a run's pool was, and how often it threw somebody out."""
    fullest, count = steps.get("fullest"), int(steps.get("preemptions") or 0)
    filled = "not known" if fullest is None else f"{100 * fullest:.0f} % full at most"
    return f"{name}: {filled}, {counted(count, 'preemption')}"


def preempted_rows(thrown: pa.Table, sides: Sides) -> list[dict[str, Any]]:
    return [
        {
            "codec": sides.names[row["run_id"]],
            "request": row["request_id"],
            "times": row["preemptions"],
            "first, s": row["first_s"],
            "tokens computed again": row["tokens_lost"],
            "longest gap, ms": row["longest_gap_ms"],
            "end to end, ms": row["e2e_ms"],
            "run": f"/?run={row['run_id']}&request={row['request']}",
        }
        for row in thrown.to_pylist()
    ]
