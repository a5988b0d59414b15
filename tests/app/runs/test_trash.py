"""A deleted run can be had back, until the trash is emptied; names and notes are text."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from app.errors import LabError
from app.home import Home
from app.runs import trash
from app.runs.notes import Notes, read_notes, write_notes
from telemetry.json_file import write_json
from telemetry.process import identity_of
from telemetry.status import write_status


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home(tmp_path).prepare()
    for run_id in ("one", "two"):
        folder = home.run_dir(run_id)
        folder.mkdir()
        write_json(folder / "spec.json", {"run_id": run_id})
        write_status(folder, state="finished")
    return home


def test_delete_and_restore_give_the_run_back_unchanged(home: Home) -> None:
    before = {p.name: p.read_bytes() for p in home.run_dir("one").iterdir()}
    trash.delete_run(home, "one")
    assert home.run_ids() == ["two"]
    assert home.trashed_ids() == ["one"]
    trash.restore_run(home, "one")
    assert home.run_ids() == ["one", "two"]
    assert {p.name: p.read_bytes() for p in home.run_dir("one").iterdir()} == before


def test_emptying_by_age_keeps_what_is_young(home: Home) -> None:
    trash.delete_run(home, "one")
    assert trash.empty_trash(home, older_than_days=1) == []
    assert trash.empty_trash(home) == ["one"]
    with pytest.raises(LabError, match="no run 'one'"):
        trash.restore_run(home, "one")


def test_one_deletion_is_made_for_good_and_the_others_stay(home: Home) -> None:
    trash.delete_run(home, "two")
    trash.delete_run(home, "one")
    assert trash.trashed(home) == ["one", "two"], "the last deleted first"
    trash.delete_for_good(home, "one")
    assert trash.trashed(home) == ["two"]
    with pytest.raises(LabError, match="no run 'one' in the trash"):
        trash.delete_for_good(home, "one")


def test_whoever_asks_for_a_deleted_run_is_told_where_it_is(home: Home) -> None:
    trash.delete_run(home, "one")
    with pytest.raises(LabError, match="servescope restore one") as refused:
        home.existing_run_dir("one")
    assert refused.value.kind == "deleted-run"


def test_a_run_that_is_being_served_is_not_deleted(home: Home) -> None:
    write_status(home.run_dir("one"), state="running", **identity_of(os.getpid()))
    with pytest.raises(LabError, match="still being served"):
        trash.delete_run(home, "one")
    assert "one" in home.run_ids()


def test_restoring_does_not_overwrite_a_newer_run(home: Home) -> None:
    trash.delete_run(home, "one")
    home.run_dir("one").mkdir()
    with pytest.raises(LabError, match="newer run"):
        trash.restore_run(home, "one")


def test_notes_change_only_what_is_given(home: Home) -> None:
    write_notes(home, "one", name="<b>bold</b>", notes="first")
    write_notes(home, "one", notes="second")
    assert read_notes(home, "one") == Notes(name="<b>bold</b>", notes="second")
    with pytest.raises(LabError, match="120 characters"):
        write_notes(home, "one", name="x" * 121)
    with pytest.raises(LabError, match="no run"):
        write_notes(home, "three", name="x")
