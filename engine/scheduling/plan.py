"""What one iteration computes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from engine.request import Request


class Decision(NamedTuple):
    """Something worth explaining, for the ``decision`` rows; -1 stands for null."""

    request: int
    action: str
    reason: str
    tokens: int = -1
    tokens_left: int = -1
    blocks_needed: int = -1
    blocks_free: int = -1
    value: float | None = None


@dataclass(slots=True)
class Slice:
    """One request's part in one iteration.

    A verify slice:   tokens = 1 + drafted        known after the step: what comes before, the accepted ones, and one
    | last known | draft 1 | draft 2 | ... |      more that the target chose itself
    """

    request: Request
    tokens: int
    context_len: int  # tokens of the request in the pool before the iteration
    is_prefill: bool
    drafted: int = 0  # guesses among the tokens, at their end
    accepted: int = 0  # guesses that became output; known once the iteration was verified
    emitted: int = 0  # tokens the request received

    @property
    def samples(self) -> bool:
        """This slice reaches the last known token, so a new one is drawn."""
        return self.context_len + self.tokens == self.request.num_known_tokens

    @property
    def kept(self) -> int:
        """Tokens whose keys and values count: all but the rejected guesses."""
        return self.tokens - self.drafted + self.accepted


@dataclass(slots=True)
class Plan:
    """What one iteration computes."""

    slices: list[Slice] = field(default_factory=list)
    admitted: list[Request] = field(default_factory=list)
    preempted: list[Request] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    token_budget: int = -1
    admission_stop: str = "none_waiting"
    num_waiting: int = 0
    draft_ns: int = 0  # time spent guessing while it was made
    rests: bool = False  # made without guesses, so that it could be made before the last step's tokens were known
    prefix_hit_tokens: int = 0  # found in the prefix cache by the requests admitted for the first time
    preempted_hit_tokens: int = 0  # the same of those that come back after a preemption: their own blocks above all
    spared_tokens: int = 0  # keys per layer that attention did not read a second time
    padded_tokens: int = 0  # rows of padding that are computed with it
    padded_keys: int = 0  # keys per layer that attention read for padding

    @property
    def num_tokens(self) -> int:
        return sum([s.tokens for s in self.slices])
