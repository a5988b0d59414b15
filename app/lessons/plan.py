"""A step's runs as an experiment: planned, begun with a prediction, begun again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import LabError
from app.experiments.file import create_experiment
from app.experiments.measurement import plan_measurement
from app.home import Home
from app.lessons.code import source_of
from app.lessons.predicted import Predicted, checked
from app.lessons.progress import Committed, commit, serve_again, take_back
from engine.config import RunSpec
from scenarios import lessons
from scenarios.lessons.lesson import Lesson
from scenarios.lessons.lesson_file import place_of, read_lesson, shared_settings, step_hash
from scenarios.measurement_file import Place
from store.errors import StoreError
from store.plan import Experiment
from store.slo import DEFAULT_SLO

if TYPE_CHECKING:
    from scenarios.build import Measure


def plan_step(lesson: str, step: int, *, measure: Measure | None = None) -> tuple[Experiment, dict[str, RunSpec]]:
    """The experiment of a lesson's step (counted from 0), and each variant's spec.

    Raises:
        ScenarioError: there is no such lesson, or something in its file is wrong (file, line, key, value, mend).
    """
    return _planned(lessons.lesson(lesson), lessons.path_of(lesson), step, measure)


def plan_file(path: Path) -> Lesson:
    """A lesson from its file, with all its steps planned and its code found, for whoever writes one.

    Raises ``ScenarioError``.
    """
    parsed = read_lesson(path)
    for n, step in enumerate(parsed.steps):
        _planned(parsed, path, n, None)
        try:
            source_of(step.code.path, step.code.symbol)
        except LabError as error:
            field = f"code.{error.field}"
            raise Place(path, f"steps.{n}").refusal(field, error.value, error.message, error.mend) from None
    return parsed


def _planned(parsed: Lesson, path: Path, step: int, measure: Measure | None) -> tuple[Experiment, dict[str, RunSpec]]:
    asked, place = parsed.steps[step], place_of(path, step)
    try:
        experiment, specs = plan_measurement(
            asked.measure,
            place,
            points=asked.measure.points(),
            settings=shared_settings(asked),
            repeats=asked.measure.repeats,
            slo=asked.measure.slo or DEFAULT_SLO,
            measure=measure,
        )
    except StoreError as error:
        raise place.refusal("slo", asked.measure.slo, error.message, error.mend) from None
    title = f"Lesson: {parsed.title}, step {step + 1}"
    return replace(experiment, title=title, question=asked.predict.ask), specs


def begin(
    home: Home, learner: str, lesson: str, step: int, predicted: Predicted, *, measure: Measure | None = None
) -> str:
    """Write the prediction down and begin its runs; the experiment's id. Nothing is left where either fails.

    Raises as ``plan_step``, and ``LabError`` for a prediction that the question does not take or that is made already.
    """
    asked = lessons.lesson(lesson).steps[step]
    value = checked(asked, predicted)
    experiment, specs = plan_step(lesson, step, measure=measure)
    home.require_space()
    committed = Committed(predicted=value, experiment_id=experiment.experiment_id, hash=step_hash(asked))
    commit(home, learner, lesson, step, committed)
    try:
        create_experiment(home, experiment, specs)
    except BaseException:
        take_back(home, learner, lesson, step)
        raise
    return experiment.experiment_id


def begin_again(home: Home, learner: str, lesson: str, step: int, *, measure: Measure | None = None) -> str:
    """Serve the runs of a prediction anew; the prediction stays. Raises as ``begin``."""
    experiment, specs = plan_step(lesson, step, measure=measure)
    home.require_space()
    create_experiment(home, experiment, specs)
    serve_again(home, learner, lesson, step, experiment.experiment_id)
    return experiment.experiment_id
