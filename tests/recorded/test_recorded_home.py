"""A home that an earlier version left, as it was recorded then: every command says of it what it said."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from app.exports.export import export
from app.exports.import_file import import_file
from app.home import Home
from store.aside import rows_aside
from store.claim_figures import RunFigures, names
from store.samples import alone
from store.slo import PRESETS as SLOS
from tests.recorded.record import TECHNIQUES, answers, asked

HERE = Path(__file__).parent
THEN: dict[str, Any] = json.loads((HERE / "answers.json").read_text())
EXPERIMENT = next(
    name for name in THEN if name.startswith("x-") and "experiment_id" in THEN[name] and "variants" in THEN[name]
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """The recorded home, unpacked; it has no database, as if that had been deleted."""
    root = tmp_path_factory.mktemp("recorded") / "home"
    with tarfile.open(HERE / "home.tar.xz") as archive:
        archive.extractall(root, filter="data")
    return Home(root).prepare()


def same(now: Any, then: Any, place: str = "") -> None:
    """Everything that was said is said again; more may be said."""
    if isinstance(then, dict):
        assert then.keys() <= now.keys(), f"{place}: {then.keys() - now.keys()} is missing"
        for key, value in then.items():
            same(now[key], value, f"{place}.{key}")
    elif isinstance(then, list):
        assert len(now) == len(then), place
        for number, (new, old) in enumerate(zip(now, then, strict=True)):
            same(new, old, f"{place}[{number}]")
    elif isinstance(then, float):
        assert now == pytest.approx(then, rel=1e-6), place
    else:
        assert now == then, place


def test_lists_runs_and_comparison_say_what_they_said(home: Home) -> None:
    same(answers(home), THEN)


def test_the_index_is_made_anew_from_the_runs(home: Home) -> None:
    home.database.unlink(missing_ok=True)
    rebuilt = asked("reindex", home=home)
    assert rebuilt["runs"] == len(TECHNIQUES) + 3
    assert rebuilt["problems"] == {}
    same(answers(home), THEN)


def test_its_snapshot_says_the_same_elsewhere(home: Home, tmp_path: Path) -> None:
    export(home, EXPERIMENT, tmp_path / "out.servescope")
    there = Home(tmp_path / "there").prepare()
    import_file(there, tmp_path / "out.servescope")
    said = asked("compare", "--resume", EXPERIMENT, home=there)
    same(said["metrics"], THEN[EXPERIMENT]["metrics"])


def test_its_runs_have_every_figure_that_a_claim_can_name(home: Home) -> None:
    with rows_aside(home.runs, TECHNIQUES) as aside:
        for run_id in TECHNIQUES:
            run = RunFigures.read(aside.con, run_id, SLOS["relaxed"], alone(aside.con, [run_id]))
            for name in names():
                run.value(aside.con, name, run)  # a number, or none: never an error
            assert run.value(aside.con, "straggler_share", run) >= 0
            assert run.value(aside.con, "kv_capacity_tokens", run) > 0


@pytest.mark.parametrize("name", [*TECHNIQUES, EXPERIMENT])
def test_its_reports_can_be_written(name: str, home: Home, tmp_path: Path) -> None:
    assert export(home, name, tmp_path / "out.html") > 0
