"""What a proposer is: something that guesses how a request goes on."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import torch

from engine.attention.base import AttentionBackend
from engine.attention.packed import make_attention
from engine.config import EngineConfig, Speculation
from engine.kv.cache import KVCache
from engine.model.load import LoadedModel
from engine.phases import Progress
from engine.request import Draft, Request
from engine.scheduling.plan import Slice


@dataclass(frozen=True)
class Means:
    """What a proposer may be made of."""

    config: EngineConfig
    target: LoadedModel
    weights: Any  # what the proposer's ``load`` returned
    cache: KVCache  # the target's
    token_budget: int

    @property
    def asked(self) -> Speculation:
        assert self.config.speculation is not None
        return self.config.speculation

    def attention(self, model: LoadedModel, cache: KVCache) -> AttentionBackend:
        """Models that guess run step by step on the plain path, also beside the custom kernels: they read the same
        cache."""
        shape = model.shape
        name = "gathered" if self.config.attention_backend != "reference" else "reference"
        return make_attention(name, cache, shape.heads, shape.kv_heads, shape.head_dim)


class Proposer(ABC):
    """Guesses continuations. To add one: its class, an entry in ``PROPOSERS``, its name in ``Speculation.proposer``.

    ``name``: what ``Speculation.proposer`` calls it.

    ``runs_model``: guessing is costly and writes keys and values at the guessed places, so the length is chosen and
    blocks are reserved first. Without it guessing is nearly free, and the length is chosen once it is known how far the
    guesses reach.
    """

    name: ClassVar[str]
    runs_model = False
    observes = False  # wants ``observe`` after each iteration

    @classmethod
    def load(cls, config: EngineConfig, target: LoadedModel, progress: Progress) -> Any:
        """Weights of its own, on the target's device, read before the pool is sized; None: it has none.

        A ``LoadedModel`` also takes a part of each block of the pool.

        Raises:
            EngineError: they cannot be read, or do not go with the target.
        """
        return None

    @classmethod
    def check(cls, asked: Speculation, longest_prompt: int) -> None:
        """Refuse a workload in which nothing could ever be guessed. ``longest_prompt``: tokens.

        Raises:
            EngineError: naming the setting.
        """
        return

    @classmethod
    def of(cls, means: Means) -> Self:
        """Made for one run: weights that are loaded already, and nothing known of any request. Every member of
        ``PROPOSERS`` has it.

        Raises:
            EngineError: the device has no room for what it keeps.
        """
        raise NotImplementedError

    @abstractmethod
    def propose(self, requests: Sequence[Request], lengths: Sequence[int]) -> list[Draft]:
        """Guess at most ``lengths[i]`` tokens (0 allowed) that follow ``requests[i].token_ids``.

        Every request has all but its last token computed. Returns a draft for each, which may be shorter or empty. Must
        leave ``request.draft`` empty. May read and write the KV cache beyond ``num_computed_tokens``, within the
        reserved blocks.
        """

    def observe(self, parts: Sequence[Slice], hidden: torch.Tensor) -> None:
        """What the target's pass left behind; called once its guesses were verified, and only where ``observes``.

        Args:
            parts: the slices that sampled.
            hidden: [rows, hidden], the residual stream after the last layer: 1 + drafted rows for each part, in order.
        """
        return

    def miss(self, parts: Sequence[Slice]) -> None:
        """What the target's pass left behind for these parts is gone unseen; called only where ``observes``."""
        return

    def forget(self, request: Request) -> None:
        """The request ended or lost its blocks: drop what is kept for it."""
        return
