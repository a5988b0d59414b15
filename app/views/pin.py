"""Pinning a chart: which report, and what is to be said of it."""

from __future__ import annotations

import time
from urllib.parse import urlencode

import streamlit as st

from app.components.pin_button import Offered
from app.errors import LabError, on_page
from app.lab import Lab, get_lab
from app.reports import LONGEST_NAME, LONGEST_NOTES, Pin, Report, create_report, list_reports, new_pin_id, pin_chart
from app.runs.facts import load_run
from app.words.plain import plain

NEW = "a new report"
LAST = "report-pinned-to"


@st.dialog("Pin this chart")
def pin_dialog(offered: Offered) -> None:
    """Ask for the report and a note, and pin it."""
    lab = get_lab()
    known = {report_id: report for report_id, report in list_reports(lab.home).items() if isinstance(report, Report)}
    last = st.session_state.get(LAST)
    choices = [*known, NEW]
    st.markdown(f"**{plain(offered.words.title)}**")
    chosen = st.selectbox(
        "Report",
        choices,
        index=choices.index(last) if last in choices else 0,
        format_func=lambda one: NEW if one == NEW else known[one].name,
        key="pin-report",
    )
    name = "" if chosen != NEW else st.text_input("Its name", key="pin-name", max_chars=LONGEST_NAME)
    note = st.text_area("Note", key="pin-note", max_chars=LONGEST_NOTES, placeholder="Markdown; may stay empty")
    if not st.button("Pin", type="primary", icon=":material/push_pin:", key="pin-now"):
        return
    try:
        report_id = create_report(lab.home, name) if chosen == NEW else chosen
        pin_chart(lab.home, report_id, pin_of(lab, offered, note), offered.figure)
    except LabError as error:
        st.error(plain(on_page(error)))
        return
    st.session_state[LAST] = report_id
    st.success("Pinned.", icon=":material/check:")
    st.page_link("pages/reports.py", label="Open the report", query_params={"report": report_id})


def pin_of(lab: Lab, offered: Offered, note: str) -> Pin:
    """The chart with where it comes from: its runs in words, and the address of its page."""
    parameters = {name: st.query_params.get_all(name) for name in st.query_params}
    return Pin(
        pin_id=new_pin_id(),
        title=offered.words.title,
        explained=offered.words.explained[:4000],
        about=" ".join([*(_run_in_words(lab, run) for run in offered.runs), offered.summary])[:4000],
        runs=offered.runs,
        address=f"?{urlencode(parameters, doseq=True)}"[:4000],
        sql=offered.query.sql[:20_000],
        values={name: repr(value)[:4000] for name, value in offered.query.parameters.items()},
        dark=st.context.theme.type == "dark",
        note=note,
        pinned_unix_ns=time.time_ns(),
    )


def _run_in_words(lab: Lab, run_id: str) -> str:
    try:
        facts = load_run(lab.home, run_id)
    except LabError:
        return f"Run {run_id}."
    return f"{facts.heading}, {facts.switches} (run {run_id})."
