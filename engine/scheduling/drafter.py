"""Who guesses while an iteration is planned."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from engine.request import Request
from engine.scheduling.plan import Plan, Slice

if TYPE_CHECKING:
    import torch

    from engine.scheduling.builder import PlanBuilder


class Drafter(Protocol):
    """Who guesses continuations while an iteration is planned (``engine.speculation``)."""

    def extend(self, builder: PlanBuilder) -> None:
        """Give decodes that are in the plan drafts to verify, by ``builder.grant_draft``."""
        ...

    def observe(self, parts: list[Slice], hidden: torch.Tensor) -> None:
        """Take in what the pass left behind [rows, hidden], 1 + drafted rows for each of the parts that sampled."""
        ...

    def learn(self, plan: Plan, duration_ns: int) -> None:
        """Take in how an iteration went: what was accepted, and how long the whole step took, drafting included."""
        ...

    def rest(self) -> bool:
        """Whether the iteration that is planned next goes without guesses, whatever the tokens of the one before; it
        may then be planned before these are known."""
        ...

    def miss(self, parts: list[Slice]) -> None:
        """What the pass left behind for these parts cannot be looked at any more: ``observe`` is not called."""
        ...

    def describe(self) -> dict[str, float]:
        """What was learnt over the run, for its summary."""
        ...

    def forget(self, request: Request) -> None:
        """A request ended or lost its blocks: drop what is kept for it."""
        ...
