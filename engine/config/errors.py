"""What the engine says when it cannot do what was asked: which setting, its value, and what to do about it."""

from __future__ import annotations

import math
from typing import Any


class EngineError(Exception):
    """A refusal a person can act on.

    Attributes:
        kind: short stable word for programs, such as ``unknown-model`` or ``no-gpu``.
        field: the setting or input at fault, in the words of ``EngineConfig`` or of the file concerned.
        value: what that field held.
        message: one sentence saying what is wrong.
        mend: one sentence saying what to change.
    """

    def __init__(self, kind: str, field: str, value: Any, message: str, mend: str) -> None:
        super().__init__(kind, field, value, message, mend)
        self.kind = kind
        self.field = field
        self.value = value
        self.message = message
        self.mend = mend

    def __str__(self) -> str:
        return f"{self.field} = {self.value!r}: {self.message} {self.mend}"

    def as_dict(self) -> dict[str, Any]:
        """The ``error`` object of ``status.json``."""
        value = self.value if isinstance(self.value, (str, int, float, bool, type(None))) else str(self.value)
        if isinstance(value, float) and not math.isfinite(value):  # JSON has no such numbers
            value = str(value)
        return {"kind": self.kind, "field": self.field, "value": value, "message": self.message, "mend": self.mend}


class ConfigError(EngineError, ValueError):
    """A setting that cannot be: which one, what was given, what is wrong with it, and what would be right."""

    def __init__(self, field: str, value: Any, message: str, mend: str) -> None:
        EngineError.__init__(self, "config", field, value, message, mend)


class IntegrityError(AssertionError):
    """What must hold after every step does not: books that do not balance, a position or a token out of place."""
