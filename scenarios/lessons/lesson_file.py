"""Reading a lesson's file, strictly: what is unknown or of a wrong type, and names that lead nowhere, by file, line and key."""

from __future__ import annotations

import itertools
from pathlib import Path

from engine.config import ConfigError, suggest
from scenarios.lessons.lesson import Choice, Curve, Lesson, Step
from scenarios.lessons.text import (
    ALWAYS,
    INTERVAL,
    REASON,
    placeholders,
    wrong_with,
    wrong_with_notes,
    wrong_with_setup,
)
from scenarios.load import load
from scenarios.measurement_file import Place, as_settings, measured_hash, refuse_unsound, with_line
from scenarios.yaml_file import ScenarioError, read_as

BEGIN = "title, summary, place and steps"


def read_lesson(path: Path) -> Lesson:
    """Read and check a lesson's file by itself; metrics and settings are checked where a step is planned. Raises ``ScenarioError``."""
    try:
        parsed = read_as(Lesson, path, BEGIN)
    except ScenarioError as error:
        raise with_line(path, error.field.partition(": ")[2], error) from None
    for n, step in enumerate(parsed.steps):
        refuse_unsound(step.measure, place_of(path, n))
        _refuse_unsound_step(step, Place(path, f"steps.{n}"))
    return parsed


def place_of(path: Path, step: int) -> Place:
    """Where a step's measurement stands."""
    return Place(path, f"steps.{step}.measure")


def shared_settings(step: Step) -> dict[str, str]:
    """What all variants of a step share."""
    return as_settings({"seed": step.measure.seed}, step.measure.set)


def step_hash(step: Step) -> str:
    """SHA-256 over what a step measures and how a prediction about it is scored; texts change nothing."""
    others = {
        "repeats": step.measure.repeats,
        "slo": step.measure.slo,
        "predict": step.predict.model_dump(mode="json", exclude={"ask"}),
        "effect": step.effect.model_dump(mode="json"),
    }
    return measured_hash(step.measure, step.measure.points(), shared_settings(step), others)


def values_of(step: Step, figure: str) -> int:
    """How many values a figure of the step has: one, or as many as the sweep has points."""
    named = step.measure.figures[figure]
    if named.metric is not None:
        return 1 if named.at is not None or step.measure.sweep is None else len(step.measure.points())
    return max(values_of(step, part) for part in named.parts)


def _refuse_unsound_step(step: Step, place: Place) -> None:
    known = list(step.measure.figures)
    for field, name in step.names_of_figures():
        if name not in known:
            raise place.refusal(field, name, f"There is no figure {name!r}.", suggest(name, known))
    single = [name for name in known if values_of(step, name) == 1]
    for field, name in step.names_of_figures():
        swept = isinstance(step.predict, Curve) and field == "predict.of"
        if swept == (name in single):
            message = (
                "It has one value, and a curve has one at every point." if swept else "It has a value at every point."
            )
            mend = "Take a figure over the sweep." if swept else "Give its metric at one point (at)."
            raise place.refusal(field, name, message, mend)
    _refuse_unfilled(step, place, single)
    _refuse_overlaps(step, place)
    try:
        load(step.to_try.scenario)
    except ConfigError as error:
        raise place.with_line("try.scenario", error) from None


def _refuse_unfilled(step: Step, place: Place, single: list[str]) -> None:
    """Raises ``ScenarioError`` for a figure in a text, and for a placeholder that no figure of the step fills."""
    texts = [("setup", step.setup, wrong_with_setup), *((field, text, wrong_with) for field, text in step.templates())]
    for field, text, wrong in texts:
        found = wrong(text)
        if found is not None:
            raise place.refusal(field, text, *found)
    found = wrong_with_notes(step.notes or "")
    if found is not None:
        raise place.refusal("notes", step.notes, *found)
    fills = {*ALWAYS, *single, *(name + INTERVAL for name in single)}
    for field, text in step.templates():
        can = fills | {REASON} if field == "explain.absent" else fills
        for name in placeholders(text):
            if name not in can:
                message = f"Nothing fills {{{name}}}: the step has no figure with one value of this name."
                raise place.refusal(field, name, message, suggest(name, sorted(can)))
    if REASON not in placeholders(step.explain.absent):
        message = "It does not say why the effect did not show."
        raise place.refusal("explain.absent", None, message, f"Put {{{REASON}}} into it.")


def _refuse_overlaps(step: Step, place: Place) -> None:
    """Raises ``ScenarioError`` where two answers would be right for the same value."""
    if not isinstance(step.predict, Choice):
        return
    ends = [
        (-float("inf") if one.low is None else one.low, float("inf") if one.high is None else one.high, n)
        for n, one in enumerate(step.predict.options)
    ]
    ordered = sorted(ends)
    for (_, high, _), (low, _, n) in itertools.pairwise(ordered):
        if low < high:
            message = f"It begins at {low:g}, where another answer goes on to {high:g}."
            raise place.refusal(f"predict.options.{n}", None, message, "Let answers touch and not overlap.")
