"""When requests come: open-loop arrival processes, closed loops of clients, and the replay of recorded traces."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from scenarios.gaps import filling
from scenarios.lengths import Fixed, Lengths
from scenarios.part import Part
from scenarios.pauses import LONGEST_S, FixedPause, Pauses
from scenarios.traces import Sessions as SessionRows
from scenarios.traces import TraceFormat, TraceRow


@dataclass(frozen=True)
class Arrival:
    """``at_s`` seconds after the run's start or, with ``after``, after that request's end (its number in the group)."""

    at_s: float
    after: int | None = None
    session: int = 0  # of sessions: which one, counted from 0 ...
    turn: int = 0  # ... and which of its turns; all but the first carry what was said before


TIMES = ("start_s", "every_s", "spread_s", "think_s", "stagger_s")  # keys that are times
PACES = ("rate", "speed")  # and those that are one over a time


class Process(Part):
    """Base of all arrival processes."""

    start_s: float = Field(0.0, ge=0, le=LONGEST_S, description="When the first request comes, in seconds.")

    def draw(self, count: int, rng: random.Random, rows: Sequence[TraceRow] = ()) -> list[Arrival]:
        """``count`` arrivals in order. ``rows``: the trace, for replay."""
        return self._after_gaps([0.0, *self.gaps(count - 1, rng)])

    def gaps(self, count: int, rng: random.Random) -> list[float]:
        """``count`` times between neighbouring arrivals, in seconds."""
        raise NotImplementedError

    @property
    def mean_gap_s(self) -> float | None:
        """Mean time between neighbouring arrivals; None where that is not the process's to say."""
        return None

    def stretched(self, factor: float) -> Self:
        """The same arrivals, all times ``factor`` times as long."""
        changes = {key: getattr(self, key) * factor for key in TIMES if hasattr(self, key)}
        return self.model_copy(
            update=changes | {key: getattr(self, key) / factor for key in PACES if hasattr(self, key)}
        )

    def _after_gaps(self, gaps: Iterable[float]) -> list[Arrival]:
        return [Arrival(self.start_s + at) for at in accumulate(gaps)]


class AtOnce(Process):
    """Every request at the same moment."""

    kind: Literal["at-once"] = "at-once"

    def gaps(self, count: int, rng: random.Random) -> list[float]:
        return [0.0] * count


class Interval(Process):
    """One request every ``every_s`` seconds."""

    kind: Literal["interval"] = "interval"
    every_s: float = Field(ge=0, le=LONGEST_S)

    @property
    def mean_gap_s(self) -> float | None:
        return self.every_s

    def gaps(self, count: int, rng: random.Random) -> list[float]:
        return [self.every_s] * count


class Drawn(Process):
    """Base of the processes whose gaps are drawn, ``rate`` requests a second on average."""

    rate: float = Field(gt=0)
    exact_rate: bool = Field(
        False, description="Stretch the gaps so that these very requests come at ``rate``, whatever was drawn."
    )

    @property
    def mean_gap_s(self) -> float | None:
        return 1 / self.rate

    def gaps(self, count: int, rng: random.Random) -> list[float]:
        gaps = [self.gap(rng) for _ in range(count)]
        return filling(count / self.rate, gaps) if self.exact_rate else gaps

    def gap(self, rng: random.Random) -> float:
        """One time between neighbouring arrivals, in seconds."""
        raise NotImplementedError


class Poisson(Drawn):
    """Independent arrivals, ``rate`` requests per second on average."""

    kind: Literal["poisson"] = "poisson"

    def gap(self, rng: random.Random) -> float:
        return rng.expovariate(self.rate)


class Gamma(Drawn):
    """Gamma-distributed gaps; coefficient of variation ``cv``: 1 is Poisson, less is smoother, more comes in clumps.

    Shape 1 / cv^2 and scale cv^2 / rate, as in the load generators of Sarathi-Serve and DistServe.
    """

    kind: Literal["gamma"] = "gamma"
    cv: float = Field(1.0, gt=0, le=20)

    def gap(self, rng: random.Random) -> float:
        variance = self.cv**2
        return rng.gammavariate(1 / variance, variance / self.rate)


class Bursts(Process):
    """``size`` requests together, again every ``every_s`` seconds; ``spread_s`` strews each burst over that time."""

    kind: Literal["bursts"] = "bursts"
    size: int = Field(ge=1)
    every_s: float = Field(gt=0, le=LONGEST_S)
    spread_s: float = Field(0.0, ge=0, le=LONGEST_S)

    @property
    def mean_gap_s(self) -> float | None:
        return self.every_s / self.size

    def draw(self, count: int, rng: random.Random, rows: Sequence[TraceRow] = ()) -> list[Arrival]:
        step = self.spread_s / self.size
        times = (self.start_s + (i // self.size) * self.every_s + (i % self.size) * step for i in range(count))
        return [Arrival(at) for at in sorted(times)]


class ClosedLoop(Process):
    """``clients`` users who each ask again ``think_s`` after their last answer: never more than ``clients`` at once.

    ``stagger_s`` is the time between the clients' first questions.
    """

    kind: Literal["closed-loop"] = "closed-loop"
    clients: int = Field(ge=1)
    think_s: float = Field(0.0, ge=0, le=LONGEST_S)
    stagger_s: float = Field(0.0, ge=0, le=LONGEST_S)

    def draw(self, count: int, rng: random.Random, rows: Sequence[TraceRow] = ()) -> list[Arrival]:
        first = [Arrival(self.start_s + i * self.stagger_s) for i in range(min(count, self.clients))]
        return first + [Arrival(self.think_s, after=i - self.clients) for i in range(self.clients, count)]


class Sessions(Process):
    """Sessions of several turns begin independently, ``rate`` a second on average (empty: all at once). A turn comes ``pause`` after the
    answer to the one before: the time that a person thinks, or a tool works.
    """

    kind: Literal["sessions"] = "sessions"
    rate: float | None = Field(None, gt=0, description="Sessions that begin in a second. Empty: all at once.")
    turns: Lengths = Field(Fixed(tokens=4), description="Turns of a session.")
    pause: Pauses = Field(FixedPause(pause_s=1.0), description="From an answer's end to the next turn.")

    @model_validator(mode="after")
    def _turns_come_from_no_trace(self) -> Sessions:
        if self.turns.kind == "trace":
            raise ValueError("turns of kind trace: a trace's rows are no sessions")
        return self

    def draw(self, count: int, rng: random.Random, rows: Sequence[TraceRow] = ()) -> list[Arrival]:
        arrivals: list[Arrival] = []
        at, session = self.start_s, 0
        while len(arrivals) < count:
            turns = self.turns.draw(rng, 1)
            pauses = [self.pause.draw(rng) for _ in range(min(turns - 1, count))]
            first = len(arrivals)
            arrivals.append(Arrival(at, session=session))
            arrivals += [Arrival(p, first + n, session, n + 1) for n, p in enumerate(pauses[: count - len(arrivals)])]
            at += rng.expovariate(self.rate) if self.rate is not None else 0.0
            session += 1
        return arrivals

    def stretched(self, factor: float) -> Self:
        changes = {"start_s": self.start_s * factor, "pause": self.pause.stretched(factor)}
        return self.model_copy(update=changes | ({"rate": self.rate / factor} if self.rate is not None else {}))


class Replay(Process):
    """The arrivals of a recorded trace from row ``skip`` on, ``speed`` times as fast, the first one at ``start_s``."""

    kind: Literal["trace"] = "trace"
    path: str = Field(min_length=1, description="Relative to the working directory or to the scenario file.")
    format: TraceFormat = Field("auto", description="auto: as the file's own keys or columns say.")
    block_tokens: int | None = Field(
        None, ge=1, le=65_536, description="Tokens that one of hash_ids stands for. Empty: as the format has it."
    )
    sessions: SessionRows = Field(
        "refused",
        description="What rows with session_id describe. cumulative: whole prompts; deltas: what is new in each turn.",
    )
    speed: float = Field(1.0, gt=0)
    licence: str = Field(
        "", max_length=200, description="Of the trace. Empty: that of the published ones in its format."
    )
    skip: int = Field(0, ge=0, description="Rows left out at the trace's beginning.")

    def draw(self, count: int, rng: random.Random, rows: Sequence[TraceRow] = ()) -> list[Arrival]:
        origin = rows[0].arrival_s
        arrivals: list[Arrival] = []
        last: dict[str, int] = {}  # of each session of deltas
        for index, row in enumerate(rows[:count]):
            before = None if row.session is None else last.get(row.session)
            if before is None:
                arrivals.append(Arrival(self.start_s + (row.arrival_s - origin) / self.speed))
            else:
                arrivals.append(Arrival(row.delay_s / self.speed, before, turn=arrivals[before].turn + 1))
            if row.session is not None:
                last[row.session] = index
        return arrivals


class ServeGen(Process):
    """Requests drawn from the recorded windows of a service's clients (ServeGen), ``speed`` times as fast."""

    kind: Literal["servegen"] = "servegen"
    path: str = Field(
        min_length=1,
        description="Folder of its clients. Relative to the working directory or to the scenario file.",
    )
    from_s: float = Field(0.0, ge=0, description="Where in the recorded time to begin, in seconds.")
    rate: float | None = Field(None, gt=0, description="Of all clients together. Empty: as recorded.")
    clients: int | None = Field(None, ge=1, description="Only so many, the busiest. Empty: all.")
    speed: float = Field(1.0, gt=0)
    licence: str = Field("", max_length=200, description="Of the data. Empty: that of the published ones.")

    def draw(self, count: int, rng: random.Random, rows: Sequence[TraceRow] = ()) -> list[Arrival]:
        return [Arrival(self.start_s + (row.arrival_s - rows[0].arrival_s) / self.speed) for row in rows[:count]]

    def stretched(self, factor: float) -> Self:
        return self.model_copy(update={"start_s": self.start_s * factor, "speed": self.speed / factor})


Arrivals = Annotated[
    AtOnce | Interval | Poisson | Gamma | Bursts | ClosedLoop | Sessions | Replay | ServeGen,
    Field(discriminator="kind"),
]
