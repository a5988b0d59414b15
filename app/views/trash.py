"""Deletions on the page: take the last one back, and everything in the trash with what can be done about it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any

import streamlit as st

from app.errors import LabError, on_page
from app.experiments.listing import KINDS, kind_of
from app.home import EXPERIMENT_FILE, REPORT_FILE, Home
from app.lab import Lab
from app.reports import Report
from app.rights import Right, offered_with
from app.runs import trash
from app.runs.brief import brief_of
from app.words.plain import clock, counted, plain
from store.notes import Notes
from store.plan import read_plan
from telemetry.folder import NOTES
from telemetry.json_file import Unreadable, read_as

OFFERED_S = 3600.0  # how long the last deletion is offered back above the list; the trash keeps it for longer


@offered_with(Right.DELETE)
def undo_line(lab: Lab) -> None:
    """The last deletion, with a button that takes it back. It is read from the trash, so a reload or another tab shows
    it too.
    """
    complaint()
    for run_id in trash.trashed(lab.home)[:1]:
        if time.time() - trash.deleted_unix(lab.home, run_id) > OFFERED_S:
            return
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            st.markdown(f"Deleted: {plain(title_of(lab.home, run_id))}", width="stretch")
            st.button("Undo", icon=":material/undo:", key="undo-delete", on_click=attempt, args=(lab.restore, run_id))


@offered_with(Right.DELETE)
def trash_list(lab: Lab) -> None:
    """Everything in the trash: bring one back, remove one for good, remove all."""
    deleted = trash.trashed(lab.home)
    if not deleted:
        return
    with st.expander(f"Trash: {counted(len(deleted), 'deletion')}", icon=":material/delete:", key="trash"):
        st.caption(f"Removed for good {trash.KEEP_DAYS} days after the deletion, when the lab starts.")
        chosen = st.selectbox(
            "In the trash", deleted, format_func=lambda run_id: _line(lab.home, run_id), key="trashed"
        )
        with st.container(horizontal=True):
            st.button(
                "Bring it back",
                icon=":material/restore_from_trash:",
                key="trash-restore",
                on_click=attempt,
                args=(lab.restore, chosen),
            )
            with st.popover("Remove for good", icon=":material/delete_forever:"):
                st.markdown(f"{plain(title_of(lab.home, chosen))} cannot be had back then.")
                st.button(
                    "Remove this one",
                    key="trash-remove",
                    on_click=attempt,
                    args=(trash.delete_for_good, lab.home, chosen),
                )
                st.button(
                    f"Empty the trash: {len(deleted)}",
                    key="trash-empty",
                    on_click=attempt,
                    args=(trash.empty_trash, lab.home),
                )


def attempt(act: Callable[..., Any], *what: Any, then: Callable[[], None] | None = None, **how: Any) -> None:
    """Do what a button was pressed for, and ``then``; a refusal is shown by the next ``complaint``."""
    try:
        act(*what, **how)
    except LabError as error:
        st.session_state["refused"] = on_page(error)
    except OSError as error:  # a full disk, say
        st.session_state["refused"] = (
            f"The disk refuses: {error.strerror or error}. Free some space; deleting runs needs none."
        )
    else:
        if then is not None:
            then()


@offered_with(Right.DELETE)
def delete_damaged(words: str, delete: Callable[[str], Any], what: str) -> None:
    """A button that deletes what the page cannot show, and leaves for another."""
    complaint()
    st.button(
        words,
        key="delete-damaged",
        icon=":material/delete:",
        help="Can be undone on the Runs page.",
        on_click=attempt,
        args=(delete, what),
        kwargs={"then": st.query_params.clear},
    )


def complaint() -> None:
    """Why the last button's work was refused, if it was."""
    if "refused" in st.session_state:
        st.error(plain(st.session_state.pop("refused")), icon=":material/error:")


def title_of(home: Home, run_id: str) -> str:
    """What something in the trash was called."""
    folder = home.trash_dir(run_id)
    if (folder / REPORT_FILE).exists():
        with contextlib.suppress(FileNotFoundError, Unreadable):
            return f"the report “{read_as(Report, folder / REPORT_FILE).name}”"
        return f"the report {run_id}"
    try:
        named = read_as(Notes, folder / NOTES).name if (folder / NOTES).exists() else ""
    except (FileNotFoundError, Unreadable):
        named = ""
    if (folder / EXPERIMENT_FILE).exists():
        try:
            plan = read_plan(folder)
        except (FileNotFoundError, Unreadable):
            return f"the experiment “{named or run_id}”"
        return f"the {KINDS[kind_of(plan)]} “{named or plan.title}”"
    brief = brief_of(folder)
    return named or brief.title or brief.scenario or run_id


def _line(home: Home, run_id: str) -> str:
    return f"{title_of(home, run_id)} ({run_id}), deleted {clock(round(trash.deleted_unix(home, run_id) * 1e9))}"
