"""The scheduler's decisions and the engine's iterations as sentences."""

from __future__ import annotations

from typing import Any

REASONS = {
    "scheduled": "there was room",
    "budget": "the token budget was spent",
    "blocks": "the KV pool had too few free blocks",
    "max_requests": "the most requests at once were running",
    "policy": "the policy does not mix this with what runs",
    "pool_full": "the KV pool was full",
    "priority": "another request was more important",
    "acceptance": "of how many drafts were accepted lately",
    "probe": "the guess had to be checked again",
    "request_end": "the request had ended",
    "asked": "it was asked for",
    "prefix": "another request computes the same tokens in this iteration",
    "recomputed": "they are needed again and computed a second time",
    "predicted": "that promised the most tokens per second",
    "tails": "the memory for exact windows beside the packed cache was taken",
}


def decision_in_words(decision: dict[str, Any]) -> str:
    """One decision of the scheduler as a sentence, with the numbers it was decided on (a row of ``decisions``)."""
    if decision.get("reason") == "predicted":
        expected = f"; the step was expected to take {decision['value'] / 1e6:,.1f} ms" if decision.get("value") else ""
        return f"This step verifies {decision.get('tokens') or 'no'} guesses in all{expected}."
    request = f"request {decision['request']}" if decision.get("request") is not None else "a request"
    tokens = decision.get("tokens") or "some"
    verbs = {
        "admitted": f"{request} was let in",
        "chunked": f"the prompt of {request} was cut: {tokens} tokens now, the rest later",
        "refused": f"{request} had to wait",
        "preempted": f"{request} was thrown out of the KV pool and will be computed again ({tokens} tokens lost)",
        "evicted": f"cached blocks with {tokens} tokens were given up",
        "speculation": f"{request} now guesses {decision.get('tokens') or 'no'} tokens ahead",
        "finished": f"{request} ended",
        "cancelled": f"{request} was cancelled",
    }
    words = verbs.get(str(decision.get("action")), f"{decision.get('action')} {request}")
    reason = REASONS.get(str(decision.get("reason")), str(decision.get("reason")))
    numbers = [
        f"{decision[name]} {label.replace('s ', ' ', 1) if decision[name] == 1 else label}"
        for name, label in (
            ("tokens_left", "tokens of budget left"),
            ("blocks_needed", "blocks needed"),
            ("blocks_free", "blocks to be had"),
        )
        if decision.get(name) is not None
    ]
    told = f" ({', '.join(numbers)})" if numbers else ""
    return f"{words[0].upper()}{words[1:]}, because {reason}{told}."


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


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"
