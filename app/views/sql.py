"""The SQL box: one SELECT over everything recorded, its answer as a table or a chart."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from app.charts import CONFIG
from app.charts.answer import answer_chart, numeric
from app.components.address import keep_in_address
from app.components.chart_card import as_csv, page_palette
from app.components.fields import begin
from app.components.selection import looked_at
from app.errors import on_page
from app.lab import Lab
from app.rights import Right, needs
from app.runs.listing import list_runs
from app.settings.saved_queries import LONGEST, delete_query, read_query, save_query, saved_queries
from app.words.plain import counted, plain
from app.words.sql import EXAMPLES, TABLES_HELP, as_python, example, table_columns
from store.database import Database
from store.errors import StoreError
from store.select import Stop, python_columns, safe_select
from telemetry.refusal import Refusal

MOST_ROWS = 10_000
LONGEST_S = 60.0
QUICK_S = 0.4  # an answer within this stands there at once
LOOK_S = 0.5
ADDRESS = 4000  # characters of a query that its address still names
TEXT = "sql-text"
_pool = ThreadPoolExecutor(4, "sql")


@dataclass(frozen=True)
class Answer:
    """What came of a query: at most ``MOST_ROWS`` rows."""

    table: Any  # pyarrow.Table
    columns: dict[str, list[Any]]
    rows: int
    cut: bool
    seconds: float


@dataclass
class Job:
    """A query that somebody ran."""

    future: Future[Answer]
    stop: Stop
    began: float = field(default_factory=time.monotonic)


def run_query(database: Database, query: str, stop: Stop) -> Answer:
    """Ask, read-only and within bounds. Raises ``StoreError``."""
    began = time.monotonic()
    with database.read() as con:
        table = safe_select(con, query, max_rows=MOST_ROWS + 1, timeout_s=LONGEST_S, stop=stop)
        shown = table.slice(0, MOST_ROWS)
        values = python_columns(con, shown)
    columns = dict(zip(table.column_names, values, strict=True))
    return Answer(shown, columns, shown.num_rows, table.num_rows > MOST_ROWS, time.monotonic() - began)


@needs(Right.SQL)
def sql_box(lab: Lab) -> None:
    """Draw the page."""
    if TEXT not in st.session_state:
        first = example(next(iter(EXAMPLES)), _run_of_examples(lab))
        st.session_state[TEXT] = st.query_params.get("query", first)[:LONGEST]
    _choices(lab)
    begin(TEXT)
    st.text_area(
        "One SELECT",
        key=TEXT,
        height=200,
        max_chars=LONGEST,
        help="Read-only: one statement, over the tables below. Nothing else can be done here.",
    )
    query = st.session_state[TEXT]
    keep_in_address({"query": [query] if len(query) <= ADDRESS else []})
    job: Job | None = st.session_state.get("sql-job")
    running = job is not None and not job.future.done()
    with st.container(horizontal=True, vertical_alignment="bottom"):
        st.button("Run", type="primary", icon=":material/play_arrow:", disabled=running, on_click=_run, args=(lab,))
        if running and job is not None:
            st.button("Stop", icon=":material/stop:", on_click=job.stop)
        _keep(lab)
        with st.popover("As Python", icon=":material/code:"):
            st.code(as_python(query), language="python", wrap_lines=True)
            st.caption("Asks the same from a program; servescope must be on its path.")
    st.fragment(_result, run_every=LOOK_S if running else None)(running)
    _schema()


@needs(Right.SQL)
def _run(lab: Lab) -> None:
    stop = Stop()
    if TEXT not in st.session_state:  # the reader has left the page meanwhile
        return
    future = _pool.submit(run_query, lab.database, st.session_state[TEXT], stop)
    st.session_state["sql-job"] = Job(future, stop)
    wait([future], QUICK_S)


def _result(was_running: bool) -> None:
    job: Job | None = st.session_state.get("sql-job")
    if job is None:
        return
    if not job.future.done():
        st.caption(f"Running for {time.monotonic() - job.began:.0f} s; it is stopped after {LONGEST_S:.0f} s.")
        return
    if was_running:
        st.rerun()
    try:
        answer = job.future.result()
    except StoreError as error:
        st.error(plain(on_page(error)))
        return
    cut = f", the first of more (at most {MOST_ROWS:,} are shown)" if answer.cut else ""
    st.caption(plain(f"{counted(answer.rows, 'row')}{cut}, in {answer.seconds:.2f} s."))
    if not answer.rows:
        return
    numbers = numeric(answer.columns)
    with st.container(horizontal=True, vertical_alignment="bottom"):
        kinds = ["table", *(["line", "bars", "points"] if numbers else [])]
        kind = st.segmented_control("Shown as", kinds, default="table", key="sql-kind", required=True)
        st.download_button(
            "CSV",
            data=lambda: as_csv(answer.table),
            file_name="answer.csv",
            mime="text/csv",
            icon=":material/download:",
            on_click="ignore",
        )
    if kind == "table" or not numbers:
        st.dataframe(answer.columns, hide_index=True, height=420, alt=f"The answer, {answer.rows} rows")
    else:
        _chart(answer, kind, numbers)


def _chart(answer: Answer, kind: Any, numbers: list[str]) -> None:
    names = list(answer.columns)
    key = "/".join(names)
    with st.container(horizontal=True):
        x = st.selectbox("Horizontal axis", names, key=f"sql-x-{key}")
        others = [name for name in numbers if name != x] or numbers
        ys = st.multiselect("Vertical axis", numbers, default=others[:1], key=f"sql-y-{key}")
    if not ys:
        st.caption("Choose a column for the vertical axis.")
        return
    figure = answer_chart(answer.columns, kind, x, ys, page_palette())
    st.plotly_chart(figure, config=CONFIG, theme=None, alt=f"{', '.join(ys)} by {x}, {answer.rows} rows")


def _run_of_examples(lab: Lab) -> str:
    """The run that examples are about: of the address, else the one that was looked at last, else the newest."""
    asked = st.query_params.get("run") or looked_at().get("run")
    return asked or next((str(run["run_id"]) for run in list_runs(lab.home)), "RUN")


def _choices(lab: Lab) -> None:
    """Examples and saved queries: one that is chosen is put into the box."""
    with st.container(horizontal=True):
        chosen = _run_of_examples(lab)

        def put_example() -> None:
            if title := st.session_state["sql-example"]:
                st.session_state[TEXT] = example(title, chosen, looked_at())

        st.selectbox(
            "Examples",
            list(EXAMPLES),
            index=None,
            placeholder="A query to begin with",
            key="sql-example",
            on_change=put_example,
            help=f"About the run {plain(chosen)}.",
        )

        def put_saved() -> None:
            if name := st.session_state["sql-saved"]:
                _said(lambda: st.session_state.update({TEXT: read_query(lab.home, name)}))

        if saved := saved_queries(lab.home):
            st.selectbox(
                "Saved queries", saved, index=None, placeholder="One of yours", key="sql-saved", on_change=put_saved
            )
    if said := st.session_state.pop("sql-said", None):
        st.error(plain(said))


def _keep(lab: Lab) -> None:
    """Save the query under a name, or delete one that is saved."""
    with st.popover("Save", icon=":material/bookmark:"):
        name = st.text_input("Name", key="sql-name", placeholder="my-query")
        st.button(
            "Save this query",
            disabled=not name,
            on_click=lambda: _said(lambda: save_query(lab.home, name, st.session_state[TEXT])),
        )
        if chosen := st.session_state.get("sql-saved"):
            st.button(f"Delete {plain(chosen)}", on_click=lambda: _delete(lab, chosen))


def _delete(lab: Lab, name: str) -> None:
    _said(lambda: delete_query(lab.home, name))
    st.session_state["sql-saved"] = None


def _said(act: Callable[[], object]) -> None:
    """Do it; what is wrong with it stands on the page when it is drawn next."""
    try:
        act()
    except Refusal as error:
        st.session_state["sql-said"] = on_page(error)


def _schema() -> None:
    """Tables and columns, with what the rows' definitions say of them."""
    with st.expander("Tables and columns", expanded=False):
        table = st.selectbox("Table", list(TABLES_HELP), key="sql-table")
        st.caption(plain(TABLES_HELP[table]))
        rows = table_columns(table)
        st.dataframe(rows, hide_index=True, height="content", alt=f"{len(rows)} columns of {table}")
