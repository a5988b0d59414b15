"""What came out of each experiment of a list, in a few words; verdicts on papers take time, and come as they are
ready.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress

import streamlit as st

from app.errors import LabError
from app.experiments.listing import Entry, plan_of
from app.experiments.main_figure import main_figure
from app.experiments.missing_runs import as_it_is
from app.experiments.plan import Experiment
from app.lab import Lab
from app.views.paper_claim import judgement_here
from store import queries

BUDGET_S = 1.0  # for verdicts that were not asked for before
LOOK_S = 0.5
NOT_YET = "being judged"


def results(lab: Lab, entries: Sequence[Entry]) -> tuple[dict[str, str], bool]:
    """By experiment what came out, and whether verdicts are still to come."""
    plans: dict[str, Experiment] = {}
    for entry in entries:
        if entry["kind"] != "run":
            with suppress(LabError):  # damaged: it says so itself
                plans[entry["id"]] = as_it_is(lab.home, plan_of(lab.home, entry["id"]))
    runs = {run for plan in plans.values() for variant in plan.variants for run in plan.runs_of(variant.name)}
    with lab.database.read() as con:
        figures = queries.figures_of(con, runs)
    until = time.monotonic() + BUDGET_S
    told, waiting = {}, False
    for experiment_id, plan in plans.items():
        if plan.claim is None:
            told[experiment_id] = main_figure(plan, figures)
        elif time.monotonic() < until:
            judgement = judgement_here(lab, plan)
            told[experiment_id] = judgement.verdict if judgement is not None else ""
        else:
            told[experiment_id], waiting = NOT_YET, True
    return told, waiting


def look_again() -> None:
    """Draw the page again in a moment."""
    drawn = time.monotonic()
    st.fragment(_when_due, run_every=LOOK_S)(drawn)


def _when_due(drawn: float) -> None:
    if time.monotonic() - drawn > LOOK_S / 2:
        st.rerun()
