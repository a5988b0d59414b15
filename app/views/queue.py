"""The queue on the page: what is served now, what waits for it, in which order; moved and cancelled by a click."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import streamlit as st

from app.errors import LabError
from app.experiments.drive import pause
from app.experiments.file import read_experiment
from app.experiments.listing import title_of
from app.lab import Lab
from app.rights import Right, may, offered_with
from app.runs.listing import entry
from app.views.trash import attempt
from app.words.plain import counted, plain

LOOK_S = 1.0
MOST_SHOWN = 20
Move = tuple[str, str, str, str]  # way, label, icon, what it does
MOVES: tuple[Move, ...] = (
    ("front", "First", ":material/vertical_align_top:", "To be served next."),
    ("up", "Up", ":material/arrow_upward:", "Before the one ahead of it."),
    ("down", "Down", ":material/arrow_downward:", "Behind the next one."),
)


def queue_panel(lab: Lab) -> None:
    """Draw it; nothing while no run is served and none waits. It looks again every second, and a change turns the
    page.
    """
    st.fragment(_queue, run_every=LOOK_S)(lab, _now(lab))


def _now(lab: Lab) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(lab.queue.running()), tuple(lab.queue.queued())


def _queue(lab: Lab, seen: tuple[Sequence[str], Sequence[str]]) -> None:
    if _now(lab) != seen:
        st.rerun()
    running, waiting = seen
    if not running and not waiting:
        return
    with st.container(border=True, key="queue", gap="small"):
        st.markdown(f"**Queue**: {counted(len(running), 'run')} served, {len(waiting)} waiting")
        for run_id in running:
            _line(lab, run_id, "now")
        for place, run_id in enumerate(waiting[:MOST_SHOWN]):
            idle = ("front", "up") if place == 0 else ("down",) if place == len(waiting) - 1 else ()
            _line(lab, run_id, str(place + 1), MOVES if len(waiting) > 1 and may(Right.CANCEL) else (), idle)
        if len(waiting) > MOST_SHOWN:
            st.caption(f"and {counted(len(waiting) - MOST_SHOWN, 'run')} more behind them")


def _line(lab: Lab, run_id: str, place: str, moves: Sequence[Move] = (), idle: Collection[str] = ()) -> None:
    """A run with its buttons. ``idle``: ways that lead nowhere from here."""
    about = entry(lab.home, run_id)
    experiment = _going_on(lab, about["experiment_id"])
    with st.container(horizontal=True, vertical_alignment="center", key=f"queued-{run_id}"):
        words = f"{place}: {title_of(about)} ({run_id})"
        if experiment:
            words += f", of the experiment {experiment}"
        st.markdown(plain(words), width="stretch")
        with st.container(horizontal=True, width="content"):
            for way, label, icon, about_it in moves:
                st.button(
                    label,
                    icon=icon,
                    key=f"{way}-{run_id}",
                    help=about_it,
                    type="tertiary",
                    disabled=way in idle,
                    on_click=attempt,
                    args=(lab.queue.move, run_id, way),
                )
            _end(lab, run_id, experiment)


@offered_with(Right.CANCEL)
def _end(lab: Lab, run_id: str, experiment: str | None) -> None:
    """A run of an experiment that goes on would be served again, so the experiment is stopped."""
    if experiment:
        label, about = "Stop it all", "Stops the experiment; what is done is kept, and it can go on later."
    else:
        label, about = "Cancel", "What was done is kept."
    st.button(
        label,
        icon=":material/stop_circle:",
        key=f"end-{run_id}",
        help=about,
        type="tertiary",
        on_click=attempt,
        args=(pause, lab.home, experiment, lab.queue.cancel) if experiment else (lab.queue.cancel, run_id),
    )


def _going_on(lab: Lab, experiment_id: str | None) -> str | None:
    """The experiment, if it is one that goes on."""
    if experiment_id is None:
        return None
    try:
        return experiment_id if read_experiment(lab.home, experiment_id).state == "running" else None
    except LabError:
        return None
