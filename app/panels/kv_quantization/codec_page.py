"""Runs of the same requests with different codecs, side by side: room, speed and quality; the crossover; who was preempted."""

from __future__ import annotations

import time
from typing import Any

import duckdb
import pyarrow as pa
import streamlit as st

from app.components.chart_card import chart_card, data_row, page_palette
from app.errors import LabError
from app.lab import Lab
from app.panels.kv_quantization import codec_charts as charts
from app.panels.kv_quantization.codec_runs import Side, Sides, crossovers, side_by_side
from app.panels.kv_quantization.measure import STANDARD
from app.runs.facts import RunFacts
from app.runs.folder import read_spec
from app.words.charts import ChartWords
from app.words.plain import counted, plain
from app.words.text import PROVENANCE
from engine.config import RunSpec
from scenarios import new_run_id
from store import codecs as queries
from store.quality import FULL_PRECISION

AGAINST = ChartWords(
    "Against full precision",
    "Each codec's figures as multiples of full precision's, by the runs in the table. To the right is more: more room, more requests at "
    "once and more output are good, a longer step and a higher perplexity are not.",
    "iteration",
    ("running", "start_ns", "end_ns"),
)
CROSSOVER = ChartWords(
    "Step time against context",
    "Steps that only decode, with the codec and without, compared at the same number of requests and in the same band of context. Below 1 "
    "the codec is faster: reading fewer bytes beats unpacking them. Marks are measured. Dashed lines are modelled: bytes saved at this "
    "device's copy bandwidth, against the time of attention over the packed cache, taken before the run began.",
    "iteration",
    ("context_tokens", "decode_requests", "start_ns", "end_ns"),
)
POOLS = ChartWords(
    "The pool, with and without",
    "Tokens that requests hold in the KV pool over time; every pool has the same bytes, the dashed line is what they hold. A cross is a "
    "preemption: a request was thrown out because the pool was full, and is computed again.",
    "iteration",
    ("blocks_used", "blocks_total", "preempted"),
)
HELP = {
    "table": "The newest run of each codec that was asked the same requests and differs from this run in nothing else. For intervals over "
    "repeats, use Compare. Quality is of the codec on this model, by whichever run it was measured for.",
    "bits": "Bits of one stored number with its steps and minima. " + PROVENANCE["derived"],
    "capacity_tokens": "Tokens the KV pool holds. " + PROVENANCE["derived"],
    "capacity_requests": "The same in requests of this run's mean size. " + PROVENANCE["derived"],
    "most_running": "Most requests that held a place in one step. " + PROVENANCE["measured"],
    "decode_step_ms": "Median time of a step that only decodes. " + PROVENANCE["measured"],
    "decode_requests": "Requests in such a step on average: with more of them a step is longer and gives more. "
    + PROVENANCE["measured"],
    "output_tokens_per_s": "Output tokens per second, first arrival to last token. " + PROVENANCE["measured"],
    "preemptions": "Requests thrown out of the KV pool. " + PROVENANCE["measured"],
    "perplexity_ratio": "Perplexity on held text as a multiple of full precision's. " + PROVENANCE["measured"],
    "kl": "How far the law of the next token moves, mean over the text, in nats. " + PROVENANCE["measured"],
    "agreement": "Positions of the text whose most likely next token is the same. " + PROVENANCE["measured"],
    "greedy_agreement": "How much of greedy continuations is equal before the first difference. "
    + PROVENANCE["measured"],
    "disturbed": "What visibly disturbed the machine while the run was served; its times are worth less then.",
    "codec": "A codec that these requests have not been served with yet.",
    "run": "Serves the same requests at the same moments once more, with this codec and every other setting as here.",
}
CROSSOVER_HELP = {
    "faster, measured": "Context of a step (summed over its requests) from which on the codec's steps were faster, in the range that both "
    "runs reached. " + PROVENANCE["measured"],
    "faster, modelled": "The context at which what is spared by reading fewer bytes has paid for unpacking them and for what every step takes "
    "more; never where unpacking takes longer. " + PROVENANCE["modelled"],
    "step time, measured": "Median step time as a multiple of full precision's, least to most over the bands of context. "
    + PROVENANCE["measured"],
    "at context, tok": "Where the bands compared lie: tokens of context in a step, summed over its requests. "
    + PROVENANCE["measured"],
    "spared per tok, modelled": "Bytes not read per token of context, at the copy bandwidth measured before the run. "
    + PROVENANCE["modelled"],
    "unpacking per tok": "What attention over the packed cache takes per token of context beyond reading its bytes: timed alone before the run "
    "began, at two contexts. " + PROVENANCE["derived"],
    "more per step": "What it takes in every step whatever its context: packing the new tokens, mixing channels. Timed likewise. "
    + PROVENANCE["derived"],
}
TITLES = {
    "codec": "codec",
    "bits": "bits",
    "capacity_tokens": "KV capacity, tok",
    "capacity_requests": "fits at once, req",
    "most_running": "most in flight",
    "decode_step_ms": "decode step p50, ms",
    "decode_requests": "req per decode step",
    "output_tokens_per_s": "output tok/s",
    "preemptions": "preemptions",
    "perplexity_ratio": "perplexity, x",
    "kl": "KL, nats",
    "agreement": "same next token",
    "greedy_agreement": "same greedy text",
    "disturbed": "disturbed by",
    "run_id": "run",
}
FORMATS = {
    "bits": "%.2f",
    "capacity_tokens": "localized",
    "capacity_requests": "%.1f",
    "decode_step_ms": "%.1f",
    "decode_requests": "%.1f",
    "output_tokens_per_s": "%.1f",
    "perplexity_ratio": "%.4f",
    "kl": "%.4f",
    "agreement": "percent",
    "greedy_agreement": "percent",
}


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
            f"{counted(sides.left_out, 'more run')} of these requests left out: other settings than the codec differ too."
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
    found = crossovers(cells, sides)
    told = " ".join(one.words for one in found)
    figure = charts.crossover(found, styles, colours)
    chart_card(CROSSOVER, figure, cells, query, name="codecs-crossover", summary=told, remark=told)
    st.dataframe(
        [one.row() for one in found],
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


def signed(ratio: float) -> str:
    """A ratio as a change in percent; none is never negative."""
    return f"{round(100 * (ratio - 1), 2) + 0.0:+.2f} %"


def _table(sides: Sides) -> None:
    rows = [{TITLES[key]: value for key, value in side.row().items() if key in TITLES} for side in sides.sides]
    for row in rows:
        row["run"] = f"/?run={row['run']}"
    columns: dict[str, Any] = {
        TITLES[key]: st.column_config.NumberColumn(TITLES[key], help=HELP[key], format=FORMATS.get(key))
        for key in TITLES
        if key not in ("codec", "disturbed", "run_id")
    }
    columns["run"] = st.column_config.LinkColumn("run", help="Opens the run.", display_text=r"run=(.*)")
    columns["disturbed by"] = st.column_config.TextColumn(help=HELP["disturbed"])
    columns["codec"] = st.column_config.TextColumn("codec", pinned=True)
    said = "; ".join(
        f"{row['codec']} {row['KV capacity, tok']} tokens, {row['preemptions']} preemptions" for row in rows
    )
    st.dataframe(
        rows,
        hide_index=True,
        height="content",
        placeholder="–",
        column_config=columns,
        alt=f"Codecs side by side: {plain(said)}",
    )
    data_row(sides.table(), queries.steps_query(sides.runs), name="codecs")


def _missing(lab: Lab, facts: RunFacts, sides: Sides) -> None:
    """What could be in the table and is not, with the buttons and commands that give it."""
    there = set(sides.names.values())
    options = [name for name in (FULL_PRECISION, *STANDARD) if name not in there]
    if len(sides.sides) == 1:
        st.caption(
            "No other codec has served these requests yet. Choose one and run it; or, from a terminal, several with repeats:"
        )
        st.code(compare_command(facts.spec.scenario), language="bash", wrap_lines=True)
    if options:
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
                f"Quality of {', '.join(unmeasured)} is not measured on this model: press Measure quality below, or run "
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
        st.session_state["codec-error"] = f"{error.message} {error.mend}" if isinstance(error, LabError) else str(error)
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
        help="Requests thrown out of the pool: when first, the tokens that were computed again, and the longest gap between two "
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
