"""A request inside the engine: what it has been asked, what is known, and how much of it has been computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.config import RequestSpec, Sampling

if TYPE_CHECKING:
    from engine.sampling import SamplingState
    from engine.tokenizer import StreamDecoder


@dataclass(eq=False, slots=True)
class Request:
    """One request. ``num_computed_tokens`` chases ``num_known_tokens``; there is no prefill or decode state.

    ``prefill_target`` is where the next token is sampled for the first time after (re)admission: the prompt's length, or after a
    preemption everything known until then. It only names the work (prefill or decode); the scheduler does not depend on it.
    """

    index: int
    spec: RequestSpec
    prompt_token_ids: list[int]
    sampling: Sampling
    max_tokens: int
    arrival_ns: int = 0

    token_ids: list[int] = field(default_factory=list)  # prompt + output
    num_computed_tokens: int = 0  # tokens whose keys and values are in the pool
    prefill_target: int = 0
    block_table: list[int] = field(default_factory=list)

    first_scheduled_ns: int | None = None
    first_token_ns: int | None = None
    preemptions: int = 0
    cached_tokens: int = 0
    end_reason: str | None = None
    sampling_state: SamplingState = None  # type: ignore[assignment]  # set before the request is served
    stream: StreamDecoder | None = None
    text: str = ""

    def __post_init__(self) -> None:
        self.token_ids = list(self.prompt_token_ids)
        self.prefill_target = len(self.token_ids)

    @property
    def request_id(self) -> str:
        return self.spec.request_id

    @property
    def priority(self) -> int:
        return self.spec.priority

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - len(self.prompt_token_ids)

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[len(self.prompt_token_ids) :]

    @property
    def num_known_tokens(self) -> int:
        return len(self.token_ids)

    @property
    def remaining(self) -> int:
        """Tokens known and not yet computed."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def is_prefilling(self) -> bool:
        return self.num_computed_tokens < self.prefill_target

    @property
    def order(self) -> tuple[int, int, int]:
        """Sort key: the most important first, then first come."""
        return (-self.spec.priority, self.arrival_ns, self.index)

    def reset_for_recompute(self) -> None:
        """Forget what was computed; everything known will be computed again."""
        self.num_computed_tokens = 0
        self.prefill_target = len(self.token_ids)
        self.preemptions += 1
