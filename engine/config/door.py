"""What a served run is asked while it goes on: the words between the HTTP process and the engine process.

They are lines of JSON over a Unix socket in the run's folder. To the engine::

    {"ask": {...Ask}}   {"cancel": 7}   {"reset": true}   {"close": true}

From the engine, one line for each time its loop comes round, with what there is to say::

    {"hello": {...facts}}                                                first
    {"tokens": [[number, drafted, token, ...], ...], "ended": [{...}], "steps": [{...}]}
    {"reset": {"dropped": 12, "held": 3}}

Where log-probabilities were asked for, ``scores`` has a list for each entry of ``tokens`` that has some, ``[number,
[[log-probability, [[token, log-probability], ...]], ...]]``, and ``prompt_scores`` the same of a prompt from its second
token on.

Requests are called by their number in the run.
"""

from __future__ import annotations

from pydantic import Field

from engine.config.requests import RequestSpec
from engine.config.settings import LARGEST_COUNT, Settings

DOOR_SOCKET = "door.sock"
MOST_LOGPROBS = 20  # likeliest tokens in one place
STEP_SUMS = (
    "prefill_tokens",
    "decode_tokens",
    "draft_tokens",
    "accepted_tokens",
    "emitted_tokens",
    "prompt_tokens",
    "prefix_query_tokens",
    "prefix_hit_tokens",
    "preempted",
    "flops",
    "bytes",
)
"""Columns of a step that are told to the door and added up there."""
STEP_STATES = ("end_ns", "running", "waiting", "blocks_used", "blocks_total")
"""Columns of a step that are told to the door and replace what was known."""


class Ask(Settings):
    """One request of a client."""

    number: int = Field(ge=0, le=LARGEST_COUNT, description="Its number in the run; rises by one.")
    request: RequestSpec
    came_ns: int = Field(ge=0, description="When it arrived, on the machine's monotonic clock.")
    stop_token_ids: tuple[int, ...] = Field((), description="Tokens that end the answer and are not part of its text.")
    logprobs: int | None = Field(
        None, ge=0, le=MOST_LOGPROBS, description="Tell log-probabilities, and of so many likeliest tokens."
    )
    prompt_logprobs: bool = Field(False, description="Of the prompt's tokens, too.")
    min_tokens: int = Field(
        0, ge=0, le=LARGEST_COUNT, description="Output tokens before which no token ends the answer."
    )
