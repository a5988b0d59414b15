"""What the reader has set, held in the session: read as settings, and set anew from a run, a link or a saved file.

A *scope* keeps the settings of one form apart from those of others: the Live page has one for each scenario, called as
it; the Compare page has its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import streamlit as st

from app.settings import controls as book
from app.settings import workload
from app.settings.controls import Control
from engine.config import ConfigError, EngineConfig, apply_overrides
from scenarios import Scenario
from scenarios.build import WORKLOAD_PREFIX
from telemetry.refusal import with_field

T = TypeVar("T")
LONGEST_KEPT = 2000  # characters of a setting that the address of a page takes


def key_of(scope: str, path: str) -> str:
    return f"set:{scope}:{path}"


def changes_of(scenario: Scenario, scope: str) -> dict[str, str]:
    """What the session holds that differs from the scenario, without drawing anything."""
    values = _held(scope)
    return book.overrides(scenario.engine, values) | workload.overrides(scenario.workload, values)


def complaints_of(scenario: Scenario, changed: Mapping[str, str]) -> dict[str, ConfigError]:
    """What is wrong with the changes, by the path of the control that shows it."""
    engine, asked = apart(changed)
    return book.complaints(scenario.engine, engine) | workload.complaints(scenario.workload, asked)


def edits(scenario: Scenario, start: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What was changed between two sets of changes; what was set back has the value of the scenario."""
    usual = {field.control.path: field for field in workload.fields(scenario.workload, {})}
    (start_engine, start_asked), (now_engine, now_asked) = apart(start), apart(now)
    gone = [usual[path] for path in start_asked if path not in now_asked and path in usual]
    back = {field.control.path: book.as_text(field.control, field.begins) for field in gone}
    changed = {path: text for path, text in now_asked.items() if start_asked.get(path) != text}
    return book.edits(scenario.engine, start_engine, now_engine) | back | changed


def apart(changed: Mapping[str, T]) -> tuple[dict[str, T], dict[str, T]]:
    """The engine's settings, and the workload's."""
    asked = {path: text for path, text in changed.items() if path.startswith(WORKLOAD_PREFIX)}
    return {path: text for path, text in changed.items() if path not in asked}, asked


def hold(scope: str, values: Mapping[str, Any]) -> None:
    """Set controls, before they are drawn."""
    for path, value in values.items():
        st.session_state[key_of(scope, path)] = value


def take_settings(scenario: Scenario, scope: str, engine: EngineConfig, asked: Mapping[str, str]) -> list[str]:
    """Set every control as a run was served; parts of techniques that were off stay as they are.

    ``asked``: its workload settings. Returns what is wrong with those.
    """
    for control in book.controls():
        technique = control.path.rpartition(".")[0]
        if not technique or getattr(engine, technique) is not None:
            st.session_state[key_of(scope, control.path)] = book.value_of(engine, control.path)
    _reset_workload(scenario, scope)
    return _restore_workload(scenario, scope, asked)


def reset(scenario: Scenario, scope: str, paths: Iterable[str] | None = None) -> None:
    """Set controls to what the scenario has; ``paths``: some of them."""
    wanted = None if paths is None else set(paths)
    for control in book.controls():
        if wanted is None or control.path in wanted:
            st.session_state[key_of(scope, control.path)] = book.value_of(scenario.engine, control.path)
    _reset_workload(scenario, scope, wanted)


def restore(scenario: Scenario, scope: str, settings: Iterable[str]) -> list[str]:
    """Set controls as an address has them (``key=value``), before they are drawn.

    Returns what is wrong, in words; what is wrong is left as it is, except where its control can show it.
    """
    pairs = {path.strip(): text for path, _, text in (setting.partition("=") for setting in settings)}
    engine, asked = apart(pairs)
    problems = []
    for path, text in engine.items():
        try:
            hold(scope, _value_of(scenario.engine, path, text, engine))
        except ConfigError as error:
            problems.append(with_field(error))
    return problems + _restore_workload(scenario, scope, asked)


def _value_of(base: EngineConfig, path: str, text: str, beside: Mapping[str, str]) -> dict[str, Any]:
    """What a control holds by a setting's text, and its technique, which a part alone switches on."""
    known = {control.path: control for control in book.controls()}
    technique = path.rpartition(".")[0]
    switched = {technique: True} if technique in known and technique not in beside else {}
    try:
        applied = apply_overrides(base, {path: text})
    except ConfigError:
        if path not in known or not _holds(known[path], text):
            raise
        return {path: book.from_text(known[path], text)} | switched
    if path not in known:  # settings with parts, given whole
        raise ConfigError(path, text, "It has no control here.", "Set its parts.")
    return {path: book.value_of(applied, path)} | switched


def _holds(control: Control, text: str) -> bool:
    """Whether a control can show a text, right or wrong."""
    try:
        book.from_text(control, text)
    except (ValueError, KeyError):
        return False
    return True


def _restore_workload(scenario: Scenario, scope: str, asked: Mapping[str, str]) -> list[str]:
    """Set the workload's controls; what is wrong and no control can show, in words."""
    if not asked:
        return []
    try:
        hold(scope, workload.values_of(scenario.workload, asked))
        return []
    except ConfigError as error:
        wrong = error
    values: dict[str, Any] = {}
    unknown = []
    for path, text in sorted(asked.items(), key=lambda item: not item[0].endswith(workload.KIND)):
        known = {field.control.path: field.control for field in workload.fields(scenario.workload, values)}
        if path in known and _holds(known[path], text):
            values[path] = book.from_text(known[path], text)
        else:
            unknown.append(path)
    hold(scope, values)
    return [with_field(wrong)] if unknown else []


def _reset_workload(scenario: Scenario, scope: str, wanted: set[str] | None = None) -> None:
    for field in workload.fields(scenario.workload, {}):
        path = field.control.path
        if wanted is None or path in wanted or path.removesuffix(workload.KIND) in wanted:
            st.session_state[key_of(scope, path)] = field.begins


def _held(scope: str) -> dict[str, Any]:
    begin = key_of(scope, "")
    return {
        key[len(begin) :]: st.session_state[key] for key in map(str, list(st.session_state)) if key.startswith(begin)
    }
