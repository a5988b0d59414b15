"""All requests of a run over time, and one of them step by step."""

from __future__ import annotations

from dataclasses import asdict, replace

import streamlit as st

from app.charts.waits import COLOURS
from app.components.chart_card import page_palette
from app.components.chart_links import open_clicked
from app.components.pictures import Behind, requests_picture, waterfall_picture
from app.components.selection import number_of
from app.components.when_seen import when_seen
from app.panels.panel import FinishedRun
from app.words.pictures import PICTURES
from app.words.plain import plain
from app.words.selection import stretch_of
from app.words.waits import GAPS, WAITS
from store import iteration_window, lifelines
from store.slo import DEFAULT_SLO, PRESETS

FOLLOWING_HEIGHT = 520  # pixels, about


def following_requests(run: FinishedRun) -> None:
    """Draw them below an iteration, whose time is marked and moves with it, once a reader comes near."""

    def draw() -> None:
        with run.lab.database.read() as con:
            words = PICTURES["lifelines"]
            st.markdown(f"**{words.title}**", help=words.explained)
            _lines(replace(run, con=con), DEFAULT_SLO, follows=True)

    when_seen(draw, key=f"following-{run.facts.run_id}", height=FOLLOWING_HEIGHT)


def requests_over_time(run: FinishedRun) -> None:
    """Draw every request that ended as a line."""
    with st.container(horizontal=True, vertical_alignment="bottom"):
        words = PICTURES["lifelines"]
        st.markdown(f"**{words.title}**", help=words.explained, width="stretch")
        name = st.selectbox(
            "Objective (SLO)",
            list(PRESETS),
            index=list(PRESETS).index(DEFAULT_SLO),
            key="timeline-slo",
            width=220,
            help="What counts as served in time: "
            + "; ".join(f"{name}: {slo.words}" for name, slo in PRESETS.items())
            + ".",
        )
    _lines(run, name)


def _lines(run: FinishedRun, name: str, *, follows: bool = False) -> None:
    """``name``: of the objective."""
    words = PICTURES["lifelines"]
    told = lifelines.lifelines(run.con, run.facts.run_id, PRESETS[name])
    stretch = stretch_of(st.query_params.get("from", ""), st.query_params.get("to", ""))
    requests_picture(
        {
            "run": run.facts.run_id,
            "objective": name,
            "follows": follows,
            "requests": told.requests,
            "preempted": told.preempted,
            "range": [1e3 * at for at in stretch] if stretch else None,
            "request": number_of("request"),
            "iteration": _iteration(run),
        },
        Behind(
            words,
            told.requests,
            lifelines.lifelines_query(run.facts.run_id),
            "lifelines",
            f"{told.requests.num_rows} requests; objective {name}: {PRESETS[name].words}.",
        ),
        key=f"lifelines-{'following-' if follows else ''}{run.facts.run_id}",
        on_open=open_clicked,
    )


def _iteration(run: FinishedRun) -> dict[str, float] | None:
    """When the selected iteration was computed, in ms."""
    asked = number_of("iteration")
    if asked is None:
        return None
    rows = iteration_window.steps_query(run.facts.run_id, asked, asked).rows(run.con)
    return {name: rows[0][f"{name[:-3]}_ns"] / 1e6 for name in ("start_ms", "end_ms")} if rows else None


def one_request(run: FinishedRun, request: int) -> None:
    """Draw one request's steps and tokens over time."""
    recording = run.facts.spec.engine.recording
    if recording != "full":
        st.caption(
            plain(f"Its steps were not recorded (recording: {recording}). Set recording to full and run it again.")
        )
        return
    told = lifelines.waterfall(run.con, run.facts.run_id, request)
    if told is None:
        return
    colours = asdict(page_palette())
    parts = lifelines.parts_query(run.facts.run_id, request)
    waterfall_picture(
        {
            "row": told.row,
            "spells": told.spells,
            "parts": told.parts,
            "gaps": told.gaps,
            "waits": WAITS,
            "kinds": GAPS,
            "colours": {name: colours[colour] for name, colour in COLOURS.items()},
        },
        Behind(
            PICTURES["waterfall"],
            parts.table(run.con),
            parts,
            "waterfall",
            f"Request {request}: {told.row['output_tokens']} output tokens.",
        ),
        key=f"waterfall-{run.facts.run_id}",
    )
