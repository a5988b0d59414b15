"""What a lesson's file says, key by key: steps, each with a prediction, the runs it is about, and what is said afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from scenarios.lessons.text import Template
from scenarios.measurement import FigureName, Measurement, Point, Settings
from scenarios.part import Line, Part

MOST_STEPS = 6
Share = Annotated[float, Field(ge=0, le=1)]
Unit = Annotated[str, StringConstraints(max_length=24)]
Notes = Annotated[str, StringConstraints(strip_whitespace=True, min_length=20, max_length=1500)]


class Option(Part):
    """An answer to choose: it is right where the figure lies between ``low`` and ``high``."""

    says: Line
    low: float | None = Field(None, description="Empty: no lower bound.")
    high: float | None = Field(None, description="Empty: no upper bound.")

    @model_validator(mode="after")
    def _goes_up(self) -> Option:
        if self.low is None and self.high is None:
            raise ValueError("give low, high or both: an answer without a bound is always right")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError("low must lie below high")
        return self


class Choice(Part):
    """One of several answers about a figure."""

    kind: Literal["choice"]
    ask: Line
    of: FigureName
    options: tuple[Option, ...] = Field(min_length=2, max_length=6)


class _Amount(Part):
    """What predictions of numbers have in common."""

    ask: Line
    of: FigureName
    low: float = Field(description="The smallest number that can be predicted.")
    high: float = Field(description="The largest.")
    unit: Unit = ""
    close: Share = Field(0.1, description="Right is also what misses the interval by at most this share of it.")

    @model_validator(mode="after")
    def _goes_up(self) -> _Amount:
        if self.low >= self.high:
            raise ValueError("low must lie below high")
        return self


class Number(_Amount):
    """A number between two bounds."""

    kind: Literal["number"]


class Curve(_Amount):
    """A number at every point of the sweep, drawn as a curve."""

    kind: Literal["curve"]


class Ordering(Part):
    """Figures, the smallest first."""

    kind: Literal["ordering"]
    ask: Line
    of: tuple[FigureName, ...] = Field(min_length=2, max_length=6)

    @model_validator(mode="after")
    def _names_each_once(self) -> Ordering:
        if len(set(self.of)) != len(self.of):
            raise ValueError("every figure stands in it once")
        return self


Predict = Annotated[Choice | Number | Curve | Ordering, Field(discriminator="kind")]


class Effect(Part):
    """What the step shows: its interval lies wholly beyond the value of no effect."""

    of: FigureName = Field(description="A figure with one value, such as a ratio.")
    beyond: float = Field(description="Its value without any effect: 1 of a ratio, 0 of a difference.")
    goes: Literal["up", "down"]


class Explain(Part):
    """What is said after the run: first how the prediction fared, then why."""

    right: Template
    direction: Template = Field(description="The prediction has the right direction and not the right size.")
    wrong: Template
    why: Template = Field(description="Where the effect showed.")
    absent: Template = Field(description="Where it did not; {reason} says why, from the regime.")


class Try(Part):
    """One thing to try afterwards: the panel of the Live page, set up."""

    says: Template
    scenario: str = Field(description="A built-in scenario.")
    set: Settings = Field(default_factory=dict)


class Code(Part):
    """The code that did it."""

    says: Template
    path: str = Field(pattern=r"^(engine|scenarios|store|telemetry|app)/[a-z0-9_/]+\.py$", max_length=120)
    symbol: str = Field(
        pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)*$", max_length=120, description="Such as Scheduler.plan."
    )


class StepMeasurement(Measurement):
    """The runs of a step: small enough for less than a minute on two cores."""

    repeats: int = Field(3, ge=2, le=20)
    slo: str | None = Field(
        None, max_length=60, description="The objective of attainment and goodput, such as ttft=250,tpot=100."
    )

    def points(self) -> tuple[Point | None, ...]:
        return self.sweep.points if self.sweep else (None,)


class Step(Part):
    """One prediction, its runs, and what is said about them."""

    title: Line
    setup: Template = Field(description="Two or three sentences, without figures.")
    predict: Predict
    measure: StepMeasurement
    effect: Effect
    explain: Explain
    # ``try`` is a word of Python's own
    to_try: Try = Field(alias="try")
    code: Code
    notes: Notes | None = Field(
        None, description="For whoever speaks, shown in a second window alone: what to ask, what to point at."
    )

    def templates(self) -> Iterator[tuple[str, str]]:
        """Where the texts stand that are filled after the run, as a dotted key, and the texts."""
        for name in Explain.model_fields:
            yield f"explain.{name}", getattr(self.explain, name)
        yield "try.says", self.to_try.says
        yield "code.says", self.code.says

    def names_of_figures(self) -> Iterator[tuple[str, str]]:
        """Where a figure is named outside ``measure``, as a dotted key, and its name."""
        of = self.predict.of
        if isinstance(of, str):
            yield "predict.of", of
        else:
            yield from ((f"predict.of.{n}", name) for n, name in enumerate(of))
        yield "effect.of", self.effect.of


class Lesson(Part):
    """A lesson: a subject in a few steps."""

    title: Line
    summary: Line = Field(description="What one knows afterwards, in a sentence.")
    place: int = Field(ge=1, le=1000, description="Its place in the list; equal ones stand by their names.")
    steps: tuple[Step, ...] = Field(min_length=1, max_length=MOST_STEPS)
