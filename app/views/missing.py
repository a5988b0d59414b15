"""What is not there: deleted runs that a page asks for, rows that do not come. Said with what is left and how to have
it again.
"""

from __future__ import annotations

import time

import duckdb
import streamlit as st

from app.errors import LabError, on_page
from app.experiments.missing_runs import Missing, serve_again, without
from app.experiments.plan import Experiment
from app.lab import Lab
from app.rights import Right, may, offered_with
from app.views.trash import attempt, complaint, delete_damaged
from app.words.plain import counted, plain
from store import queries

PATIENCE_S = 20.0  # for rows that are on their way: they take less than one on a machine that is not swamped


def say_missing(lab: Lab, experiment: Experiment, missing: tuple[Missing, ...]) -> None:
    """Which runs of an experiment are gone, what it rests on without them, and buttons that bring them back or serve
    them again.
    """
    complaint()
    if not missing:
        return
    named = "; ".join(gone.words for gone in missing)
    if experiment.kind == "capacity":
        left = "Their figures are kept in the search; the runs themselves cannot be opened."
    else:
        repeats = without(experiment, missing).complete_repeats()
        rests = "no repeat is left that every side has" if not repeats else f"what is below rests on {repeats}"
        left = f"Of {counted(experiment.repeats, 'repeat')} {rests}."
    st.warning(
        plain(f"{counted(len(missing), 'run')} of this comparison deleted: {named}. {left}"), icon=":material/delete:"
    )
    back = [gone.turn.run_id for gone in missing if gone.in_trash]
    with st.container(horizontal=True):
        if back and may(Right.DELETE):
            st.button(
                f"Bring back {counted(len(back), 'run')}",
                icon=":material/restore_from_trash:",
                key="missing-restore",
                on_click=_bring_back,
                args=(lab, back),
            )
        may_serve = may(Right.MEASURE) and experiment.state != "running"
        if len(back) < len(missing) and may_serve and experiment.kind != "capacity":
            st.button(
                "Serve again what is gone for good",
                icon=":material/replay:",
                key="missing-again",
                help="The same requests with the same settings, in a new run.",
                on_click=attempt,
                args=(_serve_again, lab, experiment.experiment_id),
            )


def damaged_run(lab: Lab, run_id: str, error: LabError) -> None:
    """In place of a run's page: what is wrong with its files, and a button that deletes it."""
    st.error(plain(on_page(error)), icon=":material/search_off:")
    st.page_link("pages/runs.py", label="All runs", icon=":material/list:")
    if error.kind == "deleted-run":
        deleted_run(lab, run_id)
    if error.kind == "bad-spec":
        delete_damaged("Delete this run", lab.delete, run_id)


@offered_with(Right.DELETE)
def deleted_run(lab: Lab, run_id: str) -> None:
    """In place of a run that is in the trash: a button that brings it back."""
    complaint()
    st.button(
        "Bring it back",
        icon=":material/restore_from_trash:",
        key="bring-back",
        on_click=attempt,
        args=(lab.restore, run_id),
    )


def rows_to_come(con: duckdb.DuckDBPyConnection, run_ids: list[str]) -> list[str]:
    """Those of the runs whose last rows the database has not taken in."""
    return [run_id for run_id in run_ids if (queries.run(con, run_id) or {}).get("figures") is None]


def rows_of(lab: Lab, experiments: list[Experiment]) -> list[str]:
    """Finished runs of experiments whose rows the database has not taken in."""
    runs = [run for one in experiments for variant in one.variants for run in one.runs_of(variant.name)]
    with lab.cursor() as con:
        return rows_to_come(con, runs)


def wait_for_rows(lab: Lab, runs: list[str]) -> None:
    """Say that rows are on their way, until the database has them; then the page is drawn again."""
    st.fragment(_until_read, run_every=0.5)(lab, runs, time.monotonic())


def _until_read(lab: Lab, runs: list[str], since: float) -> None:
    with lab.cursor() as con:
        waiting = rows_to_come(con, runs)
    if not waiting or not all(lab.home.run_dir(run_id).is_dir() for run_id in waiting):
        st.rerun()
    say_waiting(lab, waiting, since)
    st.skeleton(height=160)


def say_waiting(lab: Lab, waiting: list[str], since: float) -> None:
    """That rows are on their way; after a while that they do not come, whose, and why as far as it is known."""
    if time.monotonic() - since < PATIENCE_S:
        st.caption(f"Reading the last rows of {counted(len(waiting), 'run')}")
        return
    known = [lab.collector.problem, *(lab.collector.problems.get(run_id) for run_id in waiting)]
    why = " ".join(words for words in known if words) or "Their folders may be damaged; servescope show says more."
    st.warning(plain(f"The last rows of {', '.join(waiting)} do not come. {why}"), icon=":material/hourglass_disabled:")


def _bring_back(lab: Lab, run_ids: list[str]) -> None:
    for run_id in run_ids:
        attempt(lab.restore, run_id)


def _serve_again(lab: Lab, experiment_id: str) -> None:
    serve_again(lab.home, experiment_id)
    lab.experimenter.take_up(experiment_id)
