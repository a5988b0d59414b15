"""What a claim file says, key by key: a paper's claim as something that can be measured here, fixed before anything runs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, model_validator

from scenarios.papers.card import Line, Name
from scenarios.part import Part

Setting = bool | int | float | str | dict[str, bool | int | float | str] | None
Settings = dict[str, Setting]
FigureName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9]+( [a-z0-9]+)*$", max_length=60)]
Comparator = Literal["<=", ">="]
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


class Regime(Part):
    """Where the effect can exist, by the cost model and the machine's measured peaks."""

    kind: Literal["kv-bytes", "memory-bound-decode", "prefill-spike", "pool-full", "queue"] = Field(
        description="kv-bytes: share of keys and values in what a decode step reads. memory-bound-decode: share of decode steps that "
        "reading bounds, not arithmetic. prefill-spike: least time of the largest prompt step over that of a decode step. pool-full: "
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


class Claim(Part):
    """A paper's claim, ready to be measured."""

    says: Line = Field(description="The claim in one sentence, in our words.")
    paper: Stated
    differs: tuple[Line, ...] = Field(min_length=1, description="What differs here from the paper's setup.")
    scenario: str = Field(description="A built-in scenario.")
    set: Settings = Field(default_factory=dict, description="Settings that all variants share.")
    seed: int = Field(0, ge=0, le=2**63 - 1)
    varies: tuple[str, ...] = Field(min_length=1, description="The settings in which variants may differ.")
    variants: dict[Name, Settings] = Field(
        min_length=1, max_length=8, description="Ways to serve; the first is the baseline."
    )
    sweep: Sweep | None = None
    repeats: int = Field(5, ge=2, le=100, description="The fewest that give a verdict.")
    quick: Quick = Quick()
    figures: dict[FigureName, Figure] = Field(min_length=1, max_length=32)
    predicates: tuple[Predicate, ...] = Field(min_length=1, max_length=12, description="All must hold.")
    gates: tuple[Gate, ...] = Field(min_length=1, max_length=6)
    regimes: tuple[Regime, ...] = Field((), max_length=4)
    plot: Plot

    @model_validator(mode="after")
    def _has_two_sides(self) -> Claim:
        if len(self.variants) * len(self.sweep.points if self.sweep else ("once",)) < 2:
            raise ValueError("one variant without a sweep is compared with nothing")
        if self.quick.points is not None and self.sweep is None:
            raise ValueError("quick.points are those of a sweep, and there is none")
        return self

    @property
    def baseline(self) -> str:
        return next(iter(self.variants))

    def points(self, quick: bool) -> tuple[Point | None, ...]:
        """The points of the sweep; one None without any."""
        if self.sweep is None:
            return (None,)
        return (self.quick.points if quick else None) or self.sweep.points

    def names_of_variants(self) -> Iterator[tuple[str, str]]:
        """Where a variant is named, as a dotted key, and its name."""
        for name, figure in self.figures.items():
            if figure.of is not None:
                yield f"figures.{name}.of", figure.of
        for n, gate in enumerate(self.gates):
            yield from ((f"gates.{n}.of.{k}", of) for k, of in enumerate(gate.of))
        yield from ((f"regimes.{n}.of", regime.of) for n, regime in enumerate(self.regimes))

    def names_of_figures(self) -> Iterator[tuple[str, str]]:
        """Where a figure is named, as a dotted key, and its name."""
        for name, figure in self.figures.items():
            source = "ratio" if figure.ratio else "difference"
            yield from ((f"figures.{name}.{source}.{k}", part) for k, part in enumerate(figure.parts))
        for n, predicate in enumerate(self.predicates):
            named = (predicate.of,) if isinstance(predicate.of, str) else predicate.of
            keys = [f"predicates.{n}.of"] if isinstance(predicate.of, str) else []
            keys = keys or [f"predicates.{n}.of.{k}" for k in range(len(named))]
            yield from zip(keys, named, strict=True)
            if isinstance(predicate, Within):
                yield from ((f"predicates.{n}.others.{k}", other) for k, other in enumerate(predicate.others))
        yield from ((f"plot.of.{k}", name) for k, name in enumerate(self.plot.of))
