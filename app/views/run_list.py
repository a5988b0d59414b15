"""The list of runs: open, rename, delete, and take a deletion back."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.errors import LabError, on_page
from app.experiments.missing_runs import what_rests_on
from app.lab import Lab
from app.runs.facts import RunFacts, load_run
from app.runs.listing import list_runs
from app.runs.notes import write_notes
from app.runs.run_figures import COLUMNS, ONE_RUN, USUAL, figure, settings_apart, side_by_side
from app.views.exchange_settings import run_settings_links
from app.views.experiments import take_away
from app.views.missing import deleted_run
from app.views.trash import attempt, delete_damaged, trash_list, undo_line
from app.words.plain import clock, counted, plain
from app.words.states import STATES
from store import queries
from store.notes import LONGEST
from telemetry.refusal import in_words

NEWEST = 200
MOST_SUMMARIES = 1000


def run_list(lab: Lab) -> None:
    """Draw the list, newest first; a chosen row shows what can be done with it."""
    undo_line(lab)
    runs = list_runs(lab.home)
    if runs:
        _table(lab, runs)
    else:
        st.info("There is no run yet. Start one on the Live page.")
    trash_list(lab)


def _table(lab: Lab, runs: list[dict[str, Any]]) -> None:
    matching, columns = _filtered(runs)
    about = "Choose a row to open, rename or delete it; choose several to see them side by side."
    st.caption(f"{counted(len(matching), 'run')}. {about}")
    shown = matching[:NEWEST]
    with lab.database.read() as con:
        summaries = {row["run_id"]: row["figures"] for row in queries.runs(con, MOST_SUMMARIES)} if columns else {}
    chosen = st.dataframe(
        [
            _row(lab, run, {COLUMNS[name]: figure(summaries.get(run["run_id"]), name) for name in columns})
            for run in shown
        ],
        hide_index=True,
        # A selection is kept by place: with other runs in the list it would stand on another run, so it begins anew.
        key=f"run-table-{hash(tuple(run['run_id'] for run in shown))}",
        on_select="rerun",
        selection_mode="multi-row",
        column_config={
            "output tokens": st.column_config.NumberColumn(format="localized"),
            "labels": st.column_config.ListColumn(),
        },
        alt=f"{counted(len(shown), 'run')}, newest first",
    )
    picked = [shown[row] for row in chosen["selection"]["rows"] if row < len(shown)]
    if len(picked) == 1:
        _actions(lab, picked[0])
    elif picked:
        _side_by_side(lab, picked)


def _filtered(runs: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """The runs that are asked for, and the figures that are columns."""
    wanted = st.text_input(
        "Search", key="run-search", placeholder="name, notes, scenario, label, model or id", live=True
    )
    with st.container(horizontal=True, vertical_alignment="bottom"):
        names = list(COLUMNS)
        columns = st.multiselect(
            "Figures", names, list(USUAL), format_func=lambda name: COLUMNS[name], key="run-columns"
        )
        states = sorted({run["status"] for run in runs})
        state = st.multiselect("State", states, format_func=lambda one: STATES.get(one, (one,))[0], key="run-states")
        warm_ups = st.toggle("Warm-ups", key="run-warm-ups", help="Runs before a comparison that count for nothing")
    matching = [
        run
        for run in runs
        if (wanted or "").lower() in _haystack(run)
        and (not state or run["status"] in state)
        and (warm_ups or "warm-up" not in run["labels"])
    ]
    return matching, list(columns)


def _side_by_side(lab: Lab, runs: list[dict[str, Any]]) -> None:
    """Figures and settings of the chosen runs, a column for each."""
    with st.container(border=True, key="side-by-side"):
        st.markdown(f"**{counted(len(runs), 'run')} side by side**")
        st.caption(ONE_RUN)
        with lab.database.read() as con:
            rows = [(_title(run), (queries.run(con, run["run_id"]) or {}).get("figures")) for run in runs]
        st.dataframe(side_by_side(rows), hide_index=True, height="content", alt="Figures of the chosen runs")
        known = [(_title(run), facts) for run in runs if (facts := _facts(lab, run["run_id"])) is not None]
        apart = settings_apart(known)
        if apart:
            st.dataframe(apart, hide_index=True, height="content", alt="Settings in which the chosen runs differ")
        else:
            st.caption("They were served with the same settings.")
        workloads = {facts.spec.workload_hash for _, facts in known}
        if len(workloads) > 1:
            st.warning("They were asked different requests.", icon=":material/warning:")


def _actions(lab: Lab, run: dict[str, Any]) -> None:
    run_id = run["run_id"]
    facts = _facts(lab, run_id)
    with st.container(border=True):
        st.markdown(f"**{plain(_title(run))}**")
        error = run.get("error") or {}
        if error.get("message"):
            st.error(plain(in_words(error)))
        if run["problem"]:
            st.warning(plain(f"Damaged: {run['problem']}."), icon=":material/warning:")
        with st.container(horizontal=True, vertical_alignment="bottom"):
            st.page_link(
                "pages/live.py",
                label="Open",
                icon=":material/open_in_new:",
                query_params={"run": run_id},
                width="content",
            )
            if facts is not None:
                run_settings_links(facts)
            with st.popover("Rename", icon=":material/edit:"), st.form(f"rename-{run_id}", border=False):
                name = st.text_input("Name", value=run["name"], max_chars=120)
                if st.form_submit_button("Save"):
                    attempt(write_notes, lab.home, run_id, name=name)
                    st.rerun()
            with st.popover("Notes", icon=":material/notes:"), st.form(f"notes-{run_id}", border=False):
                text = st.text_area("Notes", value=run["notes"], max_chars=LONGEST["notes"])
                if st.form_submit_button("Save"):
                    attempt(write_notes, lab.home, run_id, notes=text)
                    st.rerun()
            if run["status"] in ("queued", "starting", "loading", "running"):
                st.button(
                    "Cancel",
                    icon=":material/stop_circle:",
                    key=f"cancel-{run_id}",
                    on_click=attempt,
                    args=(lab.queue.cancel, run_id),
                )
            _delete_button(lab, run)
        if run["notes"]:
            st.markdown(plain(run["notes"]))
        if run["status"] == "finished":
            take_away(lab, run_id, None)


def _delete_button(lab: Lab, run: dict[str, Any]) -> None:
    """Deletes at once what nothing rests on; says first what does."""
    run_id = run["run_id"]
    delete: dict[str, Any] = {"key": f"delete-{run_id}", "on_click": attempt, "args": (lab.delete, run_id)}
    cost = what_rests_on(lab.home, run_id, run["experiment_id"])
    if cost is None:
        st.button("Delete", icon=":material/delete:", help="Can be undone.", **delete)
        return
    with st.popover("Delete", icon=":material/delete:"):
        st.markdown(plain(cost))
        st.button("Delete it all the same", help="Can be undone.", **delete)


def damaged_run(lab: Lab, run_id: str, error: LabError) -> None:
    """In place of a run's page: what is wrong with its files, and a button that deletes it."""
    st.error(plain(on_page(error)), icon=":material/search_off:")
    st.page_link("pages/runs.py", label="All runs", icon=":material/list:")
    if error.kind == "deleted-run":
        deleted_run(lab, run_id)
    if error.kind == "bad-spec":
        delete_damaged("Delete this run", lab.delete, run_id)


def _row(lab: Lab, run: dict[str, Any], figures: dict[str, float | None]) -> dict[str, Any]:
    return {
        "run": _title(run),
        "switches": _switches(lab, run["run_id"]),
        "state": STATES.get(run["status"], (run["status"],))[0],
        "started": clock(run["started_unix_ns"] or run["created_unix_ns"]),
        "requests": f"{run['requests_done']} of {run['requests_total']}",
        **figures,
        "output tokens": run["output_tokens"],
        "model": run["model"],
        "labels": run["labels"],
        "id": run["run_id"],
    }


def _switches(lab: Lab, run_id: str) -> str:
    facts = _facts(lab, run_id)
    return "the spec cannot be read" if facts is None else facts.switches


def _facts(lab: Lab, run_id: str) -> RunFacts | None:
    """None for a run that is gone or damaged."""
    try:
        return load_run(lab.home, run_id)
    except LabError:
        return None


def _title(run: dict[str, Any]) -> str:
    return str(run["name"] or run["title"] or run["scenario"] or run["run_id"])


def _haystack(run: dict[str, Any]) -> str:
    return " ".join(
        [_title(run), run["notes"], run["scenario"], run["model"], run["run_id"], run["status"], *run["labels"]]
    ).lower()
