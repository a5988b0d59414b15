"""Disturbed runs on the page of a comparison: left out, or served again, by a click."""

from __future__ import annotations

import streamlit as st

from app.experiments.disturbed import disturbed_turns, serve_disturbed_again, without_disturbed
from app.experiments.missing_runs import part_in_words
from app.experiments.plan import Experiment
from app.lab import Lab
from app.rights import Right, may
from app.views.trash import attempt
from app.words.plain import counted, plain

MOST_NAMED = 4


def as_the_reader_wants(lab: Lab, experiment: Experiment) -> Experiment:
    """Say which runs were disturbed and what can be done about them; the experiment without them, where that is
    chosen.
    """
    disturbed = disturbed_turns(lab.home, experiment)
    if not disturbed:
        return experiment
    named = "; ".join(part_in_words(turn) for turn in disturbed[:MOST_NAMED])
    more = f" and {len(disturbed) - MOST_NAMED} more" if len(disturbed) > MOST_NAMED else ""
    words = f"{counted(len(disturbed), 'run')} of this comparison disturbed while served: {named}{more}."
    st.warning(plain(f"{words} Served, below, says by what."), icon=":material/warning:")
    calm = without_disturbed(lab.home, experiment)
    left = calm.complete_repeats()
    with st.container(horizontal=True, vertical_alignment="center"):
        leave_out = st.toggle(
            "Leave out disturbed repeats",
            key=f"calm-{experiment.experiment_id}",
            help=f"On every side, for the sides are paired by repeat. {counted(left, 'repeat')} would be left.",
            disabled=not left,
        )
        if experiment.state != "running" and may(Right.MEASURE):
            st.button(
                "Serve them again",
                icon=":material/replay:",
                key="disturbed-again",
                help="The same requests with the same settings, in new runs that take their place.",
                on_click=attempt,
                args=(_serve_again, lab, experiment.experiment_id),
            )
    return calm if leave_out and left else experiment


def _serve_again(lab: Lab, experiment_id: str) -> None:
    serve_disturbed_again(lab.home, experiment_id)
    lab.experimenter.take_up(experiment_id)
