"""How far to guess: the same length always, or (``engine.speculation.smart``) the length that pays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from engine.scheduling.builder import PlanBuilder
from engine.scheduling.plan import Plan, Slice
from engine.speculation.step_time import Measured


class LengthControl(ABC):
    """Chooses how many tokens are guessed for each decode of an iteration, and learns from how it went."""

    most: int  # never more than this
    # lengths to be tried, one an iteration, before the run (``engine.start.trial``)
    rehearses: tuple[int, ...] = ()

    @abstractmethod
    def choose(self, builder: PlanBuilder, parts: Sequence[Slice], reach: Sequence[int]) -> list[int]:
        """Lengths for the decodes ``parts``, at most ``reach`` each (0: nothing to guess there)."""

    def rest(self) -> bool:
        """Whether nothing is to be guessed in the next iteration; asked once for each, and only by a loop that plans
        such iterations ahead."""
        return False

    def know(self, iterations: Iterable[Measured]) -> None:
        """Take in iterations that were timed before the run."""
        return

    def learn(self, plan: Plan, duration_ns: int) -> None:
        """Take in an iteration: its slices say what was accepted; ``duration_ns`` is the whole step's."""
        return

    def describe(self) -> dict[str, float]:
        """What it learnt, for the run's summary."""
        return {}

    def forget(self, request_index: int) -> None:
        """A request ended."""
        return


class FixedLength(LengthControl):
    """Always k, as far as there is something to guess."""

    def __init__(self, k: int) -> None:
        self.most = k
        self.rehearses = (k,)

    def choose(self, builder: PlanBuilder, parts: Sequence[Slice], reach: Sequence[int]) -> list[int]:
        return [min(self.most, most) for most in reach]
