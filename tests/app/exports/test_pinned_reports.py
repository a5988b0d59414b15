"""Reports: charts of several runs pinned beside notes, kept, deleted with undo, and exported as a file that can do nothing."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import plotly.graph_objects as go
import pytest

from app.errors import LabError
from app.exports.export import export
from app.home import REPORT_FILE, Home
from app.reports import (
    MOST_FIGURE_BYTES,
    MOST_PINS,
    Pin,
    Report,
    create_report,
    delete_report,
    figure_of,
    list_reports,
    move_pin,
    new_pin_id,
    pin_chart,
    put_back,
    read_report,
    rename_report,
    take_out,
    write_report_notes,
)
from app.runs import trash
from app.words.markdown import as_html
from telemetry.json_file import write_json
from tests.app.lab_process import servescope

HOSTILE = "</script><img id=planted src=x onerror=alert(1)>"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def pin(title: str, *runs: str, **more: object) -> Pin:
    return Pin.model_validate(
        {"pin_id": new_pin_id(), "title": title, "runs": runs, "pinned_unix_ns": time.time_ns(), **more}
    )


def line(*values: float) -> go.Figure:
    return go.Figure(go.Scatter(y=list(values), name=HOSTILE))


def test_charts_of_several_runs_stand_in_one_report_in_the_order_wished_for(home: Home) -> None:
    report_id = create_report(home, "  What  was seen ")
    first, second = pin("One", "run-a"), pin("Two", "run-b", "run-a")
    for chart, figure in ((first, line(1, 2)), (second, line(3))):
        pin_chart(home, report_id, chart, figure)
    report = read_report(home, report_id)
    assert (report.name, [p.title for p in report.pins], report.runs) == (
        "What was seen",
        ["One", "Two"],
        ("run-a", "run-b"),
    )
    assert list(figure_of(home, report_id, second).data[0].y) == [3]
    move_pin(home, report_id, second.pin_id, -1)
    move_pin(home, report_id, second.pin_id, -1)  # at the top already
    assert [p.title for p in read_report(home, report_id).pins] == ["Two", "One"]
    take_out(home, report_id, second.pin_id)
    assert [p.title for p in read_report(home, report_id).pins] == ["One"]
    put_back(home, report_id, second, 0)
    put_back(home, report_id, second, 0)
    assert [p.title for p in read_report(home, report_id).pins] == ["Two", "One"]
    assert list(figure_of(home, report_id, second).data[0].y) == [3]


def test_a_report_is_renamed_listed_deleted_and_brought_back(home: Home) -> None:
    first, second = (create_report(home, name) for name in ("first", "second"))
    rename_report(home, first, "the first")
    write_report_notes(home, first, "# Why")
    assert [report.name for report in list_reports(home).values() if isinstance(report, Report)] == [
        "the first",
        "second",
    ]
    delete_report(home, first)
    assert list(list_reports(home)) == [second]
    with pytest.raises(LabError, match=r"was deleted.*|restore"):
        read_report(home, first)
    trash.restore_run(home, first)
    assert read_report(home, first).notes == "# Why"
    with pytest.raises(LabError, match="There is no report 'report-0'"):
        delete_report(home, "report-0")


@pytest.mark.parametrize("name", ["", "   ", "x" * 121])
def test_a_name_that_cannot_be_is_refused(home: Home, name: str) -> None:
    with pytest.raises(LabError, match="1 to 120 characters"):
        create_report(home, name)
    assert home.report_ids() == []


def test_what_is_too_much_is_refused_and_leaves_nothing(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    report_id = create_report(home, "full")
    with pytest.raises(LabError, match="takes 8 MiB of each"):
        pin_chart(home, report_id, pin("large"), line(*range(1 + MOST_FIGURE_BYTES // 4)))
    with pytest.raises(LabError, match="100,000 characters"):
        write_report_notes(home, report_id, "x" * 100_001)
    report = read_report(home, report_id)
    crowded = report.model_copy(update={"pins": tuple(pin(str(n)) for n in range(MOST_PINS))})
    write_json(home.report_dir(report_id) / REPORT_FILE, crowded)
    with pytest.raises(LabError, match="holds 100 charts"):
        pin_chart(home, report_id, pin("one more"), line(1))
    assert list(home.report_dir(report_id).glob("pin-*")) == []


def test_a_damaged_report_is_named_and_can_be_deleted(home: Home, tmp_path: Path) -> None:
    damaged, whole = (create_report(home, name) for name in ("damaged", "whole"))
    chart = pin("Gone", "run-a")
    pin_chart(home, whole, chart, line(1))
    (home.report_dir(whole) / f"pin-{chart.pin_id}.json").write_text('{"data": [{"type": "no such trace"}]}')
    (home.report_dir(damaged) / REPORT_FILE).write_text('{"version": 1, "name": ""}')
    told = list_reports(home)
    assert isinstance(told[damaged], LabError)
    with pytest.raises(LabError, match="cannot be read: name"):
        read_report(home, damaged)
    export(home, whole, tmp_path / "whole.html")
    assert "The chart &#x27;Gone&#x27; cannot be read" in (tmp_path / "whole.html").read_text()
    delete_report(home, damaged)
    assert home.report_ids() == [whole]


def test_the_exported_page_shows_strangers_text_as_text_and_can_reach_nothing(home: Home, tmp_path: Path) -> None:
    report_id = create_report(home, HOSTILE)
    note = f"A **bold** claim. {HOSTILE} ![p](https://example.org/x.png) [link](javascript:alert(1)) [ok](https://example.org)"
    chart = pin(HOSTILE, "run-a", about=HOSTILE, explained=HOSTILE, sql=f"SELECT '{HOSTILE}'", note=note)
    pin_chart(home, report_id, chart, line(1, 2))
    write_report_notes(home, report_id, note)
    out = tmp_path / "out.html"
    assert export(home, report_id, out) == out.stat().st_size
    page = out.read_text()
    body = page[page.index("<body>") :]
    assert "default-src 'none'" in page
    assert "<img" not in body
    assert "<strong>bold</strong>" in body
    assert '<a href="https://example.org">ok</a>' in body
    assert 'href="javascript' not in body
    assert body.count("&lt;/script&gt;") >= 4
    assert body.count("</script>") == len(re.findall(r"<script", body)), "no text ends a script"
    with pytest.raises(LabError, match=r"written as \.html"):
        export(home, report_id, tmp_path / "out.csv")


def test_the_command_lists_and_writes_reports(home: Home, tmp_path: Path) -> None:
    report_id = create_report(home, "for the command")
    pin_chart(home, report_id, pin("One", "run-a"), line(1))
    (told,) = json.loads(servescope(home, "reports", "--json").stdout)["reports"]
    assert told == {"id": report_id, "name": "for the command", "charts": 1, "runs": ["run-a"], "problem": None}
    assert servescope(home, "export", report_id, "-o", str(tmp_path / "r.html")).returncode == 0
    assert "for the command" in (tmp_path / "r.html").read_text()


@pytest.mark.parametrize(
    ("text", "shown", "never"),
    [
        ("<b>x</b>", "&lt;b&gt;x&lt;/b&gt;", "<b>"),
        ("![x](https://a.b/c.png)", "", "<img"),
        ("[x](javascript:alert(1))", "", "<a"),
        ("[x](data:text/html,hi)", "", "<a"),
        ("| a | b |\n| - | - |\n| 1 | 2 |", "<table>", "|"),
    ],
)
def test_notes_become_html_that_can_do_nothing(text: str, shown: str, never: str) -> None:
    made = as_html(text)
    assert shown in made
    assert never not in made
