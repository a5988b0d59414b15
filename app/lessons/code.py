"""The code behind a step: where a symbol stands in this installation, and its text."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import lru_cache

from app.errors import LabError
from app.runs.process import SOURCE_ROOT


@dataclass(frozen=True)
class Source:
    """A symbol's own lines, counted from 1."""

    path: str
    first: int
    last: int
    text: str


@lru_cache(maxsize=64)
def source_of(path: str, symbol: str) -> Source:
    """The code of ``symbol`` (``Class.method``) in a file of this installation.

    Raises ``LabError`` where there is none.
    """
    try:
        text = (SOURCE_ROOT / path).read_text(encoding="utf-8")
    except OSError as error:
        raise _missing("path", path, f"There is no file {path} here.") from error
    nodes: list[ast.stmt] = ast.parse(text).body
    found: ast.stmt | None = None
    for part in symbol.split("."):
        found = next((node for node in nodes if part in _names(node)), None)
        if found is None:
            raise _missing("symbol", symbol, f"{path} has no {part}.")
        nodes = found.body if isinstance(found, ast.ClassDef) else []
    assert found is not None
    decorated = [one.lineno for one in getattr(found, "decorator_list", [])]
    first, last = min([found.lineno, *decorated]), found.end_lineno or found.lineno
    return Source(path, first, last, "\n".join(text.splitlines()[first - 1 : last]))


def _names(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _missing(field: str, value: str, message: str) -> LabError:
    return LabError(
        "no-code", field=field, value=value, message=message, mend="Name a file and a class or function in it."
    )
