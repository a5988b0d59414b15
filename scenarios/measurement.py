"""What is measured, key by key: ways to serve the same requests, figures of their runs, and where an effect can exist at all.

A paper's claim (``scenarios.papers.claim``) and the step of a lesson (``scenarios.lessons.lesson``) are measurements.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from scenarios.part import Line, Name, Part

Setting = bool | int | float | str | dict[str, bool | int | float | str] | None
Settings = dict[str, Setting]
FigureName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+( [a-z0-9]+)*$", max_length=60)]
Pair = tuple[FigureName, FigureName]
MOST_POINTS = 12


class Figure(Part):
    """A figure of every repeat: measured in a variant's runs, or made of two other figures."""

    metric: str | None = Field(None, description="A metric, by its name.")
    of: Name | None = Field(None, description="With metric: the variant whose runs it is measured in.")
    at: float | None = Field(None, description="With metric: at this point of the sweep alone.")
    ratio: Pair | None = Field(None, description="Instead: the first figure over the second.")
    difference: Pair | None = Field(None, description="Instead: the first figure less the second.")

    @model_validator(mode="after")
    def _comes_from_one_source(self) -> Figure:
        if sum(source is not None for source in (self.metric, self.ratio, self.difference)) != 1:
            raise ValueError("give exactly one of metric, ratio and difference")
        if (self.metric is None) != (self.of is None) or (self.metric is None and self.at is not None):
            raise ValueError("of and at belong to metric: metric names what is measured, of the variant")
        return self

    @property
    def parts(self) -> tuple[str, ...]:
        """The figures it is made of."""
        return self.ratio or self.difference or ()


class Regime(Part):
    """Where the effect can exist, by the cost model and the machine's measured peaks."""

    kind: Literal[
        "kv-bytes", "memory-bound-decode", "arithmetic-bound-decode", "prefill-spike", "pool-full", "queue"
    ] = Field(
        description="kv-bytes: share of keys and values in what a decode step reads. memory-bound-decode: share of decode steps that "
        "reading bounds, not arithmetic; arithmetic-bound-decode: of those that arithmetic bounds. prefill-spike: least time of the largest prompt step over that of a decode step. pool-full: "
        "most of the pool in use. queue: share of steps with a request waiting."
    )
    of: Name = Field(description="The variant whose runs say so.")
    at: float | None = Field(None, description="At this point of the sweep; empty: at its last one.")
    least: float = Field(gt=0, description="The least value at which the effect can show.")
    knob: Line = Field(description="The setting that moves it.")


class Point(Part):
    """One point of a sweep: its place on the axis and what it sets, in all variants alike."""

    x: float
    set: Settings = Field(min_length=1)


class Sweep(Part):
    """Points along one axis; every variant is served at each."""

    axis: Line = Field(description="What the axis is, with its unit.")
    points: tuple[Point, ...] = Field(min_length=2, max_length=MOST_POINTS)

    @model_validator(mode="after")
    def _goes_up(self) -> Sweep:
        places = [point.x for point in self.points]
        if places != sorted(set(places)):
            raise ValueError("points go up the axis, each x once")
        return self


class Measurement(Part):
    """The same requests served in several ways, and the figures that are read from the runs."""

    scenario: str = Field(description="A built-in scenario.")
    set: Settings = Field(default_factory=dict, description="Settings that all variants share.")
    seed: int = Field(0, ge=0, le=2**63 - 1)
    varies: tuple[str, ...] = Field(min_length=1, description="The settings in which variants may differ.")
    variants: dict[Name, Settings] = Field(
        min_length=1, max_length=8, description="Ways to serve; the first is the baseline."
    )
    sweep: Sweep | None = None
    figures: dict[FigureName, Figure] = Field(min_length=1, max_length=32)
    regimes: tuple[Regime, ...] = Field((), max_length=4)

    @model_validator(mode="after")
    def _has_two_sides(self) -> Measurement:
        if len(self.variants) * len(self.sweep.points if self.sweep else ("once",)) < 2:
            raise ValueError("one variant without a sweep is compared with nothing")
        return self

    @property
    def baseline(self) -> str:
        return next(iter(self.variants))

    def forms(self) -> Iterator[tuple[Point | None, ...]]:
        """The points of every form in which it can be served; one None where nothing is swept."""
        yield self.sweep.points if self.sweep else (None,)

    def names_of_variants(self) -> Iterator[tuple[str, str]]:
        """Where a variant is named, as a dotted key, and its name."""
        for name, figure in self.figures.items():
            if figure.of is not None:
                yield f"figures.{name}.of", figure.of
        yield from ((f"regimes.{n}.of", regime.of) for n, regime in enumerate(self.regimes))

    def names_of_figures(self) -> Iterator[tuple[str, str]]:
        """Where a figure is named, as a dotted key, and its name."""
        for name, figure in self.figures.items():
            source = "ratio" if figure.ratio else "difference"
            yield from ((f"figures.{name}.{source}.{k}", part) for k, part in enumerate(figure.parts))

    def given_settings(self) -> Iterator[tuple[str, Settings]]:
        """Where settings stand, as a dotted key, and the settings."""
        yield "set", self.set
        yield from ((f"variants.{name}", settings) for name, settings in self.variants.items())
        points = self.sweep.points if self.sweep else ()
        yield from ((f"sweep.points.{n}.set", point.set) for n, point in enumerate(points))
