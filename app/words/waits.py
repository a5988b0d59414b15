"""Why a request was not served sooner, as sentences; titles and explanations of the charts on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.words.charts import ChartWords
from app.words.plain import counted, milliseconds

WAITS = {
    "next_plan": "next plan",
    "budget": "token budget",
    "blocks": "KV blocks",
    "max_requests": "a place",
    "policy": "policy",
    "prefix": "prefix in flight",
    "tails": "exact window",
    "preempted": "preempted",
}
"""What a request waits for (``store.waits.WAITS``), as legends name it."""

GAPS = {
    "beside_decodes": "own step, beside decodes",
    "beside_prefill": "own step, beside prefill of others",
    "without": "steps without it",
    "preempted": "preempted",
    "recomputed": "computed again",
    "between": "between steps",
}
"""What passes between two tokens of a request (``store.waits.GAPS``), as legends name it."""

CHARTS = {
    "waits": ChartWords(
        "Why not sooner: before the first token",
        "How long requests waited for a place in a batch, and for what: the next plan (a step was being computed when "
        "they arrived), the token budget, free KV blocks, one of the most requests at once, the policy, a prefix that "
        "another request was computing, a window of exact tokens, or to come back after a preemption. Nobody "
        "overtakes, so what the first in the queue lacks is what all wait for.",
        "request",
        ("arrival_ns", "first_scheduled_ns"),
    ),
    "gaps": ChartWords(
        "Why not sooner: between tokens",
        "What the engine computed between two tokens of a request, all its gaps together: its own step beside decodes "
        "alone, its own step beside prompt tokens of others, steps without it, steps after it was preempted, its own "
        "tokens once more after that, and the time between two steps.",
        "slice",
        ("itl_ns",),
    ),
}

MOST_SPELLS = 12
MOST_GAPS = 5


def waited_in_words(row: Mapping[str, Any]) -> str:
    """A request's waiting all together (a row of ``store.waits.waits``)."""
    who = named(row["request"], {row["request"]: row["request_id"]})
    who = who[:1].upper() + who[1:]
    if not row["waited_ms"]:
        return f"{who} did not wait."
    parts = [
        f"{milliseconds(row[f'{reason}_ms'])} for {title}"
        for reason, title in _AFTER_FOR.items()
        if row[f"{reason}_ms"]
    ]
    return f"{who} waited {milliseconds(row['waited_ms'])}: {_listed(parts)}."


def spells_in_words(
    spells: Sequence[Mapping[str, Any]], request: int, reasons: Mapping[str, str], names: Mapping[int, str]
) -> list[str]:
    """The longest spells of a request's waiting in order of time, a sentence each.

    ``spells``: of ``store.waits.spells``; ``reasons``: as they stand after *because*; ``names``: what requests are
    called in the workload.
    """
    longest = sorted(spells, key=lambda s: s["since_ns"] - s["until_ns"])[:MOST_SPELLS]
    told = [_spell(s, request, reasons, names) for s in sorted(longest, key=lambda s: s["since_ns"])]
    left_out = len(spells) - len(longest)
    return told + ([f"{counted(left_out, 'shorter spell')} left out."] if left_out else [])


_AFTER_FOR = {
    "next_plan": "the next plan",
    "budget": "the token budget",
    "blocks": "KV blocks",
    "max_requests": "a place",
    "policy": "the policy",
    "prefix": "a prefix that was being computed",
    "tails": "an exact window",
    "preempted": "its return after a preemption",
}


def _spell(spell: Mapping[str, Any], request: int, reasons: Mapping[str, str], names: Mapping[int, str]) -> str:
    """One spell of waiting, with the numbers that it rests on."""
    first, last = spell["iteration"], spell["last_iteration"]
    where = f"iteration {first}" if first == last else f"iterations {first} to {last}"
    since, took = spell["since_ns"] / 1e9, milliseconds((spell["until_ns"] - spell["since_ns"]) / 1e6)
    begin = f"At {since:,.3f} s, {where}, {took}:"
    if spell["reason"] == "next_plan":
        return f"{begin} it arrived while this iteration was being computed, and nobody is let in before the next plan."
    why = reasons.get(spell["stop"], spell["stop"])
    if spell["reason"] == "preempted":
        begin += " thrown out of the KV pool, it waited to come back;"
    head = spell["head"]
    if head is None:
        return f"{begin} {why}."
    who = "it" if head == request else f"{named(head, names)}, in front of it,"
    return f"{begin} {why}; {who} {_lacked(spell)}."


def _lacked(spell: Mapping[str, Any]) -> str:
    """What the first in the queue lacked when it was last refused."""
    told = []
    if spell["blocks_needed"] is not None:
        told.append(f"needed {counted(spell['blocks_needed'], 'block')}, {spell['blocks_free'] or 0:,} could be had")
    if spell["stop"] == "budget" and spell["tokens_left"] is not None:
        left = spell["tokens_left"]
        told.append(f"found {counted(left, 'token') if left else 'no token'} of budget left")
    at = f" (refused in iteration {spell['refused_at']})" if spell["refused_at"] != spell["iteration"] else ""
    return (" and ".join(told) or "was refused") + at


def blame_in_words(blamed: Sequence[Mapping[str, Any]], most: int = 5) -> str:
    """Because of whom, in one sentence; empty where it was nobody. ``blamed``: of ``store.waits.blame``."""
    if not blamed:
        return ""
    names = {row["request"]: row["request_id"] for row in blamed}
    parts = [f"{named(row['request'], names)} {milliseconds(row['held_up_ms'])}" for row in blamed[:most]]
    return f"Because of: {_listed(parts)}."


def gaps_in_words(gaps: Sequence[Mapping[str, Any]]) -> str:
    """What stood between a request's tokens, all together; empty without any. ``gaps``: of ``store.waits.gaps``."""
    if not gaps:
        return ""
    sums = {kind: sum(gap[f"{kind}_ms"] for gap in gaps) for kind in GAPS}
    return f"Between its tokens passed {milliseconds(sum(gap['itl_ms'] for gap in gaps))}: {_parts(sums)}."


def longest_gaps_in_words(gaps: Sequence[Mapping[str, Any]]) -> list[str]:
    """The longest gaps, a sentence each."""
    return [
        f"{milliseconds(gap['itl_ms'])} before the token of iteration {gap['iteration']} "
        f"({counted(gap['iterations'], 'iteration')}): {_parts({kind: gap[f'{kind}_ms'] for kind in GAPS})}."
        for gap in sorted(gaps, key=lambda gap: -gap["itl_ms"])[:MOST_GAPS]
    ]


def _parts(times: Mapping[str, float]) -> str:
    return _listed([f"{milliseconds(ms)} {GAPS[kind]}" for kind, ms in times.items() if ms > 0])


def named(request: int, names: Mapping[int, str]) -> str:
    """A request as it is called: its number, and its name in the workload."""
    return f"request {request} ({names[request]})" if names.get(request) else f"request {request}"


def _listed(parts: Sequence[str]) -> str:
    return ", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)
