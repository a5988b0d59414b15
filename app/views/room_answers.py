"""Below a lesson's step in a room: how many have answered, and what the room predicts, once it may be seen."""

from __future__ import annotations

from html import escape

import streamlit as st

from app.charts import CONFIG
from app.charts.room import answers_chart, curves_chart
from app.components.chart_card import page_palette
from app.errors import LabError
from app.experiments.file import read_experiment
from app.lab import Lab
from app.lessons.progress import Committed
from app.rights import visitor
from app.room.lesson import share, values_of
from app.room.room import Room, get_room
from app.room.tally import bars_of, curves_of
from app.views.trash import attempt
from app.words.plain import counted
from scenarios.lessons.lesson import Curve, Step

LOOK_S = 1.0


def room_answers(lab: Lab, learner: str, name: str, n: int, step: Step, committed: Committed | None) -> None:
    """Draw it; nothing without a room. The presenter's is counted anew every second."""
    room = get_room()
    if room is None:
        return
    if visitor().is_viewer:
        if _may_be_seen(lab, room, name, n):
            with st.container(border=True, key="room-answers"):
                _answers(room, name, n, step)
        return
    with st.container(border=True, key="room-answers"):
        st.toggle(
            "Show what the room predicts now",
            room.question(name, n).open_histogram,
            key=f"room-open-{name}-{n}",
            help="To everybody, while predictions still come in. Otherwise it shows with the reveal.",
            on_change=_open,
            args=(room, name, n),
        )
        if committed is not None and room.question(name, n).experiment_id != committed.experiment_id:
            st.button(
                "Show the room these runs",
                key="room-share",
                icon=":material/cast:",
                help="Ends the room's predictions of this step; everybody sees the runs, and scores against them.",
                on_click=attempt,
                args=(share, lab.home, learner, name, n),
            )
        st.fragment(_watched, run_every=LOOK_S)(lab, room, name, n, step)


def waiting_for_runs() -> None:
    """In place of the runs that the presenter has not begun yet."""
    st.info(
        "Your prediction is written down. The runs begin when the presenter begins them; this page shows them then.",
        icon=":material/hourglass_top:",
    )


def _open(room: Room, name: str, n: int) -> None:
    attempt(room.open_histogram, name, n, bool(st.session_state[f"room-open-{name}-{n}"]))


def _watched(lab: Lab, room: Room, name: str, n: int, step: Step) -> None:
    made = len(values_of(room, name, n, step))
    state = "closed" if room.question(name, n).experiment_id else "open"
    st.markdown(f"**The room**: {counted(made, 'prediction')}, {state}", width="content")
    if _may_be_seen(lab, room, name, n):
        _answers(room, name, n, step)


def _may_be_seen(lab: Lab, room: Room, name: str, n: int) -> bool:
    """Whether the presenter shows it, or the runs are over."""
    question = room.question(name, n)
    if question.open_histogram or not question.experiment_id:
        return question.open_histogram
    try:
        return read_experiment(lab.home, question.experiment_id).state == "finished"
    except LabError:
        return False


def _answers(room: Room, name: str, n: int, step: Step) -> None:
    values = values_of(room, name, n, step)
    st.markdown(f"**What the room predicted**, {counted(len(values), 'prediction')}")
    if not values:
        st.caption("Nobody has predicted this step.")
        return
    asked, palette = step.predict, page_palette()
    if isinstance(asked, Curve) and step.measure.sweep is not None:
        places = [point.x for point in step.measure.sweep.points]
        title = f"{asked.of}{f', {asked.unit}' if asked.unit else ''}"
        chart = curves_chart(curves_of(values), places, palette, title=title, axis=step.measure.sweep.axis)
        alt = f"The curves of {counted(len(values), 'person', 'people')}, and the median of each point"
    else:
        bars = bars_of(step, values)
        chart = answers_chart([(escape(label, quote=False), count) for label, count in bars], palette)
        alt = "; ".join(f"{label}: {count}" for label, count in bars)
    st.plotly_chart(chart, key=f"room-chart-{name}-{n}", config=CONFIG, theme=None, alt=alt)
