"""``servescope lessons``: what it lists, what it prints of one, and what it says of a teacher's file."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import Result
from typer.testing import CliRunner

from app.cli import app
from app.home import Home
from scenarios import lessons
from tests.app.lessons.small_lesson import small_lesson


def said(*arguments: str, home: Path | None = None) -> Result:
    environment = {"COLUMNS": "100"} | ({"SERVESCOPE_HOME": str(home)} if home is not None else {})
    try:
        return CliRunner(env=environment).invoke(app, ["lessons", *arguments])
    finally:
        lessons.look_also_in(None)


def test_the_list_has_every_lesson_in_order_and_a_teachers_own(tmp_path: Path) -> None:
    small_lesson(Home(tmp_path).prepare())
    answer = said("--json", home=tmp_path)
    assert answer.exit_code == 0, answer.output
    listed = json.loads(answer.stdout)
    assert listed["lessons"][0] == {"name": "places", "title": "Places", "steps": 2}
    assert [one["name"] for one in listed["lessons"][1:]] == list(lessons.lessons()[0])
    assert listed["problems"] == []


def test_a_lesson_is_printed_with_its_questions_and_code() -> None:
    answer = said("show", "batching")
    assert answer.exit_code == 0, answer.output
    for step in lessons.lesson("batching").steps:
        assert step.title in answer.stdout
        assert f"{step.code.path} {step.code.symbol}" in answer.stdout
    assert "wait continuous" in answer.stdout


def test_a_file_of_a_teachers_own_is_checked_by_its_path(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    path = home.lessons / f"{small_lesson(home)}.yaml"
    assert said("show", str(path)).exit_code == 0
    path.write_text(path.read_text(encoding="utf-8").replace("max_num_seqs: 1}", "max_num_sqs: 1}"), encoding="utf-8")
    answer = said("show", str(path), "--json")
    assert answer.exit_code == 1
    error = json.loads(answer.stdout)["error"]
    assert error["field"].endswith("steps.0.measure.variants.narrow.max_num_sqs")
    assert "max_num_seqs" in error["mend"]
    assert said("show", str(tmp_path / "none.yaml")).exit_code == 1
