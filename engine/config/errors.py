"""What the engine says when it cannot do what was asked: which setting, its value, and what to do about it."""

from __future__ import annotations

from typing import Any

from telemetry.refusal import Refusal, in_words


class EngineError(Refusal):
    """A refusal of the engine; ``field`` is in the words of ``EngineConfig`` or of the file concerned."""

    field: str

    def __init__(self, kind: str, field: str, value: Any, message: str, mend: str) -> None:
        super().__init__(kind, field, value, message, mend)

    def __str__(self) -> str:
        return f"{self.field} = {self.value!r}: {in_words(self)}"


class ConfigError(EngineError, ValueError):
    """A setting that cannot be: which one, what was given, what is wrong with it, and what would be right."""

    def __init__(self, field: str, value: Any, message: str, mend: str) -> None:
        EngineError.__init__(self, "config", field, value, message, mend)


class IntegrityError(AssertionError):
    """What must hold after every step does not: books that do not balance, a position or a token out of place."""
