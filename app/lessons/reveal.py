"""What the runs of a step say: the score of the prediction, whether the effect showed, and sentences.

All figures of the sentences are the runs' own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import duckdb
import numpy as np

from app.experiments.measured import Measured, absent
from app.lessons.predicted import Predicted, in_words
from app.words.text import number
from scenarios.lessons.lesson import Choice, Curve, Number, Step
from scenarios.lessons.lesson_file import values_of
from scenarios.lessons.text import INTERVAL, PREDICTED, REASON, REPEATS, filled
from store import predictions
from store.claim_figures import unit_of
from store.plan import Experiment
from store.predictions import Scored

Outcome = Literal["right", "direction", "wrong", "did not show here", "open"]
OUTCOMES: Mapping[Outcome, str] = {
    "right": "Right: it lies within the measured interval.",
    "direction": "The right direction, and not the size.",
    "wrong": "Wrong: it lies outside the measured interval.",
    "did not show here": "The effect did not show here.",
    "open": "It cannot be told from these runs.",
}
COUNTED = ("requests", "tokens", "blocks")
OPEN_WORDS = (
    "A figure of this step has no value in these runs, or scatters so much between them that any prediction would be "
    "right: something else may use the machine. Serve the runs again when it is quiet; your prediction stays."
)


@dataclass(frozen=True)
class Reveal:
    """What is shown after the run."""

    outcome: Outcome
    scored: Scored
    showed: bool
    paragraphs: tuple[str, ...]
    figures: dict[str, dict[str, Any]]  # as ``Measured.drawn``
    notes: tuple[str, ...]
    to_try: str
    code: str


def reveal(
    con: duckdb.DuckDBPyConnection,
    experiment: Experiment,
    step: Step,
    predicted: Predicted,
    measured: Measured | None = None,
) -> Reveal:
    """Hold a prediction against the runs of its experiment, which are over and in the database. ``measured``: these
    runs, where they were read already.
    """
    measured = measured or Measured(con, experiment, step.measure, step.measure.points())
    scored = score(step, predicted, measured)
    effect = step.effect
    row = measured.figure(effect.of)[0]
    showed = predictions.shows(row, beyond=effect.beyond, goes=effect.goes, log=_is_ratio(step, effect.of))
    outcome: Outcome = scored.score
    if outcome in ("direction", "wrong") and not showed:
        outcome = "did not show here"
    figures = {name: measured.drawn(name) for name in step.measure.figures}
    values = _values(step, figures, experiment) | {PREDICTED: in_words(step, predicted)}
    values[REASON] = _reason(step, measured, values)
    if outcome == "open":
        paragraphs: tuple[str, ...] = (OPEN_WORDS,)
    elif showed:
        lead = {"right": step.explain.right, "direction": step.explain.direction}.get(outcome, step.explain.wrong)
        paragraphs = (filled(lead, values), filled(step.explain.why, values))
    else:
        paragraphs = (filled(step.explain.absent, values),)
    return Reveal(
        outcome,
        scored,
        showed,
        paragraphs,
        figures,
        tuple(measured.notes()),
        filled(step.to_try.says, values),
        filled(step.code.says, values),
    )


def score(step: Step, predicted: Predicted, measured: Measured) -> Scored:
    """The prediction against the interval of what it is about."""
    asked = step.predict
    if isinstance(asked, Choice) and isinstance(predicted, int | float):
        option = asked.options[int(predicted)]
        row, neutral, log = measured.figure(asked.of)[0], _neutral(step, asked.of), _is_ratio(step, asked.of)
        return predictions.choice(option.low, option.high, row, neutral=neutral, log=log)
    if isinstance(asked, Number) and isinstance(predicted, int | float):
        row, neutral, log = measured.figure(asked.of)[0], _neutral(step, asked.of), _is_ratio(step, asked.of)
        return predictions.number(predicted, row, close=asked.close, neutral=neutral, log=log)
    parts = predicted if isinstance(predicted, tuple) else (predicted,)
    if isinstance(asked, Curve):
        return predictions.curve([float(one) for one in parts], measured.figure(asked.of), close=asked.close)
    names = [str(name) for name in parts]
    return predictions.ordering(names, {name: measured.figure(name)[0] for name in names})


def with_unit(value: float | None, unit: str) -> str:
    """``12.3 ms``; a share as ``45 %``; ``1 request`` of requests; *no value* where there is none."""
    if value is None or not np.isfinite(value):
        return "no value"
    if unit == "share":
        return f"{_short(100 * value)} %"
    return f"{_short(value)} {unit.removesuffix('s') if value == 1 and unit in COUNTED else unit}".rstrip()


def interval_in_words(ends: Sequence[float] | None, unit: str) -> str:
    """``12.1 to 12.6 ms``; where all repeats gave the same, that."""
    if ends is None:
        return "no interval"
    low, high = (with_unit(end, unit) for end in ends)
    if low == high:
        return "the same in every repeat"
    return f"{low.partition(' ')[0]} to {high}"


def _short(value: float) -> str:
    """Three digits: a sentence is read, and the table below it has the fourth."""
    return number(round(value)) if abs(value) >= 100 else f"{value:.3g}"


def figure_unit(step: Step, name: str) -> str:
    """A figure's unit: its metric's; of a ratio none, of a difference its parts'."""
    figure = step.measure.figures[name]
    if figure.metric is not None:
        return "share" if figure.metric.endswith("_share") else unit_of(figure.metric)
    return "" if figure.ratio else figure_unit(step, figure.parts[0])


def _values(step: Step, figures: Mapping[str, Mapping[str, Any]], experiment: Experiment) -> dict[str, str]:
    """What fills placeholders: every figure with one value, and its interval."""
    values = {REPEATS: str(experiment.complete_repeats())}
    for name, drawn in figures.items():
        if values_of(step, name) == 1:
            unit = figure_unit(step, name)
            values[name] = with_unit(drawn["values"][0], unit)
            ends = drawn["intervals"][0]
            values[name + INTERVAL] = interval_in_words(ends, unit)
    return values


def _reason(step: Step, measured: Measured, values: Mapping[str, str]) -> str:
    """Why an effect did not show: the regime that was not reached, else what the interval says."""
    regimes = measured.regimes()
    missing = absent(regimes)
    if missing:
        return " ".join(one[:1].upper() + one[1:] for one in missing)
    of, goes = step.effect.of, "above" if step.effect.goes == "up" else "below"
    figure = f"The figure that decides, “{of}”, is {values[of]} ({values[of + INTERVAL]})"
    said = f"{figure}, and that does not lie wholly {goes} no effect."
    held = " ".join(f"{reached.says[:1].upper()}{reached.says[1:]}." for _, reached in regimes)
    hidden = "The condition for it holds, so something else hides it: time around the model's pass, or other programs."
    return f"{said} {held} {hidden}" if held else said


def _neutral(step: Step, name: str) -> float | None:
    """The value of no effect: 1 of a ratio, 0 of a difference, that of the step's effect where it is about this one."""
    figure = step.measure.figures[name]
    if name == step.effect.of:
        return step.effect.beyond
    return 1.0 if figure.ratio else 0.0 if figure.difference else None


def _is_ratio(step: Step, name: str) -> bool:
    return step.measure.figures[name].ratio is not None
