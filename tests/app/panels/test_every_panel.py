"""What every member of ``PANELS`` owes, whichever it is; and that nothing else in the app knows one by name."""

from __future__ import annotations

import re
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import app
from app.panels import PANELS
from app.panels.panel import Panel
from app.panels.sentences import actions, label_in_words, reasons
from app.settings.controls import techniques
from store.database import Database
from telemetry.rows import DECISION_REASONS, DECISIONS, ROW_TYPES, columns

ROOM = Path(app.__file__).resolve().parent
DOCS = ROOM.parent / "docs"
BLIND = ("views", "exports", "words", "components", "lab.py", "shell.py")
"""What asks every panel and may name none; ``views/start.py`` and the form name one as what is proposed first."""
PROPOSES = ("views/start.py", "views/sweep_form.py")

every_panel = pytest.mark.parametrize("panel", PANELS, ids=lambda panel: panel.setting)


def test_every_technique_has_its_panel_in_a_folder_of_its_name() -> None:
    assert {panel.setting for panel in PANELS} == {technique.path for technique in techniques()}
    for panel in PANELS:
        assert type(panel).__module__ == f"app.panels.{panel.setting}"
        assert type(panel).__doc__


@every_panel
def test_a_technique_is_documented_under_its_setting(panel: Panel) -> None:
    control = next(technique for technique in techniques() if technique.path == panel.setting)
    assert control.title
    assert control.help
    assert any(f"`{panel.setting}" in path.read_text(encoding="utf-8") for path in DOCS.glob("*.md"))


@every_panel
def test_charts_of_a_technique_say_where_their_figures_come_from(panel: Panel) -> None:
    for words in panel.chart_words().values():
        assert set(words.columns) <= set(columns(ROW_TYPES[words.table]))
        assert words.explained.endswith(words.provenance)


@every_panel
def test_words_of_a_technique_are_about_what_the_engine_records(panel: Panel) -> None:
    assert set(panel.words.reasons) <= set(DECISION_REASONS)
    assert set(panel.words.actions) <= set(DECISIONS)
    for form in panel.words.actions.values():
        assert {name for _, name, _, _ in string.Formatter().parse(form) if name} <= {"request", "tokens", "count"}
    for label, words in panel.words.labels.items():
        assert label_in_words(label) == words


@every_panel
def test_a_technique_adds_nothing_to_the_report_of_what_never_ran(panel: Panel) -> None:
    with Database(Path(":memory:")) as database, database.read() as con:
        assert list(panel.run_tables(con, "nobody")) == []
        assert list(panel.comparison_tables(con, [], "0")) == []


def test_no_two_panels_claim_the_same_words() -> None:
    for kind in ("labels", "reasons", "actions", "glossary"):
        claimed = Counter(word for panel in PANELS for word in getattr(panel.words, kind))
        assert [word for word, count in claimed.items() if count > 1] == []
    assert set(actions()) == set(DECISIONS)
    assert set(reasons()) == set(DECISION_REASONS)


def test_nothing_that_asks_the_panels_names_one() -> None:
    named = []
    for place in BLIND:
        for path in [ROOM / place] if place.endswith(".py") else (ROOM / place).rglob("*.py"):
            name, text = path.relative_to(ROOM).as_posix(), path.read_text(encoding="utf-8")
            if name not in PROPOSES:
                named += [f"{name}: {panel.setting}" for panel in PANELS if _names(text, panel.setting)]
    assert named == []


def _names(text: str, setting: str) -> bool:
    """Whether code names a setting; prose may use the same word, and so may what is counted."""
    said = re.sub(r"counted\(.*'\)", "", text)
    return re.search(rf"""["'.]{setting}\b|\b{setting}=""", said) is not None


def test_importing_the_panels_loads_nothing_that_draws() -> None:
    """Commands read the words and tables of a technique; they would wait for seconds otherwise."""
    code = "import sys, app.panels; print([name for name in ('streamlit', 'plotly', 'torch') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
