"""A request inside the engine: what it has been asked, what is known, and how much of it has been computed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from engine.config import RequestSpec, Sampling
from engine.config.errors import EngineError

if TYPE_CHECKING:
    import torch

    from engine.model.tokenizer import StreamDecoder
    from engine.sampling import SamplingState
    from engine.scores import Scores


@dataclass(frozen=True, slots=True)
class Draft:
    """Guessed continuation of a request, and the law each guess was drawn from.

    ``laws`` is None where the guesses were not drawn (lookup, or the most likely token): point masses.
    """

    tokens: list[int]
    laws: torch.Tensor | None = None  # [len(tokens), vocab] float32

    def cut(self, length: int) -> Draft:
        """Its first ``length`` guesses."""
        return Draft(self.tokens[:length], None if self.laws is None else self.laws[:length])


NO_DRAFT = Draft([])


@dataclass(eq=False, slots=True)
class Request:
    """One request. ``num_computed_tokens`` chases ``num_known_tokens``; there is no prefill or decode state.

    ``prefill_target`` is where the next token is sampled for the first time after (re)admission: the prompt's length,
    or after a preemption everything known until then. It only names the work (prefill or decode); the scheduler does
    not depend on it.
    """

    index: int
    spec: RequestSpec
    prompt_token_ids: list[int]
    sampling: Sampling
    max_tokens: int
    arrival_ns: int = 0
    rank: int = 0  # place among requests that were put in an order of their own

    program: int | None = None  # number of the first turn of the program it is a turn of; None where it stands alone
    queued_as: tuple[int, int] | None = (
        None  # arrival and number of that turn, where programs are first come first served
    )

    stop_token_ids: frozenset[int] = frozenset()
    min_tokens: int = 0  # before which no token ends it
    is_kept: bool = True  # its output goes into the rows
    scores: Scores | None = None  # log-probabilities that somebody wants of its tokens

    most_carried_tokens: int = 0  # that may yet come before the prompt: of the request that it continues

    token_ids: list[int] = field(default_factory=list)  # prompt + output
    draft: Draft = NO_DRAFT  # guesses that this iteration verifies; empty between iterations
    in_flight: int | None = None  # row of the step still running on the device that will give it its next token
    num_computed_tokens: int = 0  # tokens whose keys and values are in the pool
    prefill_target: int = 0
    block_table: list[int] = field(default_factory=list)
    tail: int | None = None  # which exact tail is its own while it runs, with a codec that keeps some tokens exact
    block_hashes: list[int] = field(default_factory=list)  # chained over its whole blocks, as far as anybody asked

    arriving: bool = False  # its keys and values are on their way back into the pool; it is in no plan
    level: int | None = None  # a priority drawn while it is served, in place of the workload's

    first_scheduled_ns: int | None = None
    first_token_ns: int | None = None
    preemptions: int = 0
    cached_tokens: int = 0
    drafted_tokens: int = 0  # verified for it so far
    accepted_tokens: int = 0
    end_reason: str | None = None
    refusal: EngineError | None = None  # why it cannot be served; it then ends as it arrives, and costs nobody else
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
        """Larger is more important: as drawn last, or as the workload says."""
        return self.spec.priority if self.level is None else self.level

    @property
    def num_prompt_tokens(self) -> int:
        return len(self.prompt_token_ids)

    @property
    def most_prompt_tokens(self) -> int:
        """Tokens that the prompt has at most, with what it may yet carry."""
        return len(self.prompt_token_ids) + self.most_carried_tokens

    @property
    def num_output_tokens(self) -> int:
        return len(self.token_ids) - len(self.prompt_token_ids)

    @property
    def output_token_ids(self) -> list[int]:
        return self.token_ids[len(self.prompt_token_ids) :]

    @property
    def num_known_tokens(self) -> int:
        """Prompt, output and, while an iteration verifies one, the draft; a token still on its way counts as known."""
        return len(self.token_ids) + len(self.draft.tokens) + (self.in_flight is not None)

    def known(self, first: int, last: int) -> list[int]:
        """Tokens at places ``first`` to ``last`` (not included) of prompt, output and draft.

        A token still on its way stands as ``-1 - row``: the device fills it in (``engine.overlap``).
        """
        end = len(self.token_ids)
        if last <= end:
            return self.token_ids[first:last]
        if self.in_flight is not None:
            return [*self.token_ids[first:end], -1 - self.in_flight]
        return self.token_ids[first:end] + self.draft.tokens[max(0, first - end) : last - end]

    @property
    def remaining(self) -> int:
        """Tokens known and not yet computed; none where the token on its way is certain to be the last."""
        if self.in_flight is not None and self.num_output_tokens + 1 >= self.max_tokens:
            return 0
        return self.num_known_tokens - self.num_computed_tokens

    @property
    def is_prefilling(self) -> bool:
        return self.num_computed_tokens < self.prefill_target

    @property
    def order(self) -> tuple[int, int, int, int, int]:
        """Sort key: the most important first, then by rank where requests are grouped, then first come, by their own
        arrival or their program's."""
        return (-self.priority, self.rank, *(self.queued_as or (self.arrival_ns, self.index)), self.index)

    @property
    def most_computed_tokens(self) -> int:
        """Tokens whose keys and values it may hold in the end; the last output token is never computed."""
        return self.most_prompt_tokens + self.max_tokens - 1

    def carry(self, earlier: Request) -> None:
        """Begin the prompt with all that an ended request was asked and answered."""
        self.prompt_token_ids = [*earlier.token_ids, *self.prompt_token_ids]
        self.token_ids = list(self.prompt_token_ids)
        self.prefill_target = len(self.token_ids)
        self.most_carried_tokens = 0
        self.sampling_state.observe(earlier.token_ids)

    def reset_for_recompute(self) -> None:
        """Forget what was computed; everything known will be computed again."""
        self.set_aside()
        self.prefill_target = self.num_known_tokens

    def set_aside(self) -> None:
        """It left the pool, and what it computed is kept elsewhere."""
        self.draft = NO_DRAFT
        self.num_computed_tokens = 0
        self.preemptions += 1
