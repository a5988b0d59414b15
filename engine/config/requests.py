"""What is asked of the engine: one request."""

from __future__ import annotations

from pydantic import Field, model_validator

from engine.config.sampling import Sampling
from engine.config.settings import LARGEST_COUNT, LATEST_NS, Settings


class RequestSpec(Settings):
    """One request: when it comes, what it asks, how it may end.

    The prompt is either token ids or text. ``prompt_tokens`` cuts the tokenised text to exactly that many tokens (the
    text is repeated first where it is too short), so lengths are the same whatever the prompt says.
    """

    request_id: str = Field(min_length=1, max_length=200)
    arrival_ns: int = Field(
        0, ge=0, le=LATEST_NS, description="After the run's start; with `after`, after that request's end."
    )
    after: str | None = Field(None, description="Arrive only once this request has ended (closed loop, conversations).")
    continues: bool = Field(
        False,
        description="The prompt goes on after the prompt of the request named in `after` and the answer it really got.",
    )
    prompt: str | None = None
    prompt_token_ids: tuple[int, ...] | None = None
    prompt_tokens: int | None = Field(None, ge=1, le=LARGEST_COUNT)
    chat: bool = Field(False, description="Wrap the prompt in the model's chat template as one user message.")
    system: str | None = Field(None, description="System message, with `chat`.")
    max_tokens: int = Field(64, ge=1, le=LARGEST_COUNT)
    sampling: Sampling | None = None
    seed: int | None = Field(None, ge=0, le=2**63 - 1)
    priority: int = Field(0, ge=-LARGEST_COUNT, le=LARGEST_COUNT)
    group: str | None = None
    cancel_after_ns: int | None = Field(
        None, ge=0, le=LATEST_NS, description="The user gives up this long after arrival."
    )

    @model_validator(mode="after")
    def _one_prompt(self) -> RequestSpec:
        if (self.prompt is None) == (self.prompt_token_ids is None):
            raise ValueError(f"request {self.request_id!r}: give either prompt or prompt_token_ids")
        if self.prompt_token_ids is not None and not self.prompt_token_ids:
            raise ValueError(
                f"request {self.request_id!r}: prompt_token_ids is empty; a prompt needs at least one token"
            )
        if self.prompt is not None and not self.prompt:
            raise ValueError(f"request {self.request_id!r}: prompt is empty; a prompt needs at least one token")
        if self.continues and self.after is None:
            raise ValueError(f"request {self.request_id!r}: continues needs after, the request that it continues")
        if self.continues and self.chat:
            raise ValueError(
                f"request {self.request_id!r}: a chat template begins a talk anew, so chat cannot go with continues"
            )
        return self
