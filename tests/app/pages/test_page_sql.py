"""The SQL page: what a query answers, what is refused in words, and what is kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

import app
from app.charts.answer import answer_chart, numeric
from app.errors import LabError
from app.home import Home
from app.lab import Lab
from app.settings.saved_queries import delete_query, read_query, save_query, saved_queries
from app.theme import LIGHT
from app.views.sql import MOST_ROWS, run_query
from app.words.sql import EXAMPLES, TABLES_HELP, as_python, example, table_columns
from scenarios.yaml_file import ScenarioError
from store.ingest import Collector
from store.schema import quoted
from store.select import Stop
from tests.app.lab_process import lab_here
from tests.app.pages.test_page_live import texts
from tests.row_maker import record_run

PAGE = Path(app.__file__).parent / "pages" / "sql.py"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    with lab_here(tmp_path_factory.mktemp("sql")) as opened:
        record_run(opened.home.runs, "made", steps=20)
        Collector(opened.home.runs, opened.database).ingest_once("made")
        yield opened


def asked(query: str, **parameters: str) -> AppTest:
    page = AppTest.from_file(str(PAGE), default_timeout=60)
    for name, value in parameters.items():
        page.query_params[name] = value
    page.run()
    page.text_area(key="sql-text").set_value(query).run()
    page.button[0].click().run()
    for _ in range(50):
        if "Running for" not in texts(page):
            break
        page.run()
    assert not page.exception
    return page


def test_an_answer_stands_below_its_query(lab: Lab) -> None:
    page = asked("SELECT iteration, end_ns FROM iterations WHERE run_id = 'made' AND iteration < 3")
    assert "3 rows" in texts(page)
    assert page.dataframe[0].value["iteration"].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("DROP TABLE runs", "Only one SELECT can be run here; this is DROP"),
        ("SELECT * FROM read_text('/etc/hostname')", "cannot stand in a FROM clause here"),
        ("SELECT nothing FROM runs", "nothing"),
        ("", "Only one SELECT can be run here; this is nothing"),
    ],
)
def test_what_is_no_select_is_refused_in_words(lab: Lab, query: str, words: str) -> None:
    page = asked(query)
    assert words in texts(page).replace("\\", "")
    assert not page.dataframe or "iteration" not in page.dataframe[0].value


def test_a_long_answer_is_cut_and_says_so(lab: Lab) -> None:
    answer = run_query(lab.database, f"SELECT range AS n FROM range({MOST_ROWS + 5})", Stop())
    assert (answer.rows, answer.cut, len(answer.columns["n"])) == (MOST_ROWS, True, MOST_ROWS)
    exact = run_query(lab.database, f"SELECT range AS n FROM range({MOST_ROWS})", Stop())
    assert (exact.rows, exact.cut) == (MOST_ROWS, False)


def test_columns_of_one_name_are_told_apart(lab: Lab) -> None:
    assert list(run_query(lab.database, "SELECT 1 AS a, 2 AS b, 3 AS a", Stop()).columns) == ["a", "b", "a_1"]


@pytest.mark.parametrize("title", EXAMPLES)
def test_every_example_answers(lab: Lab, title: str) -> None:
    assert "RUN" not in example(title, "made").replace("RUNNING", "")
    assert run_query(lab.database, example(title, "made"), Stop()).columns


def test_an_address_fills_the_box_and_runs_nothing(lab: Lab) -> None:
    page = AppTest.from_file(str(PAGE), default_timeout=60)
    page.query_params["query"] = "SELECT 42 AS planted"
    page.run()
    assert page.text_area(key="sql-text").value == "SELECT 42 AS planted"
    assert "1 row" not in texts(page)


def test_every_table_is_explained_as_it_is(lab: Lab) -> None:
    with lab.cursor() as con:
        there = {row[0] for row in con.execute("SELECT table_name FROM duckdb_tables()").fetchall()}
        assert set(TABLES_HELP) == there - {"spool_positions", "schema_version"}
        for table in TABLES_HELP:
            names = [row[0] for row in con.execute(f"DESCRIBE {quoted(table)}").fetchall()]
            assert sorted(row["column"] for row in table_columns(table)) == sorted(names), table


@pytest.mark.parametrize(
    "query",
    ["SELECT 1", "SELECT 1,\n  2", 'SELECT \'"""\'\n', "SELECT '\\n'\nFROM x", 'SELECT 1\nAS "a"', "SELECT '\u202e'\n"],
)
def test_the_program_asks_the_same(query: str) -> None:
    kept: dict[str, str] = {}
    exec(as_python(query).partition("done =")[0], kept)
    assert kept["QUERY"] == query
    compile(as_python(query), "program", "exec")


def test_a_query_is_saved_read_and_deleted(tmp_path: Path) -> None:
    home = Home(tmp_path)
    assert saved_queries(home) == []
    save_query(home, "mine", "SELECT 1")
    save_query(home, "mine", "SELECT 2")
    assert (saved_queries(home), read_query(home, "mine")) == (["mine"], "SELECT 2")
    (home.queries / "torn.json").write_text("{")
    for wrong, mend in (("torn", "Mend"), ("../mine", "Saved are: mine, torn"), ("other", "Saved are")):
        with pytest.raises(LabError) as caught:
            read_query(home, wrong)
        assert mend in caught.value.mend
    delete_query(home, "mine")
    assert saved_queries(home) == ["torn"]
    with pytest.raises(LabError):
        delete_query(home, "mine")
    with pytest.raises(ScenarioError, match="A name has"):
        save_query(home, "My query!", "SELECT 1")
    with pytest.raises(LabError, match="A query has 1 to"):
        save_query(home, "empty", "  ")


def test_only_columns_of_numbers_are_drawn() -> None:
    columns = {"a": [1, None, 2.5], "b": ["x", "y", None], "c": [True, False, None], "d": [None, None, None]}
    assert numeric(columns) == ["a"]
    for kind in ("line", "bars", "points"):
        figure = answer_chart(columns, kind, "b", ["a"], LIGHT)  # type: ignore[arg-type]
        assert list(figure.data[0].y) == [1, None, 2.5]


def test_a_moment_that_python_cannot_hold_is_shown_as_text(lab: Lab) -> None:
    answer = run_query(lab.database, "SELECT 'infinity'::TIMESTAMP AS never", Stop())
    assert answer.columns == {"never": ["infinity"]}
