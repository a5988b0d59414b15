"""What a proposer is: something that guesses how a request goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch

from engine.request import Draft, Request
from engine.scheduling.plan import Slice


class Proposer(ABC):
    """Guesses continuations.

    ``runs_model``: guessing is costly and writes keys and values at the guessed places, so the length is chosen and blocks are
    reserved first. Without it guessing is nearly free, and the length is chosen once it is known how far the guesses reach.
    """

    runs_model = False
    observes = False  # wants ``observe`` after each iteration

    @abstractmethod
    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[Draft]:
        """Guess at most ``lengths[i]`` tokens (0 allowed) that follow ``requests[i].token_ids``.

        Every request has all but its last token computed. Returns a draft for each, which may be shorter or empty. Must leave
        ``request.draft`` empty. May read and write the KV cache beyond ``num_computed_tokens``, within the reserved blocks.
        """

    def observe(self, parts: Sequence[Slice], hidden: torch.Tensor) -> None:
        """What the target's pass left behind; called once its guesses were verified, and only where ``observes``.

        Args:
            parts: the slices that sampled.
            hidden: [rows, hidden], the residual stream after the last layer: 1 + drafted rows for each part, in order.
        """
        return

    def forget(self, request: Request) -> None:
        """The request ended or lost its blocks: drop what is kept for it."""
        return
