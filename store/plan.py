"""``experiment.json``: an experiment's plan and how far it has come. The model of the file.

What a plan means and how one is drawn up stands in ``app.experiments.plan``.
"""

from __future__ import annotations

from dataclasses import asdict, field
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, model_validator
from pydantic.dataclasses import dataclass

from store.slo import DEFAULT_SLO
from telemetry.json_file import Count, Nanoseconds, Unreadable, parse_as, read_bounded
from telemetry.status import Label, Words

FILE = "experiment.json"
VERSION = 1
MOST_BYTES = 16 << 20
MOST_VARIANTS = 64
MOST_REPEATS = 1000
MOST_TURNS = 100_000

Name = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]{1,200}$")]
Id = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")]
Settings = Annotated[dict[Label, Words], Field(max_length=200)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]  # requests/s
State = Literal["running", "paused", "finished", "failed"]

_PART = ConfigDict(extra="ignore")


@dataclass(frozen=True, config=_PART)
class Variant:
    """One way to serve: a name and the settings it changes, as text by dotted name."""

    name: Words
    settings: Settings = field(default_factory=dict)


@dataclass(frozen=True, config=_PART)
class Turn:
    """One run of the plan. ``run_id``: its latest attempt; "" before the first. ``load``: the machine's when it began."""

    variant: Words
    repeat: Count
    warm_up: bool = False
    run_id: Id | Literal[""] = ""
    attempts: Count = 0
    done: bool = False
    load: float | None = None
    rate: Rate | None = None  # of a search: requests/s
    held: bool | None = None  # whether that rate was served well
    figures: dict[Label, float | None] = field(default_factory=dict)  # what says so


@dataclass(frozen=True, config=_PART)
class Search:
    """A search for capacity: between which rates (requests/s), how closely, by Sarathi-Serve's criterion or the objective."""

    low: Rate
    high: Rate
    tolerance: Rate
    tbt_ms: Rate | None = None


@dataclass(frozen=True, config=_PART)
class StopRule:
    """Of a comparison that adds repeats: until which figure's ratio scatters by at most ``width`` (a share), and how many at most."""

    metric: Label
    width: Rate
    most: Annotated[int, Field(ge=1, le=MOST_REPEATS)]


@dataclass(frozen=True, config=_PART)
class ClaimMark:
    """Of a paper's claim: which, and the hash of everything that decides its verdict, as it was before anything ran."""

    paper: Id
    hash: Label
    quick: bool = False


@dataclass(frozen=True, config=_PART)
class Experiment:
    """The plan and how far it has come. The first variant is the baseline."""

    experiment_id: Id
    kind: Literal["compare", "sweep", "capacity"]
    scenario: Words
    title: Words
    question: Words
    variants: Annotated[tuple[Variant, ...], Field(min_length=1, max_length=MOST_VARIANTS)]
    repeats: Annotated[int, Field(ge=1, le=MOST_REPEATS)]
    turns: Annotated[tuple[Turn, ...], Field(max_length=MOST_TURNS)]
    workload_hashes: dict[Words, Label]  # variant -> hash
    state: State = "running"
    problem: Words = ""
    created_unix_ns: Nanoseconds = 0
    over: Annotated[dict[Label, tuple[Words, ...]], Field(max_length=16)] = field(
        default_factory=dict
    )  # setting -> values
    slo: Words = DEFAULT_SLO  # as store.slo.parse_slo reads it
    search: Search | None = None  # of a search for capacity
    sizing: Words = ""  # how the requests were made to fit the machine, in words
    claim: ClaimMark | None = None  # of a paper's claim that this experiment tests
    stop: StopRule | None = None  # of a comparison that adds repeats by itself
    again: Count = 0  # how often a run that was disturbed is served again
    draws: Annotated[tuple[Label, ...], Field(max_length=MOST_REPEATS)] = ()
    # of a comparison whose repeats each ask requests of their own: each repeat's workload hash

    @property
    def baseline(self) -> str:
        return self.variants[0].name

    @property
    def workload_hash(self) -> str:
        """The hash all variants share; in a sweep over workloads, the first's."""
        return self.workload_hashes[self.baseline]

    def hash_of(self, name: str, repeat: int) -> str:
        """The workload hash of a variant's runs in a repeat."""
        return self.draws[repeat] if self.draws else self.workload_hashes[name]

    def about(self) -> dict[str, Any]:
        """What every result of the experiment begins with."""
        return {
            "experiment_id": self.experiment_id,
            "kind": self.kind,
            "state": self.state,
            "scenario": self.scenario,
            "title": self.title,
            "question": self.question,
            "workload_hash": self.workload_hash,
            "baseline": self.baseline,
            "draws": len(self.draws) or 1,
        }

    def variant(self, name: str) -> Variant:
        return next(v for v in self.variants if v.name == name)

    def turns_of(self, name: str) -> list[Turn]:
        """A variant's finished turns, by repeat; without the warm-up."""
        turns = [t for t in self.turns if t.variant == name and t.done and not t.warm_up]
        return sorted(turns, key=lambda t: t.repeat)

    def runs_of(self, name: str) -> list[str]:
        """Ids of a variant's finished runs, by repeat; without the warm-up."""
        return [turn.run_id for turn in self.turns_of(name)]

    def complete_repeats(self) -> int:
        """Repeats that every variant has finished."""
        return min(len(self.runs_of(v.name)) for v in self.variants)


class _Stored(BaseModel):
    """What holds between the parts of a plan that is on disk."""

    version: Literal[1]
    experiment: Experiment

    @model_validator(mode="before")
    @classmethod
    def _beside_the_version(cls, data: Any) -> Any:
        return {"version": data.get("version"), "experiment": data} if isinstance(data, dict) else data

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        plan = self.experiment
        names = [TypeAdapter(Name).validate_python(variant.name) for variant in plan.variants]
        strangers = sorted({turn.variant for turn in plan.turns} - set(names))
        lacking = [name for name in names if name not in plan.workload_hashes]
        if len(set(names)) != len(names):
            raise ValueError("two variants have the same name")
        if len(names) < (1 if plan.kind == "capacity" else 2):
            raise ValueError("a comparison takes two variants at least")
        if strangers or lacking:
            raise ValueError(
                f"there is no variant {strangers[0]!r}" if strangers else f"{lacking[0]!r} has no workload"
            )
        most = max([plan.stop.most if plan.stop is not None else 0, *(turn.repeat + 1 for turn in plan.turns)])
        if plan.draws and (plan.kind != "compare" or len(plan.draws) < most):
            raise ValueError("draws are the workloads of a comparison's repeats, one for each")
        if plan.stop is not None and plan.kind != "compare":
            raise ValueError("only a comparison adds repeats by itself")
        if any(turn.done and not turn.run_id for turn in plan.turns):
            raise ValueError("a turn is done without a run")
        if plan.kind == "capacity" and (
            plan.search is None or any(t.rate is None and not t.warm_up for t in plan.turns)
        ):
            raise ValueError("a search for capacity has rates")
        return self


def read_plan(folder: Path) -> Experiment:
    """The experiment of a folder. Raises FileNotFoundError, ``Unreadable``."""
    plan = parse_plan(read_bounded(folder / FILE, MOST_BYTES), folder / FILE)
    if plan.experiment_id != folder.name:
        raise Unreadable(folder / FILE, f"experiment_id: it is that of {plan.experiment_id}")
    return plan


def parse_plan(data: bytes, path: Path) -> Experiment:
    """An experiment from its file's bytes; ``path`` is what the error names. Raises ``Unreadable``."""
    return parse_as(_Stored, data, path).experiment


def document_of(experiment: Experiment) -> dict[str, Any]:
    """What the file holds."""
    return {"version": VERSION} | asdict(experiment)
