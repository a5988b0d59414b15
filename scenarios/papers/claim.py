"""What a claim file says, key by key: a paper's claim as something that can be measured here, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from scenarios.measurement import MOST_POINTS, FigureName, Measurement, Pair, Point, Settings
from scenarios.part import Line, Name, Part

Comparator = Literal["<=", ">="]


class Ratio(Part):
    """The first figure over the second reaches the threshold; 1 is no effect."""

    kind: Literal["ratio"]
    of: Pair
    comparator: Comparator
    threshold: float = Field(gt=0)


class Difference(Part):
    """The first figure less the second reaches the threshold; 0 is no effect."""

    kind: Literal["difference"]
    of: Pair
    comparator: Comparator
    threshold: float


class Level(Part):
    """A figure reaches the threshold by itself. ``neutral``: its value where there is no effect, if it has one."""

    kind: Literal["level"]
    of: FigureName
    comparator: Comparator
    threshold: float
    neutral: float | None = None


class Slope(Part):
    """Over the sweep, the first figure rises so many times as steeply as the second; 1 is no effect."""

    kind: Literal["slope"]
    of: Pair
    threshold: float = Field(gt=1)


class Crossing(Part):
    """Over the sweep, the first figure is below the second somewhere and above it elsewhere."""

    kind: Literal["crossing"]
    of: Pair


class Monotone(Part):
    """Over the sweep, the figure rises, or falls, from each point to the next."""

    kind: Literal["monotone"]
    of: FigureName
    direction: Literal["rises", "falls"]


class Rank(Part):
    """The figures in this order, the smallest first."""

    kind: Literal["rank"]
    of: tuple[FigureName, ...] = Field(min_length=2, max_length=8)


class Within(Part):
    """At every point the figure is within a share of the best of the others."""

    kind: Literal["within"]
    of: FigureName
    others: tuple[FigureName, ...] = Field(min_length=1, max_length=8)
    share: float = Field(gt=0, lt=1)
    better: Literal["lower", "higher"]


Predicate = Annotated[
    Ratio | Difference | Level | Slope | Crossing | Monotone | Rank | Within, Field(discriminator="kind")
]
OVER_A_SWEEP = ("slope", "crossing", "monotone")


class Gate(Part):
    """What must hold for the outputs before any figure counts."""

    kind: Literal["tokens-equal", "matched", "budget-kept", "prefilled-once"] = Field(
        description="tokens-equal: every request's tokens are those of the baseline (float32). matched: at least this share of an answer "
        "comes before the first token that differs. budget-kept: no step computes more than its budget. prefilled-once: every "
        "prompt token is computed once, or taken from the cache."
    )
    of: tuple[Name, ...] = Field(min_length=1, description="The variants it holds for.")
    least: float | None = Field(None, gt=0, le=1, description="With matched: the least share, the mean over requests.")

    @model_validator(mode="after")
    def _has_its_bound(self) -> Gate:
        if (self.kind == "matched") != (self.least is not None):
            raise ValueError("least belongs to the gate matched, and to no other")
        return self


class Plot(Part):
    """The picture that shows the effect."""

    kind: Literal["bars", "lines"] = Field(description="bars: a bar per figure; lines: figures over the sweep.")
    of: tuple[FigureName, ...] = Field(min_length=1, max_length=8)
    title: Line


class Quick(Part):
    """Smaller sizes for a first answer in a minute or two. What is claimed stays."""

    repeats: int = Field(3, ge=2, le=100)
    set: Settings = Field(default_factory=dict)
    points: tuple[Point, ...] | None = Field(None, min_length=2, max_length=MOST_POINTS)


class Stated(Part):
    """What the paper itself reports, to stand beside our figure."""

    figure: Line
    setup: Line


class Claim(Measurement):
    """A paper's claim, ready to be measured."""

    says: Line = Field(description="The claim in one sentence, in our words.")
    paper: Stated
    differs: tuple[Line, ...] = Field(min_length=1, description="What differs here from the paper's setup.")
    repeats: int = Field(5, ge=2, le=100, description="The fewest that give a verdict.")
    quick: Quick = Quick()
    predicates: tuple[Predicate, ...] = Field(min_length=1, max_length=12, description="All must hold.")
    gates: tuple[Gate, ...] = Field(min_length=1, max_length=6)
    plot: Plot

    @model_validator(mode="after")
    def _has_a_sweep_for_quick_points(self) -> Claim:
        if self.quick.points is not None and self.sweep is None:
            raise ValueError("quick.points are those of a sweep, and there is none")
        return self

    def points(self, quick: bool) -> tuple[Point | None, ...]:
        """The points of the sweep; one None without any."""
        if self.sweep is None:
            return (None,)
        return (self.quick.points if quick else None) or self.sweep.points

    def forms(self) -> Iterator[tuple[Point | None, ...]]:
        yield from (self.points(quick) for quick in (False, True))

    def names_of_variants(self) -> Iterator[tuple[str, str]]:
        yield from super().names_of_variants()
        for n, gate in enumerate(self.gates):
            yield from ((f"gates.{n}.of.{k}", of) for k, of in enumerate(gate.of))

    def names_of_figures(self) -> Iterator[tuple[str, str]]:
        yield from super().names_of_figures()
        for n, predicate in enumerate(self.predicates):
            named = (predicate.of,) if isinstance(predicate.of, str) else predicate.of
            keys = [f"predicates.{n}.of"] if isinstance(predicate.of, str) else []
            keys = keys or [f"predicates.{n}.of.{k}" for k in range(len(named))]
            yield from zip(keys, named, strict=True)
            if isinstance(predicate, Within):
                yield from ((f"predicates.{n}.others.{k}", other) for k, other in enumerate(predicate.others))
        yield from ((f"plot.of.{k}", name) for k, name in enumerate(self.plot.of))

    def given_settings(self) -> Iterator[tuple[str, Settings]]:
        yield from super().given_settings()
        yield "quick.set", self.quick.set
        yield from ((f"quick.points.{n}.set", point.set) for n, point in enumerate(self.quick.points or ()))
