"""Settings as people write them: ``KEY=VALUE``."""

from __future__ import annotations

from app.errors import LabError


def parse_settings(settings: list[str], option: str = "--set") -> dict[str, str]:
    """``["a.b=1"]`` as ``{"a.b": "1"}``.

    ``option``: where they were given, for the error.

    Raises ``LabError`` for anything without a key and an equals sign, and for a key given twice with other values.
    """
    parsed: dict[str, str] = {}
    for text in settings:
        key, separator, value = text.partition("=")
        if not separator or not key.strip():
            raise LabError(
                "bad-setting",
                field=option,
                value=text,
                message="A setting is written KEY=VALUE.",
                mend=f"For example: {option} chunked_prefill.token_budget=64",
            )
        if parsed.setdefault(key.strip(), value) != value:
            raise LabError(
                "bad-setting",
                field=key.strip(),
                value=value,
                message=f"It is given twice, as {parsed[key.strip()]} and as {value}.",
                mend="Leave one of them out.",
            )
    return parsed
