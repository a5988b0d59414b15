"""What can be wrong with the store, said so that someone can act on it."""

from __future__ import annotations

from typing import Literal

from telemetry.refusal import Refusal

Kind = Literal["busy", "corrupt", "newer", "space", "missing", "sql", "slo"]


class StoreError(Refusal):
    """A refusal of the store: it names no field, the message says what it is about."""

    def __init__(self, kind: Kind, message: str, mend: str) -> None:
        super().__init__(kind, None, None, message, mend)
