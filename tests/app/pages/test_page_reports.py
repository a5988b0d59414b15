"""Two runs step by step, charts pinned into reports, and the disk that runs take: as the pages draw them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.components.pin_button import Offered
from app.lab import Lab
from app.reports import list_reports, pin_chart, read_report
from app.retention import read_rule
from app.views.pin import pin_of
from store import waits
from store.side_by_side import parting
from tests.app.lab_process import lab_here
from tests.app.pages.test_page_live import LAB, opened, stored_state, texts
from tests.app.small_runs import small_spec, wait_for, wait_for_state

FEW, MANY = "few-places", "many-places"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_here(tmp_path_factory.mktemp("reports")) as opened_lab:
        for run_id, places in ((FEW, 2), (MANY, 6)):
            opened_lab.submit(small_spec(run_id, requests=6, tokens=8, max_num_seqs=places))
        for run_id in (FEW, MANY):
            wait_for_state(opened_lab.home, run_id, "finished")
            wait_for(lambda run_id=run_id: stored_state(opened_lab, run_id) == "finished")
        yield opened_lab


def page_of(name: str, **parameters: str) -> AppTest:
    page = AppTest.from_file(LAB, default_timeout=60)
    for parameter, value in parameters.items():
        page.query_params[parameter] = value
    page.switch_page(f"pages/{name}.py")
    return page.run()


def said(page: AppTest) -> str:
    assert not page.exception
    return texts(page).replace("\\", "")


def test_two_runs_say_where_they_part_and_what_one_waited_for(lab: Lab) -> None:
    page = page_of("compare", run=FEW, beside=MANY, request="5")
    told = said(page)
    with lab.cursor() as con:
        parts = parting(con, FEW, MANY)
        waited = {run: waits.waits(con, run, 5).to_pylist()[0] for run in (FEW, MANY)}
    assert parts is not None
    assert f"iteration {parts.at}" in told
    assert "**Request r5**" in told
    assert waited[FEW]["max_requests_ms"] > 0 == waited[MANY]["max_requests_ms"]
    assert "For a place: " in told
    assert "not at all with" in told


@pytest.mark.parametrize(
    ("run", "beside", "words"),
    [
        (FEW, "gone", "There is no run 'gone'"),
        (FEW, FEW, "both name few-places: name two runs"),
        (FEW, "other", "were not asked the same requests"),
        (FEW, "later", "is not over yet"),
    ],
)
def test_two_runs_that_cannot_be_compared_say_why(lab: Lab, run: str, beside: str, words: str) -> None:
    if beside == "other" and not lab.home.run_dir("other").exists():
        lab.submit(small_spec("other", requests=2, tokens=2))
        wait_for_state(lab.home, "other", "finished")
    if beside == "later" and not lab.home.run_dir("later").exists():
        lab.submit(small_spec("later", requests=4000, tokens=2000))
        wait_for_state(lab.home, "later", "running")
    page = page_of("compare", run=run, beside=beside)
    assert words in said(page)
    if beside == "other":
        assert "Nothing here is paired" in said(page)
        assert "output tokens/s" in list(page.dataframe[0].value["figure"]), "figures of both, unpaired"
    if beside == "later":
        lab.queue.cancel("later")
        wait_for_state(lab.home, "later", "cancelled")


def test_a_request_that_neither_has_is_said(lab: Lab) -> None:
    assert "There is no request '77' in few-places" in said(page_of("compare", run=FEW, beside=MANY, request="77"))


def test_a_chart_is_pinned_into_a_report_and_stands_on_its_page(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    offered: list[Offered] = []
    monkeypatch.setattr("app.views.pin.pin_dialog", offered.append)
    page = opened(FEW, tab="Charts")
    page.button(key="pin-iterations").click().run()
    assert not page.exception
    (chart,) = offered[-1:]
    assert (chart.words.title, chart.runs) == ("Iterations", (FEW,))
    begun = page_of("reports")
    begun.text_input(key="new-report-name").set_value("What <b>was</b> seen")
    next(button for button in begun.button if button.label == "Begin").click().run()
    (report_id,) = list_reports(lab.home)
    from_page: dict[str, Any] = {}
    monkeypatch.setattr("app.views.pin.st", _Page(from_page))
    pin_chart(lab.home, report_id, pin_of(lab, chart, "A **note**"), chart.figure)
    shown = page_of("reports", report=report_id)
    assert "What <b>was</b> seen" in said(shown)
    assert "A small run, with chunked prefill (run few-places)." in said(shown)
    assert "What <b>was</b> seen" in "".join(
        link.proto.label.replace("\\", "") for link in page_of("reports").get("page_link")
    )
    (pin,) = read_report(lab.home, report_id).pins
    shown.button(key=f"out-{pin.pin_id}").click().run()
    assert "Taken out: Iterations" in said(shown)
    shown.button(key="undo-taken").click().run()
    assert [p.pin_id for p in read_report(lab.home, report_id).pins] == [pin.pin_id]
    shown.button(key=f"delete-{report_id}").click().run()
    assert list_reports(lab.home) == {}
    shown.button(key="undo-delete").click().run()
    assert list(list_reports(lab.home)) == [report_id]


def test_a_report_that_is_not_there_is_said(lab: Lab) -> None:
    assert "There is no report 'report-x'." in said(page_of("reports", report="report-x"))


def test_the_disk_panel_says_what_would_go_before_it_goes(lab: Lab) -> None:
    page = page_of("runs")
    assert any(expander.label.startswith("Disk: runs take") for expander in page.expander)
    assert not [button for button in page.button if button.key == "retention-now"], "off until somebody sets a limit"
    page.number_input(key="retention-limit").set_value(1e-5)
    next(button for button in page.button if button.label == "Set").click().run()
    assert read_rule(lab.home).limit_gb == 1e-5
    assert read_rule(lab.home).by_itself is False
    before = set(lab.home.run_ids())
    assert "would go to the trash" in said(page) or "All that may go" in said(page)
    assert set(lab.home.run_ids()) == before
    page.button(key="retention-now").click().run()
    gone = before - set(lab.home.run_ids())
    assert gone
    page.button(key="retention-undo").click().run()
    assert set(lab.home.run_ids()) == before


class _Page:
    """As much of Streamlit as ``pin_of`` asks for."""

    def __init__(self, parameters: dict[str, Any]) -> None:
        self.query_params = _Parameters(parameters)
        self.context = type("Context", (), {"theme": type("Theme", (), {"type": "light"})})


class _Parameters(dict[str, Any]):
    def get_all(self, name: str) -> list[Any]:
        return [self[name]]
