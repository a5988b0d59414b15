"""A reader who goes on before a page has come finds what its fields hold; what was left behind ends no page."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from streamlit.proto.WidgetStates_pb2 import WidgetStates
from streamlit.testing.v1 import AppTest

import app
from app.lab import Lab
from app.runs.notes import write_notes
from app.server.serve import PAGE
from store.ingest import Collector
from tests.app.lab_process import lab_here
from tests.row_maker import record_run

ROOM = Path(app.__file__).parent
FIELDS = {
    "glossary": ("glossary-words", {"words": "ITL"}),
    "papers": ("papers-words", {"words": "cache"}),
    "runs": ("run-search", {"words": "made"}),
    "sql": ("sql-text", {"query": "SELECT 1"}),
}
"""By page: a field that the address sets, and such an address."""


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_here(tmp_path_factory.mktemp("interrupted"), serves_experiments=False) as opened:
        record_run(opened.home.runs, "made", steps=5)
        Collector(opened.home.runs, opened.database).ingest_once("made")
        yield opened


def field(page: AppTest, key: str) -> Any:
    return next(one for kind in (page.text_input, page.text_area, page.number_input) for one in kind if one.key == key)


def opened(name: str, asked: dict[str, str]) -> AppTest:
    page = AppTest.from_file(str(ROOM / "pages" / f"{name}.py"), default_timeout=60)
    for parameter, value in asked.items():
        page.query_params[parameter] = value
    return page.run()


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_is_told_until_the_browser_has_it_and_never_again(lab: Lab, name: str) -> None:
    key, asked = FIELDS[name]
    page = opened(name, asked)
    page._run(WidgetStates())  # the browser asks again before the first drawing has reached it
    shown = field(page, key)
    assert shown.proto.set_value
    assert shown.proto.value == next(iter(asked.values()))
    page.run()  # the browser sends its value
    assert not field(page, key).proto.set_value, "what the reader types meanwhile would be overwritten"
    assert field(page, key).value == next(iter(asked.values()))


def test_what_the_browser_has_is_not_told_by_a_page_that_draws_itself_anew(lab: Lab) -> None:
    page = AppTest.from_file(str(PAGE), default_timeout=60).run().run()
    page._run(None)
    assert not page.number_input(key="set:starter:seed").proto.set_value


def test_the_list_goes_on_when_the_last_tag_is_gone(lab: Lab) -> None:
    write_notes(lab.home, "made", tags=["mine"])
    page = opened("runs", {})
    assert [one.label for one in page.multiselect].count("Tags")
    write_notes(lab.home, "made", tags=[])
    page.run().run().run()
    assert not page.exception


def test_what_a_component_tells_after_its_page_was_left_is_nothing() -> None:
    def script() -> None:
        import streamlit as st

        from app.components.fields import told_by

        st.session_state["there"] = {"opened": 3}
        st.text(f"{told_by('there', 'opened')} {told_by('there', 'asked')} {told_by('gone', 'opened')}")

    page = AppTest.from_function(script).run()
    assert page.text[0].value == "3 None None"


def test_what_components_tell_is_read_as_what_may_be_gone() -> None:
    """A KeyError of a callback ends the page that the reader has turned to."""
    found = [
        f"{path.name}:{node.lineno}"
        for path in ROOM.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.Subscript)
        and isinstance(node.value, ast.Subscript)
        and ast.unparse(node.value.value) == "st.session_state"
    ]
    assert found == []
