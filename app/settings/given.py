"""What a run was given, as rows of a table: every setting that had a say, and nested facts as names and texts."""

from __future__ import annotations

from typing import Any

from app.settings import controls as book
from engine.config import EngineConfig


def settings_rows(engine: EngineConfig) -> list[dict[str, str]]:
    """Every setting that had a say: parts of a technique that was off are left out."""
    default = EngineConfig()
    off = {control.path for control in book.techniques() if getattr(engine, control.path) is None}
    rows = []
    for control in book.controls():
        if control.path.rpartition(".")[0] in off:
            continue
        value = shown(control, book.value_of(engine, control.path))
        usual = shown(control, book.value_of(default, control.path))
        rows.append(
            {
                "part": control.group,
                "setting": control.title,
                "value": value,
                "unit": control.unit,
                "usual": "" if value == usual else f"usually {usual}",
                "name": control.path,
            }
        )
    return rows


def shown(control: book.Control, value: Any) -> str:
    """A setting's value as people read it."""
    return "automatic" if value is None and control.optional else book.as_text(control, value)


def flat(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested facts as dotted names and texts, in order."""
    pairs: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{prefix}{name}.")
        elif value is not None:
            pairs.append((f"{prefix}{name}", ", ".join(map(_text, value)) if isinstance(value, list) else _text(value)))
    return pairs


def _text(value: Any) -> str:
    """A value as text; of a measured one the digits that mean something."""
    if isinstance(value, float) and value == value and abs(value) != float("inf"):
        return f"{value:,.0f}" if abs(value) >= 1e5 else f"{value:.6g}"
    return str(value)
