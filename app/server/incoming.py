"""JSON that somebody sends over the network: one object of plain text, or an error that says what it is instead."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from app.errors import LabError


def json_object(data: bytes | str, *, most_bytes: int) -> dict[str, Any]:
    """The object that ``data`` spells.

    Raises:
        LabError: of kind ``bad-request``: too long, no JSON, nested too deeply, a number or a character that JSON
        lacks, no object.
    """
    if len(data) > most_bytes:
        raise _bad(f"The JSON object has more than {most_bytes} bytes.")
    try:
        value = json.loads(data, parse_constant=_no_number)
        json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a surrogate pair has no UTF-8
    except (ValueError, RecursionError):
        raise _bad("This is not a JSON object.") from None
    if not isinstance(value, dict):
        raise _bad("This is not a JSON object.")
    return value


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is no number in JSON")


def _bad(message: str) -> LabError:
    return LabError(
        "bad-request", message=message, mend="Send one object, nested at most some hundred levels deep, in UTF-8."
    )
