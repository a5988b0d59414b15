"""What comes after the run: the score, the prediction drawn over what was measured, why, a thing to try, the code."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import plotly.graph_objects as go
import streamlit as st

from app.charts import CONFIG
from app.charts.predictions import amount_chart, curve_chart, ordering_chart
from app.components.chart_card import page_palette
from app.components.full_screen import full_screen_button
from app.errors import LabError, on_page
from app.experiments.file import read_experiment
from app.experiments.measured import figure_rows
from app.experiments.missing_runs import as_it_is
from app.lab import Lab, get_lab
from app.lessons.code import source_of
from app.lessons.predicted import Predicted, in_words
from app.lessons.progress import Committed
from app.lessons.reveal import OUTCOMES, Outcome, Reveal, figure_unit, reveal
from app.rights import visitor
from app.views.experiments import compared_link
from app.views.presenter import large_type
from app.views.step_cost import explained_run
from app.words.plain import counted, plain
from scenarios import lessons
from scenarios.lessons.lesson import Choice, Code, Curve, Ordering, Step, Try
from scenarios.measurement_file import as_settings
from store import queries
from store.plan import Experiment

COLOURS = {"right": "green", "direction": "blue", "wrong": "orange", "did not show here": "violet", "open": "gray"}
ICONS = {
    "right": ":material/check_circle:",
    "direction": ":material/trending_up:",
    "wrong": ":material/cancel:",
    "did not show here": ":material/visibility_off:",
    "open": ":material/help:",
}
MOST_LINES = 60  # of code; the rest stands in the file


def revealed(lab: Lab, lesson: str, n: int, committed: Committed, experiment: Experiment) -> Outcome:
    """Draw the reveal of a step whose runs are over and in the database."""
    step = lessons.lesson(lesson).steps[n]
    runs = tuple(run for variant in experiment.variants for run in experiment.runs_of(variant.name))
    told = _reveal(lesson, n, experiment.experiment_id, runs, committed)
    parts = told.scored
    count = f" {parts.right} of {parts.parts} {'pairs' if isinstance(step.predict, Ordering) else 'points'} are right."
    with st.container(key="reveal"):
        st.markdown(
            f"### :{COLOURS[told.outcome]}[{ICONS[told.outcome]} {OUTCOMES[told.outcome]}]"
            f"{count if parts.parts > 1 and told.outcome != 'open' else ''}"
        )
        if not told.showed and told.outcome == "right":
            st.caption(plain(OUTCOMES["did not show here"]))
        _chart(step, committed.predicted, told, f"{lesson}-{n}")
        for paragraph in told.paragraphs:
            st.markdown(plain(paragraph))
        for note in told.notes:
            st.caption(plain(note))
        _figures(told, experiment)
        _explained(lab, experiment)
        _to_try(step.to_try, told.to_try, f"{lesson}-{n}")
        _code(step.code, told.code)
    return told.outcome


@lru_cache(maxsize=128)
def _reveal(lesson: str, n: int, experiment_id: str, runs: tuple[str, ...], committed: Committed) -> Reveal:
    """Everything beside lesson and step says whether what is kept still holds."""
    lab = get_lab()
    experiment = as_it_is(lab.home, read_experiment(lab.home, experiment_id))
    with lab.cursor() as con:
        return reveal(con, experiment, lessons.lesson(lesson).steps[n], committed.predicted)


def _chart(step: Step, predicted: Predicted, told: Reveal, key: str) -> None:
    chart = _drawn(step, predicted, told)
    if chart is None:
        return
    of = step.predict.of
    names = [of] if isinstance(of, str) else list(of)
    measured = "; ".join(f"{row[0]} {row[2]} {row[3]}" for row in figure_rows(told.figures) if row[0] in names)
    alt = f"You predicted: {in_words(step, predicted)}. Measured: {measured}."
    with st.container(key="reveal-chart"):
        st.plotly_chart(chart, alt=alt, key=f"reveal-{key}", config=CONFIG, theme=None)
    full_screen_button("reveal-chart", key="f" if large_type() else "")


def _drawn(step: Step, predicted: Predicted, told: Reveal) -> go.Figure | None:
    asked, palette = step.predict, page_palette()
    parts = predicted if isinstance(predicted, tuple) else (predicted,)
    if isinstance(asked, Ordering):
        order = [str(name) for name in parts]
        title = ", ".join(filter(None, ("measured", figure_unit(step, asked.of[0]))))
        return ordering_chart(order, told.figures, palette, title=title, missed=told.scored.missed)
    if isinstance(asked, Curve):
        sweep = step.measure.sweep
        assert sweep is not None
        places = [point.x for point in sweep.points]
        curve = [float(one) for one in parts]
        return curve_chart(
            told.figures[asked.of], places, curve, palette,
            title=_title(step, asked.of), axis=sweep.axis, missed=told.scored.missed,
        )  # fmt: skip
    span: tuple[float | None, float | None] = (float(parts[0]), float(parts[0]))
    if isinstance(asked, Choice):
        option = asked.options[int(float(parts[0]))]
        span = (option.low, option.high)
    if told.figures[asked.of]["values"][0] is None:
        return None
    no_effect = step.effect.beyond if asked.of == step.effect.of else None
    return amount_chart(told.figures[asked.of], span, palette, title=_title(step, asked.of), no_effect=no_effect)


def _title(step: Step, name: str) -> str:
    unit = figure_unit(step, name)
    return f"{name}, {unit}" if unit else name


def _figures(told: Reveal, experiment: Experiment) -> None:
    with st.expander("The figures of these runs", icon=":material/table:"):
        head = ("Figure", "What it is", "At", "Here")
        table: list[dict[str, Any]] = [
            dict(zip(head, map(plain, row), strict=True)) for row in figure_rows(told.figures)
        ]
        with st.container(key="lesson-figures"):
            st.table(table, border="horizontal", hide_index=True, alt="The figures of the step, with their intervals")
        st.caption(f"Intervals of 95 %, by Student's t over {counted(experiment.complete_repeats(), 'repeat')}.")
        compared_link(experiment.experiment_id)


def _explained(lab: Lab, experiment: Experiment) -> None:
    """A step of the runs that the reader chooses, in formulas; looked up once it is opened."""
    box = st.expander("What a token cost in these runs", icon=":material/calculate:", key="why-so", on_change="rerun")
    if not box.open:
        return
    with box:
        names = [variant.name for variant in experiment.variants]
        chosen = st.segmented_control("Served as", names, default=names[0], key="explained-variant", required=True)
        run_id = experiment.runs_of(str(chosen))[0]
        with lab.database.read() as con:
            row = queries.run(con, run_id)
            if row is not None:
                explained_run(con, run_id, row)


def _to_try(to_try: Try, says: str, key: str) -> None:
    with st.container(border=True, key="lesson-try"):
        st.markdown(f"**One thing to try.** {plain(says)}")
        if not visitor().is_viewer and st.button(
            "Set the panel up",
            key=f"try-{key}",
            icon=":material/tune:",
            help="Opens the Live page with these settings; Start runs them.",
        ):
            st.session_state.pop("followed", None)  # the panel takes the address anew
            settings = [f"{name}={text}" for name, text in as_settings(to_try.set).items()]
            st.switch_page("pages/live.py", query_params={"scenario": to_try.scenario, "set": settings})


def _code(code: Code, says: str) -> None:
    try:
        source = source_of(code.path, code.symbol)
    except LabError as error:
        st.caption(plain(on_page(error)))
        return
    with st.expander(f"The code that did it: {plain(code.symbol)}", icon=":material/code:"):
        st.markdown(f"{plain(says)} `{source.path}`, line {source.first}")
        lines = source.text.splitlines()
        st.code("\n".join(lines[:MOST_LINES]), language="python")
        if len(lines) > MOST_LINES:
            st.caption(f"{len(lines) - MOST_LINES} more lines stand in the file.")
