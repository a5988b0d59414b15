"""Lesson files: the published ones are sound and short, and a bad one is answered with file, line, field and what would be right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from app.lessons.code import source_of
from app.lessons.plan import plan_file
from scenarios import ScenarioError, lessons
from scenarios.lessons.lesson import (
    Choice,
    Code,
    Curve,
    Effect,
    Explain,
    Lesson,
    Number,
    Option,
    Ordering,
    Step,
    StepMeasurement,
    Try,
)
from scenarios.lessons.lesson_file import read_lesson, step_hash
from scenarios.lessons.schema import SCHEMA
from scenarios.lessons.text import placeholders, wrong_with, wrong_with_notes
from scenarios.papers.schema import schema_text

DOCUMENT = (Path(__file__).parents[2] / "docs" / "lessons.md").read_text(encoding="utf-8")
NAMES = sorted(path.stem for path in lessons.folder().glob("*.yaml"))
STEPS = [(name, n) for name in NAMES for n in range(len(lessons.lesson(name).steps))]
GOOD = (lessons.folder() / "decoding.yaml").read_text(encoding="utf-8")
PARTS = (
    Lesson, Step, StepMeasurement, Choice, Option, Number, Curve, Ordering, Effect, Explain, Try, Code,
)  # fmt: skip
MOST_RUNS = 24  # of a step: with a second or two each, less than a minute


def test_there_are_eight_lessons_each_in_a_place_of_its_own() -> None:
    known, wrong = lessons.lessons()
    assert wrong == []
    assert len(known) == 8
    assert len({one.place for one in known.values()}) == 8


@pytest.mark.parametrize("name", NAMES)
def test_every_lesson_can_be_planned_and_its_code_is_there(name: str) -> None:
    lesson = plan_file(lessons.path_of(name))
    for step in lesson.steps:
        assert source_of(step.code.path, step.code.symbol).text


@pytest.mark.parametrize(("name", "n"), STEPS)
def test_no_sentence_states_a_figure_that_the_run_does_not_give(name: str, n: int) -> None:
    step = lessons.lesson(name).steps[n]
    for field, text in (("setup", step.setup), *step.templates()):
        assert wrong_with(text) is None, field
    assert placeholders(step.setup) == []
    assert step.notes, "whoever speaks has something to say at every step"
    assert wrong_with_notes(step.notes) is None
    assert placeholders(step.explain.why), "the explanation uses figures of the run"


@pytest.mark.parametrize(("name", "n"), STEPS)
def test_a_step_is_small(name: str, n: int) -> None:
    measure = lessons.lesson(name).steps[n].measure
    assert len(measure.variants) * len(measure.points()) * measure.repeats <= MOST_RUNS


@pytest.mark.parametrize(("name", "n"), STEPS)
def test_the_thing_to_try_sets_controls_that_the_panel_has(name: str, n: int) -> None:
    from app.settings import controls, workload
    from app.settings.scenario_list import scenario_of
    from scenarios.measurement_file import as_settings

    to_try = lessons.lesson(name).steps[n].to_try
    scenario = scenario_of(to_try.scenario)
    known = {control.path for control in controls.controls()}
    known |= {field.control.path for field in workload.fields(scenario.workload, {})}
    assert set(as_settings(to_try.set)) <= known


def test_the_published_schema_is_the_lessons_own() -> None:
    assert SCHEMA.read_text(encoding="utf-8") == schema_text(Lesson), (
        "python -m scenarios.lessons.schema writes it anew"
    )


@pytest.mark.parametrize("model", PARTS, ids=lambda model: model.__name__)
def test_every_key_is_documented(model: type[BaseModel]) -> None:
    words = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", DOCUMENT, flags=re.DOTALL)))
    assert {field.alias or name for name, field in model.model_fields.items()} <= words


def test_the_example_of_the_documentation_is_a_sound_lesson(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    assert plan_file(path).steps


BAD = [
    ("title: Why", "titel: Why", "titel", "Did you mean title"),
    ("title: Why", "title: [Why", "", "Mend this line"),
    ("place: 10", "place: 0", "place", "at least 1"),
    ("kind: number", "kind: numbr", "steps.0.predict.kind", "number"),
    ("      low: 0.5\n", "      low: 50\n", "steps.0.predict", "must lie below high"),
    ("of: step for eight over step for one\n", "of: step for nine\n", "steps.0.predict.of", "step for eight"),
    ("of: gain over one\n", "of: gain of four\n", "steps.1.predict.of", "over the sweep"),
    ("effect: {of: gain in speed", "effect: {of: gain", "steps.0.effect.of", "gain in speed"),
    ("effect: {of: gain of sixteen", "effect: {of: gain over one", "steps.1.effect.of", "at one point"),
    ("You said {predicted}, and", "You said 3 times, and", "steps.0.explain.right", "{figure}"),
    ("That is why a batch", "That is twice as fast, and why a batch", "steps.0.explain.why", "{figure}"),
    ("{gain in speed} times as much.", "{gain in sped} times as much.", "steps.0.explain.why", "gain in speed"),
    ("{gain in speed} times as much.", "{gain in speed times as much.", "steps.0.explain.why", "placeholder is"),
    (" ({gain in speed interval}). {reason}", " ({gain in speed interval}).", "steps.0.explain.absent", "{reason}"),
    ("To write one token, the", "To write {predicted}, the", "steps.0.setup", "placeholder"),
    ("Let the room say first", "Let 9 of them say first", "steps.0.notes", "without a number"),
    ("Let the room say first", "Let {predicted} be said first", "steps.0.notes", "without a placeholder"),
    ("First it serves one request at a time, then it serves", "It serves. It stops. It serves", "steps.0.setup", "two or three"),
    ("metric: decode_step_ms, of: one}", "metric: decode_stp_ms, of: one}", "steps.0.measure.figures.step for one.metric", "decode_step_ms"),
    ("metric: decode_step_ms, of: one}", "metric: decode_step_ms, of: oen}", "steps.0.measure.figures.step for one.of", "one"),
    ("kv_blocks: 400", "kv_bloks: 400", "steps.0.measure.set.kv_bloks", "kv_blocks"),
    ("max_num_seqs: 8}", "max_num_seqs: 8, policy: static}", "steps.0.measure.variants.eight", "policy"),
    ("      scenario: memory-bound", "      slo: soon\n      scenario: memory-bound", "steps.0.measure.slo", "ttft="),
    ("scenario: chat", "scenario: chatt", "steps.0.try.scenario", "chat"),
    ("symbol: CostModel.of", "symbol: CostModel.at", "steps.0.code.symbol", "class or function"),
    ("path: engine/cost.py", "path: engine/costs.py", "steps.0.code.path", "file"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "field", "mend"), BAD)
def test_a_bad_lesson_is_refused_with_file_line_field_and_mend(
    tmp_path: Path, old: str, new: str, field: str, mend: str
) -> None:
    assert old in GOOD
    path = tmp_path / "mine.yaml"
    path.write_text(GOOD.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        plan_file(path)
    where, _, named = caught.value.field.partition(": ")
    assert named == field
    assert mend in f"{caught.value.message} {caught.value.mend}"
    assert re.fullmatch(r"mine\.yaml(:\d+)+", where)


OVERLAP = """{kind: choice, ask: How much faster is it, of: gain in speed, options: [{says: A little., low: 1, high: 2}, {says: Much., low: 1.5}]}"""


def test_answers_that_are_both_right_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(re.sub(r"predict:\n(      .*\n)+", f"predict: {OVERLAP}\n", GOOD, count=1), encoding="utf-8")
    with pytest.raises(ScenarioError, match="another answer goes on"):
        read_lesson(path)


def test_texts_change_nothing_about_what_was_predicted_and_measures_do(tmp_path: Path) -> None:
    def hash_of(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return step_hash(read_lesson(path).steps[0])

    assert hash_of(GOOD.replace("You said {predicted}", "Your number was {predicted}")) == hash_of(GOOD)
    for old, new in (("kv_blocks: 400", "kv_blocks: 300"), ("close: 0.15", "close: 0.3"), ("beyond: 1", "beyond: 2")):
        assert hash_of(GOOD.replace(old, new, 1)) != hash_of(GOOD)


@pytest.mark.parametrize("name", ["speculaton", "../decoding", "", "a/b"])
def test_an_unknown_lesson_is_refused(name: str) -> None:
    with pytest.raises(ScenarioError, match="There is no lesson of this name"):
        lessons.lesson(name)


def test_a_teachers_own_lessons_are_found_and_a_damaged_one_spoils_no_other(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(GOOD.replace("place: 10", "place: 1"), encoding="utf-8")
    (tmp_path / "broken.yaml").write_text("title: x", encoding="utf-8")
    lessons.look_also_in(tmp_path)
    try:
        known, wrong = lessons.lessons()
    finally:
        lessons.look_also_in(None)
    assert next(iter(known)) == "mine"
    assert len(known) == 9
    assert [error.field.partition(":")[0] for error in wrong] == ["broken.yaml"]
