"""Reports: charts that were pinned, of one run or of several, with notes in Markdown: ``HOME/reports/<report_id>/``.

``report.json`` is the report, ``pin-<pin_id>.json`` the figure of a chart as it was when it was pinned: a report says
the same after its runs are gone.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Annotated, Literal

import plotly.graph_objects as go
import plotly.io
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field

from app.charts.repaint import repainted
from app.errors import LabError, nearest
from app.home import REPORT_FILE, Home
from app.rights import Right, needs
from app.runs.trash import move_to_trash
from app.theme import DARK, LIGHT, Palette
from telemetry.folder import RUN_ID
from telemetry.json_file import Nanoseconds, Unreadable, read_as, read_bounded, write_json

LONGEST_NAME, LONGEST_NOTES = 120, 100_000  # characters
MOST_PINS = 100
MOST_FIGURE_BYTES = 8 << 20
Name = Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)]
Notes = Annotated[str, Field(max_length=LONGEST_NOTES)]
Line = Annotated[str, Field(max_length=4000)]


class Pin(BaseModel):
    """A chart of a report. ``about``: what it shows, in words; ``address``: of the page it stood on."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pin_id: Annotated[str, Field(pattern=r"^[0-9a-f]{8}$")]
    title: Line
    explained: Line = ""
    about: Line = ""
    runs: tuple[Annotated[str, Field(pattern=f"^{RUN_ID.pattern}$")], ...] = ()
    address: Line = ""
    sql: Annotated[str, Field(max_length=20_000)] = ""
    values: dict[str, Line] = Field(default_factory=dict)
    dark: bool = False
    note: Notes = ""
    pinned_unix_ns: Nanoseconds


class Report(BaseModel):
    """The whole of ``report.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    name: Name
    notes: Notes = ""
    created_unix_ns: Nanoseconds
    changed_unix_ns: Nanoseconds
    pins: Annotated[tuple[Pin, ...], Field(max_length=MOST_PINS)] = ()

    @property
    def runs(self) -> tuple[str, ...]:
        """Ids of the runs that its charts show, each once."""
        return tuple(dict.fromkeys(run for pin in self.pins for run in pin.runs))


@needs(Right.KEEP)
def create_report(home: Home, name: str) -> str:
    """Begin a report; its id. Raises ``LabError`` for a name that cannot be, or a disk that refuses."""
    now = time.time_ns()
    report = Report(name=checked_name(name), created_unix_ns=now, changed_unix_ns=now)
    report_id = f"report-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    with _written(report_id):
        home.report_dir(report_id).mkdir(mode=0o700, parents=True)
        write_json(home.report_dir(report_id) / REPORT_FILE, report)
    return report_id


def read_report(home: Home, report_id: str) -> Report:
    """The report. Raises ``LabError`` for an unknown or unreadable one."""
    try:
        return read_as(Report, home.report_dir(report_id) / REPORT_FILE)
    except FileNotFoundError:
        trashed = (home.trash_dir(report_id) / REPORT_FILE).exists()
        close = nearest(report_id, home.report_ids())
        raise LabError(
            "unknown-report",
            field="report",
            value=report_id,
            message=f"The report {report_id} was deleted." if trashed else f"There is no report {report_id!r}.",
            mend=f"servescope restore {report_id} brings it back."
            if trashed
            else (f"Nearest: {', '.join(close)}." if close else "Pin a chart to begin one."),
        ) from None
    except Unreadable as error:
        raise LabError(
            "bad-report",
            field="report",
            value=report_id,
            message=f"Of the report {report_id}, {error}.",
            mend="Delete it; it can be brought back from the trash.",
        ) from error


def list_reports(home: Home) -> dict[str, Report | LabError]:
    """Every report by its id, the one changed last first; of one that cannot be read, why."""
    told: dict[str, Report | LabError] = {}
    for report_id in home.report_ids():
        try:
            told[report_id] = read_report(home, report_id)
        except LabError as error:
            told[report_id] = error
    return dict(sorted(told.items(), key=lambda item: _changed(item[1]), reverse=True))


@needs(Right.KEEP)
def change_report(home: Home, report_id: str, change: Callable[[Report], Report]) -> Report:
    """Read, change and write a report while nobody else does. Raises ``LabError`` as ``read_report`` does."""
    with FileLock(home.locks / f"{report_id}.lock"):
        report = change(read_report(home, report_id)).model_copy(update={"changed_unix_ns": time.time_ns()})
        with _written(report_id):
            write_json(home.report_dir(report_id) / REPORT_FILE, report)
    return report


def rename_report(home: Home, report_id: str, name: str) -> None:
    kept = checked_name(name)
    change_report(home, report_id, lambda report: report.model_copy(update={"name": kept}))


def write_report_notes(home: Home, report_id: str, notes: str, pin_id: str | None = None) -> None:
    """The notes above all charts, or beneath one of them. Raises ``LabError`` where they are too long."""
    kept = checked_notes(notes)
    if pin_id is None:
        change_report(home, report_id, lambda report: report.model_copy(update={"notes": kept}))
    else:
        change_report(home, report_id, lambda report: _with_pin(report, pin_id, kept))


@needs(Right.KEEP)
def pin_chart(home: Home, report_id: str, pin: Pin, figure: go.Figure) -> None:
    """Add a chart at the end. Raises ``LabError`` for an unknown report, a full one, or a figure that is too large."""
    data = figure.to_json()
    if len(data) > MOST_FIGURE_BYTES:
        raise LabError(
            "figure-too-large",
            field="chart",
            value=pin.title,
            message=f"This chart has {len(data) / 2**20:.0f} MiB; a report takes {MOST_FIGURE_BYTES // 2**20} MiB of "
            "each.",
            mend="Zoom does not make it smaller; take its data as CSV.",
        )

    def add(report: Report) -> Report:
        if len(report.pins) >= MOST_PINS:
            raise LabError(
                "report-full",
                field="report",
                value=report.name,
                message=f"A report holds {MOST_PINS} charts; this one is full.",
                mend="Begin another one.",
            )
        return report.model_copy(update={"pins": (*report.pins, pin)})

    path = home.report_dir(report_id) / f"pin-{pin.pin_id}.json"
    read_report(home, report_id)
    with _written(report_id):
        path.write_text(data, encoding="utf-8")
    try:
        change_report(home, report_id, add)
    except LabError:
        path.unlink(missing_ok=True)
        raise


def take_out(home: Home, report_id: str, pin_id: str) -> None:
    """Take a chart out; its figure stays in the folder until the report is deleted for good, so it can be put back."""
    change_report(
        home, report_id, lambda r: r.model_copy(update={"pins": tuple(p for p in r.pins if p.pin_id != pin_id)})
    )


@needs(Right.KEEP)
def put_back(home: Home, report_id: str, pin: Pin, place: int) -> None:
    """Put a chart that was taken out where it stood."""
    change_report(
        home,
        report_id,
        lambda r: (
            r.model_copy(update={"pins": (*r.pins[:place], pin, *r.pins[place:])})
            if pin.pin_id not in {p.pin_id for p in r.pins}
            else r
        ),
    )


def move_pin(home: Home, report_id: str, pin_id: str, by: int) -> None:
    """Move a chart up (-1) or down (1); at an end it stays."""

    def moved(report: Report) -> Report:
        pins = list(report.pins)
        at = next((place for place, pin in enumerate(pins) if pin.pin_id == pin_id), None)
        if at is not None and 0 <= at + by < len(pins):
            pins[at], pins[at + by] = pins[at + by], pins[at]
        return report.model_copy(update={"pins": tuple(pins)})

    change_report(home, report_id, moved)


def figure_of(home: Home, report_id: str, pin: Pin, colours: Palette | None = None) -> go.Figure:
    """The chart as it was pinned, on the background of its theme; ``colours``: in those of the page that shows it.
    Raises ``LabError`` where its file is missing or holds no figure.
    """
    path = home.report_dir(report_id) / f"pin-{pin.pin_id}.json"
    try:
        drawing = read_bounded(path, MOST_FIGURE_BYTES).decode()
        if colours is not None:
            drawing = repainted(drawing, dark=pin.dark, colours=colours)
        figure = plotly.io.from_json(drawing)
    except (FileNotFoundError, Unreadable, ValueError, TypeError) as error:
        raise LabError(
            "bad-report",
            field=path.name,
            value=pin.title,
            message=f"The chart {pin.title!r} cannot be read: {str(error).splitlines()[0][:200]}.",
            mend="Take it out and pin it again.",
        ) from error
    background = (colours or (DARK if pin.dark else LIGHT)).background
    return figure.update_layout(paper_bgcolor=background, plot_bgcolor=background)


@needs(Right.DELETE)
def delete_report(home: Home, report_id: str) -> None:
    """Move a report to the trash, readable or not. Raises ``LabError`` for an unknown one."""
    if report_id not in home.report_ids():
        read_report(home, report_id)
    move_to_trash(home.report_dir(report_id), home.trash_dir(report_id))


def new_pin_id() -> str:
    return secrets.token_hex(4)


def checked_name(name: str) -> str:
    """The name without space around it. Raises ``LabError`` for none, or a long one."""
    kept = " ".join(name.split())
    if not 1 <= len(kept) <= LONGEST_NAME:
        raise LabError(
            "bad-name",
            field="name",
            value=kept[:80],
            message=f"A report's name has 1 to {LONGEST_NAME} characters; this has {len(kept)}.",
            mend="Give it another one.",
        )
    return kept


def checked_notes(notes: str) -> str:
    if len(notes) > LONGEST_NOTES:
        raise LabError(
            "too-long",
            field="notes",
            value=f"{len(notes)} characters",
            message=f"Notes may hold {LONGEST_NOTES:,} characters.",
            mend="Shorten them.",
        )
    return notes


def _with_pin(report: Report, pin_id: str, note: str) -> Report:
    pins = (pin.model_copy(update={"note": note}) if pin.pin_id == pin_id else pin for pin in report.pins)
    return report.model_copy(update={"pins": tuple(pins)})


def _changed(report: Report | LabError) -> int:
    return report.changed_unix_ns if isinstance(report, Report) else 0


@contextlib.contextmanager
def _written(report_id: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LabError(
            "cannot-save",
            field="report",
            value=report_id,
            message=f"The report cannot be written: {error.strerror or error}.",
            mend="Free some space, or make the home writable.",
        ) from error
