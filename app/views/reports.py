"""Reports on the page: the list, and one report with its charts and notes."""

from __future__ import annotations

from typing import Any

import streamlit as st

from app.charts import CONFIG
from app.components.chart_card import page_palette
from app.errors import LabError, on_page
from app.exports.pinned_report import pinned_report
from app.lab import Lab
from app.reports import (
    LONGEST_NAME,
    LONGEST_NOTES,
    Pin,
    Report,
    create_report,
    delete_report,
    figure_of,
    list_reports,
    move_pin,
    put_back,
    read_report,
    rename_report,
    take_out,
    write_report_notes,
)
from app.views.trash import attempt, complaint, delete_damaged, undo_line
from app.words.markdown import as_html
from app.words.plain import clock, counted, plain

TAKEN = "pin-taken-out"


def report_list(lab: Lab) -> None:
    """Draw every report, the one changed last first, and a button that begins one."""
    undo_line(lab)
    reports = list_reports(lab.home)
    if not reports:
        st.info("There is no report yet. Every chart has a **Pin** beneath it that puts it into one.")
    for report_id, report in reports.items():
        with st.container(border=True, horizontal=True, vertical_alignment="center"):
            if isinstance(report, LabError):
                st.markdown(plain(on_page(report)), width="stretch")
            else:
                st.page_link(
                    "pages/reports.py",
                    label=plain(report.name),
                    icon=":material/article:",
                    query_params={"report": report_id},
                    width="stretch",
                )
                about = f"{counted(len(report.pins), 'chart')} of {counted(len(report.runs), 'run')}, "
                st.caption(about + f"changed {clock(report.changed_unix_ns)}", width="content")
            _delete(lab, report_id)
    with st.form("new-report", border=False), st.container(horizontal=True, vertical_alignment="bottom"):
        name = st.text_input("A new report", max_chars=LONGEST_NAME, placeholder="its name", key="new-report-name")
        if st.form_submit_button("Begin", icon=":material/add:"):
            attempt(create_report, lab.home, name)
            st.rerun()


def report_page(lab: Lab, report_id: str) -> None:
    """Draw one report; what is wrong with one that cannot be read, with a button that deletes it."""
    st.page_link("pages/reports.py", label="All reports", icon=":material/arrow_back:")
    try:
        report = read_report(lab.home, report_id)
    except LabError as error:
        st.error(plain(on_page(error)), icon=":material/search_off:")
        undo_line(lab)
        if error.kind == "bad-report":
            delete_damaged("Delete this report", lambda name: delete_report(lab.home, name), report_id)
        return
    complaint()
    st.title(plain(report.name), anchor=False)
    _what_can_be_done(lab, report_id, report)
    _notes(lab, report_id, report.notes, None)
    _taken_out(lab, report_id)
    if not report.pins:
        st.info("No chart is pinned here yet. Every chart of a run or a comparison has a **Pin** beneath it.")
    for place, pin in enumerate(report.pins):
        _chart(lab, report_id, pin, place, len(report.pins))


def _what_can_be_done(lab: Lab, report_id: str, report: Report) -> None:
    with st.container(horizontal=True):
        st.download_button(
            "One HTML file",
            data=lambda: pinned_report(lab.home, report_id),
            file_name=f"{report_id}.html",
            mime="text/html",
            icon=":material/download:",
            type="primary",
            key="export-report",
            on_click="ignore",
            help="Opens anywhere, offline; charts still hover and zoom.",
        )
        with st.popover("Rename", icon=":material/edit:"), st.form("rename-report", border=False):
            name = st.text_input("Name", value=report.name, max_chars=LONGEST_NAME)
            if st.form_submit_button("Save"):
                attempt(rename_report, lab.home, report_id, name)
                st.rerun()
        _delete(lab, report_id)


def _delete(lab: Lab, report_id: str) -> None:
    st.button(
        "Delete",
        icon=":material/delete:",
        key=f"delete-{report_id}",
        help="Can be undone. Its runs stay.",
        on_click=attempt,
        args=(delete_report, lab.home, report_id),
        kwargs={"then": st.query_params.clear},
    )


def _notes(lab: Lab, report_id: str, notes: str, pin_id: str | None) -> None:
    """Notes as they read, and a place to write them."""
    if notes.strip():
        st.html(as_html(notes))
    key = f"notes-{report_id}-{pin_id}"
    words = "Change the notes" if notes.strip() else "Write notes"
    with st.popover(words, icon=":material/notes:", key=f"open-{key}"), st.form(key, border=False):
        text = st.text_area("Notes", value=notes, max_chars=LONGEST_NOTES, height=240, help="Markdown.")
        if st.form_submit_button("Save"):
            attempt(write_report_notes, lab.home, report_id, text, pin_id)
            st.rerun()


def _chart(lab: Lab, report_id: str, pin: Pin, place: int, count: int) -> None:
    with st.container(border=True, key=f"card-{pin.pin_id}"):
        with st.container(horizontal=True, vertical_alignment="center"):
            st.markdown(f"**{plain(pin.title)}**", help=plain(pin.explained) or None, width="stretch")
            for words, icon, by in (("Up", "arrow_upward", -1), ("Down", "arrow_downward", 1)):
                st.button(
                    words,
                    icon=f":material/{icon}:",
                    type="tertiary",
                    key=f"{words}-{pin.pin_id}",
                    disabled=not 0 <= place + by < count,
                    on_click=attempt,
                    args=(move_pin, lab.home, report_id, pin.pin_id, by),
                )
            st.button(
                "Take out",
                icon=":material/remove:",
                type="tertiary",
                key=f"out-{pin.pin_id}",
                on_click=_take,
                args=(lab, report_id, pin, place),
            )
        st.caption(plain(f"{pin.about} Pinned {clock(pin.pinned_unix_ns)}."))
        try:
            figure = figure_of(lab.home, report_id, pin, page_palette())
        except LabError as error:
            st.error(plain(on_page(error)), icon=":material/broken_image:")
        else:
            st.plotly_chart(
                figure, config=CONFIG, theme=None, key=f"chart-{pin.pin_id}", alt=f"{pin.title}. {pin.about}"
            )
        _notes(lab, report_id, pin.note, pin.pin_id)
        with st.container(horizontal=True):
            for run in pin.runs:
                there = lab.home.run_dir(run).is_dir()
                if there:
                    st.page_link("pages/live.py", label=f"Run {run}", query_params={"run": run}, width="content")
                else:
                    st.caption(f"Run {run} is gone; the chart stays as it was.", width="content")


def _take(lab: Lab, report_id: str, pin: Pin, place: int) -> None:
    def kept() -> None:
        st.session_state[TAKEN] = (report_id, pin, place)

    attempt(take_out, lab.home, report_id, pin.pin_id, then=kept)


def _taken_out(lab: Lab, report_id: str) -> None:
    """The chart that was taken out last, with a button that puts it back."""
    taken: Any = st.session_state.get(TAKEN)
    if taken is None or taken[0] != report_id:
        return

    def back() -> None:
        attempt(put_back, lab.home, *st.session_state.pop(TAKEN))

    with st.container(border=True, horizontal=True, vertical_alignment="center"):
        st.markdown(f"Taken out: {plain(taken[1].title)}", width="stretch")
        st.button("Undo", icon=":material/undo:", key="undo-taken", on_click=back)
