"""What goes wrong in the lab, said so that a person can mend it: the field, its value, what is wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class LabError(Exception):
    """An error meant for people. ``kind`` is stable and lower case; the rest is words."""

    def __init__(self, kind: str, *, message: str, mend: str = "", field: str | None = None, value: Any = None) -> None:
        super().__init__(f"{message} {mend}".strip())
        self.kind = kind
        self.field = field
        self.value = value
        self.message = message
        self.mend = mend

    def as_dict(self) -> dict[str, Any]:
        """The shape ``status.json`` and the API use for errors."""
        return {"kind": self.kind, "field": self.field, "value": self.value, "message": self.message, "mend": self.mend}


def on_page(error: LabError) -> str:
    """An error for a reader of the page: without a mend that only names a command for the terminal."""
    return error.message if error.mend.startswith("servescope ") else f"{error.message} {error.mend}".strip()


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """Known words that look like ``word``, best first."""
    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)
