"""A report as one HTML file: notes and pinned charts, offline, and nothing in it can reach a network."""

from __future__ import annotations

from app.charts import CONFIG
from app.errors import LabError
from app.exports.html import fine_print, note_of, page, section, story, text_of
from app.home import Home
from app.reports import Pin, figure_of, read_report
from app.words.markdown import as_html
from app.words.plain import clock, counted


def pinned_report(home: Home, report_id: str) -> str:
    """The whole page. Raises ``LabError`` for an unknown or unreadable report."""
    report = read_report(home, report_id)
    about = f"{counted(len(report.pins), 'chart')} of {counted(len(report.runs), 'run')}."
    return page(
        report.name,
        [
            story(report.name, "", (), [about]),
            *([note_of(as_html(report.notes))] if report.notes.strip() else []),
            *(_chart(home, report_id, pin) for pin in report.pins),
            fine_print(f"Report {report_id}, changed {clock(report.changed_unix_ns)}."),
        ],
    )


def _chart(home: Home, report_id: str, pin: Pin) -> str:
    try:
        figure = figure_of(home, report_id, pin)
        drawing = figure.to_html(include_plotlyjs=False, full_html=False, config=CONFIG)
    except LabError as error:
        drawing = f"<p class='warning'>{text_of(error.message)}</p>"
    about = f"{pin.about} Pinned {clock(pin.pinned_unix_ns)}. {pin.explained}".strip()
    asked = f"{pin.sql}\n\n" + "\n".join(f"${name} = {value}" for name, value in pin.values.items())
    behind = f"<details><summary>SQL</summary><pre>{text_of(asked)}</pre></details>" if pin.sql else ""
    note = note_of(as_html(pin.note)) if pin.note.strip() else ""
    return section(pin.title, f"<figure>{drawing}</figure>{note}{behind}", about)
