"""What a person is told when something cannot be done: one shape, and the one place that puts it into words.

In memory it is a ``Refusal``, on disk and over the network the *error object* ``{kind, field, value, message, mend}``. Both read alike:
terminal, page and log take their words from here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


class Refusal(Exception):
    """Something that was asked for cannot be done.

    Attributes:
        kind: short stable word for programs, such as ``unknown-model`` or ``no-gpu``.
        field: the setting, file or input at fault; None where there is none to name.
        value: what that field held.
        message: one sentence saying what is wrong.
        mend: one sentence saying what to do about it; may be empty.
    """

    def __init__(self, kind: str, field: str | None, value: Any, message: str, mend: str) -> None:
        super().__init__(kind, field, value, message, mend)
        self.kind = kind
        self.field = field
        self.value = value
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return in_words(self)

    def as_dict(self) -> dict[str, Any]:
        """The error object."""
        return error_object(self.kind, self.field, self.value, self.message, self.mend)


def error_object(kind: str, field: str | None, value: Any, message: str, mend: str) -> dict[str, Any]:
    """An error object; a ``value`` that JSON has no scalar for becomes text."""
    if not isinstance(value, str | int | float | bool | None) or (
        isinstance(value, float) and not math.isfinite(value)
    ):
        value = str(value)
    return {"kind": kind, "field": field, "value": value, "message": message, "mend": mend}


def in_words(error: Refusal | Mapping[str, Any]) -> str:
    """The message and the mend. Of an error object, which may come from anybody's file, any part may be missing."""
    about = _parts(error)
    return " ".join(str(about.get(key) or "") for key in ("message", "mend")).strip()


def place(error: Refusal | Mapping[str, Any]) -> str:
    """``FIELD = VALUE: ``, to stand before the words; empty where no field or no value is named."""
    about = _parts(error)
    return f"{about['field']} = {about['value']!r}: " if about.get("field") and about.get("value") is not None else ""


def with_field(error: Refusal) -> str:
    """Field and value as a sentence, then the words: for a page on which the field is out of sight."""
    shown = "empty" if error.value in (None, "") else repr(error.value)
    return f"{error.field} is {shown}. {in_words(error)}"


def _parts(error: Refusal | Mapping[str, Any]) -> Mapping[str, Any]:
    return error.__dict__ if isinstance(error, Refusal) else error
