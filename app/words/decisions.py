"""The scheduler's decisions and the engine's iterations as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

REASONS = {
    "scheduled": "there was room",
    "blocks": "the KV pool had too few free blocks",
    "max_requests": "the most requests at once were running",
    "policy": "the policy does not mix this with what runs",
    "pool_full": "the KV pool was full",
    "priority": "another request was more important",
    "request_end": "the request had ended",
    "asked": "it was asked for",
}
"""Reasons that any run may give, as they stand after *because*; a technique's own are its panel's."""

ACTIONS = {
    "admitted": "{request} was let in",
    "refused": "{request} had to wait",
    "preempted": "{request} was thrown out of the KV pool and will be computed again ({tokens} tokens lost)",
    "evicted": "cached blocks with {tokens} tokens were given up",
    "finished": "{request} ended",
    "cancelled": "{request} was cancelled",
}
NUMBERS = (
    ("tokens_left", "tokens of budget left"),
    ("blocks_needed", "blocks needed"),
    ("blocks_free", "blocks to be had"),
)


def decision_in_words(decision: Mapping[str, Any], actions: Mapping[str, str], reasons: Mapping[str, str]) -> str:
    """One decision of the scheduler as a sentence, with the numbers it was decided on (a row of ``decisions``)."""
    action, reason, tokens = str(decision.get("action")), str(decision.get("reason")), decision.get("tokens")
    request = f"request {decision['request']}" if decision.get("request") is not None else "a request"
    known = {"request": request, "tokens": tokens or "some", "count": tokens or "no"}
    words = actions[action].format(**known) if action in actions else f"{action} {request}"
    numbers = [
        f"{decision[name]} {label.replace('s ', ' ', 1) if decision[name] == 1 else label}"
        for name, label in NUMBERS
        if decision.get(name) is not None
    ]
    told = f" ({', '.join(numbers)})" if numbers else ""
    return f"{words[0].upper()}{words[1:]}, because {reasons.get(reason, reason)}{told}."


def iteration_in_words(row: dict[str, Any]) -> str:
    """One iteration as two sentences (a row of ``iterations``)."""
    took = (row["end_ns"] - row["start_ns"]) / 1e6
    forward = row["forward_ns"] / 1e6
    did = []
    if row["prefill_tokens"]:
        did.append(f"{row['prefill_tokens']} prompt tokens for {_requests(row['prefill_requests'])}")
    if row["decode_tokens"]:
        did.append(f"{row['decode_tokens']} decode tokens for {_requests(row['decode_requests'])}")
    work = " and ".join(did) or "nothing"
    return (
        f"Iteration {row['iteration']} took {took:,.1f} ms, {forward:,.1f} ms of it in the model. It computed {work}; "
        f"{_requests(row['running'])} held a place and {row['waiting']} waited."
    )


TOUCHED = {
    "allocate": "taken",
    "share": "shared with another request",
    "fill": "filled",
    "quantise": "packed",
    "free": "given back",
    "evict": "evicted",
}
"""What happens to KV blocks (``telemetry.rows.BLOCK_EVENTS``), after their number."""


def touched_in_words(row: Mapping[str, Any]) -> str:
    """The KV blocks that one iteration touched (how many of each of ``TOUCHED``)."""
    told = [f"{row[event]:,} {words}" for event, words in TOUCHED.items() if row[event]]
    return f"{', '.join(told)}." if told else ""


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"
