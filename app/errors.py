"""What goes wrong in the lab, said so that a person can mend it: the field, its value, what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from telemetry.refusal import Refusal, in_words


class LabError(Refusal):
    """A refusal of the lab or of a command; most have a field and a value, and some no mend."""

    def __init__(self, kind: str, *, message: str, mend: str = "", field: str | None = None, value: Any = None) -> None:
        super().__init__(kind, field, value, message, mend)


def on_page(error: Refusal) -> str:
    """An error for a reader of the page: without a mend that only names a command for the terminal."""
    return error.message if error.mend.startswith("servescope ") else in_words(error)


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Known words that look like ``word``, best first."""
    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)
