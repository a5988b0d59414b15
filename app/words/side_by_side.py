"""Two runs beside each other, as sentences: where their schedules part, and what one request waited for in one and not
in the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.words.charts import ChartWords
from app.words.plain import counted, milliseconds
from app.words.waits import WAITS, named
from store.side_by_side import SIDES, Parting

MOST_NAMED = 4
TOKENS = ChartWords(
    "When its tokens came",
    "A step at each token of the chosen request, in both runs, from its arrival on. Where a line is flat for long, it "
    "waited.",
    "slice",
    ("emitted", "itl_ns"),
)


def parting_in_words(
    parting: Parting | None, names: Mapping[str, str], decided: Callable[[Mapping[str, Any]], str]
) -> list[str]:
    """Where two schedules part. ``names``: of the runs, by side; ``decided``: a decision as a sentence."""
    if parting is None:
        return ["Where the schedules part is known of runs with the recording full; one of these has less."]
    if parting.at is None:
        return [
            f"The schedules are the same in all {counted(parting.same, 'iteration')}: who computed what never differs."
        ]
    first = (
        f"The schedules part in iteration {parting.at}; before it, in {counted(parting.same, 'iteration')}, "
        "they are the same."
        if parting.same
        else f"The schedules differ from the beginning, iteration {parting.at}."
    )
    return [first, *(_side(parting, side, names[side], decided) for side in SIDES)]


def _side(parting: Parting, side: str, name: str, decided: Callable[[Mapping[str, Any]], str]) -> str:
    began = parting.began_ns[side]
    if began is None:
        return f"{name}: the run had ended, after {counted(parting.iterations[side], 'iteration')}."
    only = parting.only[side]
    did = [f"{row['kind']} of {counted(row['tokens'], 'token')} for {_named(row)}" for row in only[:MOST_NAMED]]
    more = f" and {counted(len(only) - MOST_NAMED, 'part')} more" if len(only) > MOST_NAMED else ""
    computed = (
        f"computed {', '.join(did)}{more}, which the other did not"
        if did
        else "computed nothing that the other did not"
    )
    why = " ".join(decided(row) for row in parting.decisions[side][:MOST_NAMED])
    return f"{name}, at {began / 1e9:,.3f} s: {computed}. {why}".strip()


def _named(row: Mapping[str, Any]) -> str:
    return named(row["request"], {row["request"]: row["request_id"]})


def waited_in_words(
    row: Mapping[str, Any], apart: Sequence[tuple[str, float, float]], names: Mapping[str, str]
) -> list[str]:
    """What a request waited for in one run that it did not in the other.

    ``row``: of ``store.side_by_side.requests_beside``; ``apart``: of ``waited_apart``.
    """
    gone = [names[side] for side in SIDES if row["waited"][side] is None]
    if gone:
        return [f"It did not end with {' and '.join(gone)}, so its waiting there is not known."]
    whole = [f"{milliseconds(row['waited'][side]['waited_ms'])} with {names[side]}" for side in SIDES]
    told = [f"It waited {' and '.join(whole)}."]
    for reason, before, after in apart:
        short, long = sorted(((before, names["before"]), (after, names["after"])))
        beside = f"only {milliseconds(short[0])}" if short[0] else "not at all"
        told.append(f"For {_WAITED[reason]}: {milliseconds(long[0])} with {long[1]}, {beside} with {short[1]}.")
    return told if apart else [*told, "It waited for the same things equally long."]


_WAITED = WAITS | {
    "next_plan": "the next plan",
    "budget": "the token budget",
    "policy": "the policy",
    "prefix": "a prefix in flight",
    "tails": "an exact window",
    "preempted": "its return after a preemption",
}
