"""What can be done with the run or the experiment that was chosen in the list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from app.errors import LabError
from app.experiments.drive import pause, resume
from app.experiments.listing import KINDS, Entry, kind_in_list, title_of
from app.experiments.missing_runs import what_rests_on
from app.lab import Lab
from app.rights import Right, offered_with
from app.runs.facts import RunFacts, load_run
from app.runs.notes import write_notes
from app.views.exchange_settings import run_settings_links
from app.views.experiments import take_away
from app.views.latest import page_of
from app.views.run_filters import show_runs_of
from app.views.trash import attempt
from app.words.plain import plain
from store.notes import LONGEST, MOST_TAGS
from telemetry.refusal import in_words
from telemetry.status import FINAL_STATES


def chosen_one(lab: Lab, entry: Entry, known_tags: Sequence[str]) -> None:
    """Draw it. ``known_tags``: what is offered beside new ones."""
    with st.container(border=True, key="chosen"):
        st.markdown(f"**{plain(title_of(entry))}**")
        st.caption(plain(f"{KINDS[kind_in_list(entry)]} {entry['id']}"))
        error = entry.get("error") or {}
        if error.get("message"):
            st.error(plain(in_words(error)))
        if entry["problem"]:
            st.warning(plain(f"Damaged: {entry['problem']}."), icon=":material/warning:")
        with st.container(horizontal=True, vertical_alignment="center"):
            _open(entry)
            if entry["kind"] == "run":
                facts = facts_of(lab, entry["id"])
                if facts is not None:
                    run_settings_links(facts)
            _words(lab, entry)
            st.button(
                "Unpin" if entry["pinned"] else "Pin",
                icon=":material/keep_off:" if entry["pinned"] else ":material/keep:",
                key=f"keep-{entry['id']}",
                help="A pinned run is never deleted to make room.",
                on_click=attempt,
                args=(write_notes, lab.home, entry["id"]),
                kwargs={"pinned": not entry["pinned"]},
            )
            if entry["kind"] == "run":
                _cancel(lab, entry)
            else:
                _stop_or_go_on(lab, entry)
            _delete(lab, entry)
        _tags(lab, entry, known_tags)
        if entry["notes"]:
            st.markdown(plain(entry["notes"]))
        if entry["status"] == "finished":
            take_away(lab, entry["id"], None)


def facts_of(lab: Lab, run_id: str) -> RunFacts | None:
    """None for a run that is gone or damaged."""
    try:
        return load_run(lab.home, run_id)
    except LabError:
        return None


def _open(entry: Entry) -> None:
    """Links to the pages that show it."""
    page, to = page_of(entry)
    _link(page, "Open", to)
    if entry["kind"] == "verdict":
        _link("pages/compare.py", "The runs, compared", {"experiment": entry["id"]}, ":material/balance:")
    if entry["kind"] != "run":
        st.button(
            "Its runs",
            icon=":material/list:",
            key=f"runs-of-{entry['id']}",
            help="Lists the runs of this experiment.",
            on_click=show_runs_of,
            args=(entry["id"],),
        )


def _link(page: str, label: str, to: dict[str, str], icon: str = ":material/open_in_new:") -> None:
    st.page_link(page, label=label, icon=icon, query_params=to, width="content")


@offered_with(Right.RENAME)
def _words(lab: Lab, entry: Entry) -> None:
    """A name and notes."""
    with st.popover("Rename", icon=":material/edit:"), st.form(f"rename-{entry['id']}", border=False):
        name = st.text_input("Name", value=entry["name"], max_chars=LONGEST["name"])
        if st.form_submit_button("Save"):
            attempt(write_notes, lab.home, entry["id"], name=name)
            st.rerun()
    with st.popover("Notes", icon=":material/notes:"), st.form(f"notes-{entry['id']}", border=False):
        text = st.text_area("Notes", value=entry["notes"], max_chars=LONGEST["notes"])
        if st.form_submit_button("Save"):
            attempt(write_notes, lab.home, entry["id"], notes=text)
            st.rerun()


@offered_with(Right.RENAME)
def _tags(lab: Lab, entry: Entry, known: Sequence[str]) -> None:
    key = f"tags-{entry['id']}"
    st.multiselect(
        "Tags",
        list(dict.fromkeys([*known, *entry["tags"]])),
        default=entry["tags"],
        key=key,
        accept_new_options=True,
        max_selections=MOST_TAGS,
        placeholder="type one and press Enter",
        help="Words of your own, to find it by.",
        on_change=_keep_tags,
        args=(lab, entry["id"], key),
    )


def _keep_tags(lab: Lab, name: str, key: str) -> None:
    attempt(write_notes, lab.home, name, tags=st.session_state[key])
    del st.session_state[key]  # drawn anew from what is kept, which after a refusal is what was there


@offered_with(Right.CANCEL)
def _cancel(lab: Lab, entry: Entry) -> None:
    if entry["status"] not in FINAL_STATES:
        st.button(
            "Cancel",
            icon=":material/stop_circle:",
            key=f"cancel-{entry['id']}",
            on_click=attempt,
            args=(lab.queue.cancel, entry["id"]),
        )


@offered_with(Right.CANCEL)
def _stop_or_go_on(lab: Lab, entry: Entry) -> None:
    if entry["status"] == "running":
        st.button(
            "Stop",
            icon=":material/stop_circle:",
            key=f"stop-{entry['id']}",
            help="What is done is kept; it can go on later.",
            on_click=attempt,
            args=(pause, lab.home, entry["id"], lab.queue.cancel),
        )
    elif entry["status"] == "paused":
        st.button(
            "Go on",
            icon=":material/play_arrow:",
            key=f"resume-{entry['id']}",
            on_click=attempt,
            args=(_go_on, lab, entry["id"]),
        )


def _go_on(lab: Lab, experiment_id: str) -> None:
    resume(lab.home, experiment_id)
    lab.experimenter.take_up(experiment_id)


@offered_with(Right.DELETE)
def _delete(lab: Lab, entry: Entry) -> None:
    """Deletes at once what nothing rests on; says first what does."""
    name, is_a_run = entry["id"], entry["kind"] == "run"
    act = lab.delete if is_a_run else lab.delete_experiment
    button: dict[str, Any] = {"key": f"delete-{name}", "on_click": attempt, "args": (act, name)}
    cost = what_rests_on(lab.home, name, entry["experiment_id"]) if is_a_run else None
    if cost is None:
        about = "Can be undone." if is_a_run else "Can be undone. Its runs stay."
        st.button("Delete", icon=":material/delete:", help=about, **button)
        return
    with st.popover("Delete", icon=":material/delete:"):
        st.markdown(plain(cost))
        st.button("Delete it all the same", help="Can be undone.", **button)
