"""What can be wrong with the store, said so that someone can act on it."""

from __future__ import annotations

from typing import Literal

Kind = Literal["busy", "corrupt", "newer", "space", "missing", "sql", "slo"]


class StoreError(Exception):
    """``message`` says what is wrong, ``mend`` what to do about it."""

    def __init__(self, kind: Kind, message: str, mend: str) -> None:
        self.kind, self.message, self.mend = kind, message, mend
        super().__init__(f"{message} {mend}".strip())

    def as_dict(self) -> dict[str, str]:
        return {"kind": self.kind, "message": self.message, "mend": self.mend}
