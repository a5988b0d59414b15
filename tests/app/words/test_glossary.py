"""The glossary: every word of the field in a heading or a figure's label has its entry."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.panels import PANELS
from app.words.board import LIMIT_FIGURES, TILES, TILES_AFTER
from app.words.charts import CHARTS
from app.words.energy import CHARTS as ENERGY_CHARTS
from app.words.glossary import entries, groups, not_explained
from app.words.text import PARTS
from scenarios import lessons
from store.metrics import METRICS

ROOT = Path(__file__).resolve().parents[3]
NAMED_BY_CALL = {  # the calls of pages whose first text is a heading or a figure's label
    *("title", "header", "subheader", "metric", "number_input", "NumberColumn", "tab"),
    *("ChartWords", "Column", "figure_of", "words_of", "_around", "_figure"),
}


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


EVERYDAY = words(
    """
    a accepted again against all alone an and answer answered apart arithmetic as ask asked at away axis beyond both
    busy by calm came caused change charts clumped clumps come compare completed computed computes copies costs
    could crowd crowded cure cut decided decides difference differs done each effects eight engine error even everybody
    every explained far faster figure figures finished first flight for found four from full further gain
    glossary go goes grid had has held here hidden hold holds how in is it its kept known largest latest learn least
    leaves lies limit long longest lost machine machine's many may mean measured memory model modelled more most
    much must name no not notes nothing now number of offered on once one open or other others otherwise out
    over own packed page papers part pass paying pays per place plain predicted price processes question ratio
    read reading recent reports request requests room roomy run runs same saved schedules selected served set
    setting settings setup share shared should side six sixteen slow slowest so somebody spared speaker speed
    started stops stored take temperature text that the their them these this those three tight time times to
    together tried two under unpacking up used useful usual value waited was watch what when where which who whole why
    with within without word words worst yet you your results
    """
)
UNITS = words("busy c cpu gb gpu memory mhz ms nats power req s tok token tokens x")


def headings() -> Iterator[tuple[str, str]]:
    """Where it stands, and every heading and label that is written in the pages' source."""
    for name, metric in METRICS.items():
        yield f"metric {name}", metric.title
    for words in (
        *CHARTS.values(),
        *ENERGY_CHARTS.values(),
        *(words for panel in PANELS for words in panel.chart_words().values()),
    ):
        yield "chart", words.title
    for tile in (*TILES.values(), *TILES_AFTER.values()):
        yield "tile", tile.label
    for label, *_ in LIMIT_FIGURES.values():
        yield "limit", label
    yield from (("tab", part) for part in PARTS)
    for name, lesson in lessons.lessons()[0].items():
        yield f"lesson {name}", lesson.title
        for step in lesson.steps:
            named = (step.title, *step.measure.figures, *([step.measure.sweep.axis] if step.measure.sweep else []))
            yield from ((f"lesson {name}", text) for text in named)
    for wing in ("views", "pages", "panels", "experiments/tables.py"):
        place = ROOT / "app" / wing
        for path in [place] if place.suffix else sorted(place.rglob("*.py")):
            yield from ((f"{path.name}:{line}", text) for line, text in labels_in(path))


def labels_in(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name.endswith("_figures"):  # (label, value, help) of each figure
            tuples = [inner for inner in ast.walk(node) if isinstance(inner, ast.Tuple) and len(inner.elts) == 3]
            yield from ((one.lineno, first.value) for one in tuples if is_text(first := one.elts[0]))
        if not isinstance(node, ast.Call) or not node.args or not is_text(first := node.args[0]):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in NAMED_BY_CALL:
            yield node.lineno, first.value
        elif called == "markdown" and (bold := re.fullmatch(r"\*\*(.+)\*\*", first.value)):
            yield node.lineno, bold[1]


def is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_word_of_a_heading_or_label_is_everyday_or_explained() -> None:
    unknown = {
        f"{text} ({where})": words
        for where, text in headings()
        if (words := [w for w in not_explained(text, entries()) if w not in EVERYDAY | UNITS])
    }
    assert not unknown, "add them to app/words/glossary.yaml: " + "; ".join(f"{k}: {v}" for k, v in unknown.items())


def test_a_word_that_is_not_explained_is_noticed() -> None:
    assert not_explained("TTFT p99, tokens per ITL", entries()) == ["per"]
    assert not_explained("Frobnication of KV blocks", entries()) == ["frobnication", "of"]


def test_no_form_of_a_word_stands_for_two() -> None:
    forms = [form.lower() for word, entry in entries().items() for form in {word, entry.name, *entry.also} if form]
    assert sorted(forms) == sorted(set(forms))
    assert sum(map(len, groups().values())) == len(entries()), "a word stands in one part"


@pytest.mark.parametrize("word", ["TTFT", "ITL", "TPOT", "E2E latency"])
def test_every_figure_of_latency_is_spelled_out(word: str) -> None:
    assert entries()[word].name
    assert word in {metric.title for metric in METRICS.values()}


def test_the_page_shows_every_word_and_narrows() -> None:
    page = AppTest.from_file(str(ROOT / "app" / "pages" / "glossary.py")).run()
    assert not page.exception
    assert page.caption[0].value == f"{len(entries())} words."
    page.text_input(key="glossary-words").set_value("inter-token").run()
    assert page.caption[0].value == "1 word."
    assert [head.value for head in page.subheader] == ["Latency of requests"]
