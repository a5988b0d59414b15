"""What a sweep can go through: which settings, and values of each to begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.settings import controls as book
from app.settings import workload
from app.settings.controls import Control
from engine.config import ConfigError, EngineConfig
from scenarios import Scenario

USUAL = {"tokens": (32, 64, 128), "blocks": (64, 128, 256), "requests": (4, 8, 16)}
"""By unit: of a number that is left to the engine."""
FACTORS = (0.5, 1, 2, 4)
MOST = 3  # values to begin with


def sweepable(scenario: Scenario) -> dict[str, Control]:
    """Settings with several values worth trying, by path: the engine's, then the workload's."""
    engine = {control.path: control for control in book.in_list() if control.kind not in ("list", "text")}
    asked = (field.control for field in workload.fields(scenario.workload, {}))
    plain = {c.path: c for c in asked if c.kind not in ("texts", "text") and not c.path.endswith(workload.KIND)}
    return engine | plain


def control_title(control: Control, known: Mapping[str, Control]) -> str:
    """A setting's name where it stands alone: with its technique's or its group's."""
    group = workload.group_of(control.path) if control.path.startswith(workload.WORKLOAD_PREFIX) else ""
    technique = known.get(control.path.rpartition(".")[0])
    before = group or (technique.title if technique is not None else "")
    return f"{before}: {control.title}" if before else control.title


def values_to_try(scenario: Scenario, engine: EngineConfig, control: Control) -> list[str]:
    """Values to begin with, as text."""
    if control.kind in ("switch", "technique"):
        return ["on", "off"]
    if control.kind == "choice":
        return [str(choice) for choice in control.choices]
    fields = {field.control.path: field.begins for field in workload.fields(scenario.workload, {})}
    value = fields[control.path] if control.path in fields else book.value_of(engine, control.path)
    if not isinstance(value, int | float) or not value:
        numbers: Sequence[float] = USUAL.get(control.unit, (0.25, 0.5, 1, 2, 4))
    else:
        numbers = [value * factor for factor in FACTORS]
    texts = dict.fromkeys(str(round(number)) if control.kind == "whole" else f"{number:g}" for number in numbers)
    served = [text for text in texts if not wrong_values(scenario, engine, control.path, [text])]
    return (served if len(served) > 1 else list(texts))[:MOST]  # the form says what the others need beside them


def wrong_values(scenario: Scenario, engine: EngineConfig, path: str, values: list[str]) -> list[ConfigError]:
    """What is wrong with the values of a sweep, each alone."""
    wrong: list[ConfigError] = []
    for text in values:
        if path.startswith(workload.WORKLOAD_PREFIX):
            wrong += workload.complaints(scenario.workload, {path: text}).values()
        else:
            wrong += book.complaints(engine, {path: text}).values()
    return wrong
