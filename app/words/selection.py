"""What is wrong with a selection that an address names, as sentences."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.words.plain import counted, is_number

MOST_S = 1e9  # of an address: beyond any run


def nothing_recorded(recording: str) -> str:
    """What is said of a run without iterations, and what would help."""
    if recording == "off":
        return "No iteration was recorded in this run (recording: off). Set recording to full and run it again."
    return "No iteration was recorded in this run: it ended before its first one."


def still_served(selected: Mapping[str, str]) -> str:
    """What is said of a selection in a run that is not over; empty without one."""
    if not selected:
        return ""
    named = ", ".join(f"{name} {value[:20]}" for name, value in selected.items())
    return f"This run is not over yet: what the address names of it ({named}) can be opened once it is."


def not_there(selected: Mapping[str, str], extent: Mapping[str, Any], recording: str, state: str) -> list[str]:
    """A sentence for each part of the selection that the run does not have. ``extent``: of ``store.extent``."""
    told = [
        _number("iteration", selected, extent["first"], extent["last"], nothing_recorded(recording)),
        _request(selected, extent),
        _block(selected, extent, recording),
        _stretch(selected, extent),
    ]
    wrong = [sentence for sentence in told if sentence]
    if wrong and state in ("crashed", "failed", "cancelled"):
        wrong.append(f"The run is {state}: its rows end where it did.")
    return wrong


def _number(name: str, selected: Mapping[str, str], first: int | None, last: int | None, nothing: str) -> str:
    asked = selected.get(name)
    if asked is None:
        return ""
    if first is None or last is None:
        return nothing
    if is_number(asked) and first <= int(asked) <= last:
        return ""
    return f"There is no {name} {asked!r}: this run has {first} to {last}."


def _request(selected: Mapping[str, str], extent: Mapping[str, Any]) -> str:
    asked, ended = selected.get("request"), extent["ended"]
    if asked is None or (is_number(asked) and int(asked) in ended):
        return ""
    if not ended:
        return f"No request ended in this run, so request {asked!r} cannot be shown."
    return (
        f"No request {asked!r} ended in this run: {counted(len(ended), 'request')} did, "
        f"with numbers from {min(ended)} to {max(ended)}."
    )


def _block(selected: Mapping[str, str], extent: Mapping[str, Any], recording: str) -> str:
    if "block" in selected and recording != "full":
        return (
            f"What happened to blocks was not recorded (recording: {recording}). "
            "Set recording to full and run it again."
        )
    last = None if extent["blocks"] is None else extent["blocks"] - 1
    return _number("block", selected, 0, last, "No block of the KV pool was recorded in this run.")


def _stretch(selected: Mapping[str, str], extent: Mapping[str, Any]) -> str:
    begin, end = selected.get("from"), selected.get("to")
    if begin is None and end is None:
        return ""
    stretch = stretch_of(begin or "", end or "")
    if stretch is None:
        return (
            f"from={begin or ''}, to={end or ''} is no stretch of time: "
            "give two numbers of seconds, the smaller one first."
        )
    if extent["end_s"] is not None and stretch[0] >= extent["end_s"]:
        return f"There is nothing from {begin} s on: this run ended at {extent['end_s']:.3f} s."
    return ""


def stretch_of(begin: str, end: str) -> tuple[float, float] | None:
    """The stretch of time that an address names, in s; None where it names none."""
    try:
        stretch = (float(begin), float(end))
    except ValueError:
        return None
    return stretch if 0 <= stretch[0] < stretch[1] < MOST_S else None
