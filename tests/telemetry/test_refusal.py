"""Errors for people have one shape and one place that words them, whichever room they come from."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from app.commands.console import describe
from app.errors import LabError
from engine.config import ConfigError, EngineError
from scenarios.yaml_file import ScenarioError
from store.errors import StoreError
from telemetry.refusal import Refusal, error_object, in_words, place

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "telemetry" / "refusal.py"
ONE_OF_EACH = (
    LabError("no-lab", message="No lab runs.", mend="Open it.", field="lab", value="x"),
    StoreError("busy", "The database is busy.", "Wait."),
    EngineError("no-gpu", "device", "cuda", "There is no GPU.", "Choose cpu."),
    ConfigError("seed", -1, "It is negative.", "It must be at least 0."),
    ScenarioError("starter.yaml: seed", -1, "It is negative.", "It must be at least 0."),
)


@pytest.mark.parametrize("error", ONE_OF_EACH, ids=lambda error: type(error).__name__)
def test_every_room_refuses_in_the_same_shape(error: Exception) -> None:
    assert isinstance(error, Refusal)
    about = describe(error)
    assert about is not None
    assert list(about) == ["kind", "field", "value", "message", "mend"]
    assert in_words(error) == in_words(about) == f"{error.message} {error.mend}"
    assert str(error).endswith(in_words(error))


def test_values_that_json_lacks_become_text() -> None:
    assert error_object("config", "rate", float("inf"), "", "")["value"] == "inf"
    assert error_object("io", "file", Path("a"), "", "")["value"] == "a"


def test_an_error_object_from_anywhere_can_be_read() -> None:
    assert in_words({}) == place({}) == ""
    assert in_words({"message": "It ended.", "mend": None}) == "It ended."
    assert place({"field": "seed", "value": 0}) == "seed = 0: "


def test_error_objects_and_their_words_are_made_in_one_place() -> None:
    """No other module spells an error object out, or puts message and mend together itself."""
    elsewhere = []
    for room in ("app", "engine", "scenarios", "store", "telemetry"):
        for path in sorted((ROOT / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                if path != HOME and (_is_error_object(node) or _is_its_words(node)):
                    elsewhere.append(f"{path.relative_to(ROOT)}:{node.lineno}")  # type: ignore[attr-defined]
    assert not elsewhere, elsewhere


def _is_error_object(node: ast.AST) -> bool:
    return isinstance(node, ast.Dict) and {"message", "mend"} <= {getattr(key, "value", None) for key in node.keys}


def _is_its_words(node: ast.AST) -> bool:
    if not isinstance(node, ast.JoinedStr):
        return False
    read = [ast.unparse(part.value) for part in node.values if isinstance(part, ast.FormattedValue)]
    return all(any(word in text for text in read) for word in ("message", "mend"))
