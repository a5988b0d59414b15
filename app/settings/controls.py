"""The page's controls, read from the engine settings' JSON schema: a technique added tomorrow has its controls
tomorrow.

A control knows its dotted name (as the command line writes it), its words, what it accepts, and how a value is written
as text for ``engine.config.overrides``. Nothing here draws anything.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from app.settings.prompts import prompts_as_text, prompts_from_text
from engine.config import ON, ConfigError, EngineConfig, apply_overrides, worth_saying
from telemetry.refusal import in_words

Kind = Literal["switch", "choice", "whole", "number", "text", "list", "texts", "technique"]
"""Of a control. ``texts``: prompts of a person's own in one field, as ``app.settings.prompts`` reads them."""


@dataclass(frozen=True)
class Control:
    """One setting as a control."""

    path: str
    kind: Kind
    title: str
    help: str
    group: str
    unit: str
    paper: str
    advanced: bool
    optional: bool  # may be left empty, which means "automatic" or "none"
    choices: tuple[Any, ...]
    aliases: tuple[tuple[str, str], ...]  # of choices: the choice, and a short name that is read as it
    bounds: str  # what it accepts, in words; "" where everything is
    leading: bool = False  # of a technique: always in sight

    @property
    def label(self) -> str:
        return f"{self.title} ({self.unit})" if self.unit not in ("", self.title.lower()) else self.title

    @property
    def explanation(self) -> str:
        """Help, bounds, paper and the name the command line knows it by."""
        parts = [self.help]
        if self.bounds:
            parts.append(f"Accepts {self.bounds}.")
        if self.paper:
            parts.append(f"Paper: {self.paper}.")
        parts.append(f"Command line: `--set {self.path}=...`")
        return "\n\n".join(parts)


@cache
def controls() -> tuple[Control, ...]:
    """Every setting of ``EngineConfig``, in the order of its fields; a technique is followed by its own settings."""
    schema = EngineConfig.model_json_schema()
    return tuple(_walk(schema, schema.get("$defs", {}), ""))


def techniques() -> tuple[Control, ...]:
    """The toggles."""
    return tuple(control for control in controls() if control.kind == "technique")


def leading_techniques() -> tuple[Control, ...]:
    """The toggles that are always in sight, as the settings class says."""
    return tuple(technique for technique in techniques() if technique.leading)


def further_techniques() -> tuple[Control, ...]:
    """The toggles that are shown on request."""
    return tuple(technique for technique in techniques() if not technique.leading)


def in_list() -> tuple[Control, ...]:
    """Every setting as a list offers it: techniques that lead, each with its own settings, then all others."""
    first = [control for one in leading_techniques() for control in (one, *parts_of(one))]
    return (*first, *(control for control in controls() if control not in first))


def parts_of(technique: Control) -> tuple[Control, ...]:
    """The settings of one technique."""
    return tuple(control for control in controls() if control.path.startswith(technique.path + "."))


def value_of(config: EngineConfig, path: str) -> Any:
    """The value of a dotted name; for a technique whether it is on, for the parts of one that is off their defaults."""
    here: Any = config
    for part in path.split("."):
        here = _defaults().get(path) if here is None else getattr(here, part)
    control = _by_path()[path]
    if control.kind == "technique":
        return here is not None
    return list(here) if control.kind == "list" else here


def as_text(control: Control, value: Any) -> str:
    """A control's value the way ``engine.config.overrides`` reads it."""
    if control.kind in ("switch", "technique"):
        return "on" if value else "off"
    if control.kind == "list":
        return json.dumps(list(value or []), ensure_ascii=False)
    if control.kind == "texts":
        return json.dumps(prompts_from_text(value or ""), ensure_ascii=False)
    if value is None or (control.optional and value == ""):
        return "none"
    return str(value).strip()


def from_text(control: Control, text: str) -> Any:
    """The value of ``as_text``; a number that cannot be read stays text. Raises ``ValueError`` for a choice there is
    not.
    """
    if control.kind in ("switch", "technique"):
        return text in ON
    if control.kind == "list":
        values = json.loads(text)
        if not isinstance(values, list):
            raise ValueError(f"{text!r} is no list")
        return [str(value) for value in values]
    if control.kind == "texts":
        return prompts_as_text([str(value) for value in json.loads(text)])
    if control.optional and text == "none":
        return None
    if control.kind == "choice":
        return {str(choice): choice for choice in control.choices}[text]
    if control.kind == "number":
        with contextlib.suppress(ValueError):
            return float(text)
    return text


def settings_of(base: EngineConfig, engine: EngineConfig) -> dict[str, str]:
    """How ``engine`` differs from ``base``, as ``overrides`` has it."""
    return overrides(base, {control.path: value_of(engine, control.path) for control in controls()})


def edits(base: EngineConfig, start: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What was changed between two sets of overrides of ``base``; what was set back has the value of ``base``."""
    back = {path: as_text(_by_path()[path], value_of(base, path)) for path in start if path not in now}
    return back | {path: text for path, text in now.items() if start.get(path) != text}


def overrides(base: EngineConfig, values: Mapping[str, Any]) -> dict[str, str]:
    """What differs from ``base``, as text by dotted name; parts of a technique that is off are left out."""
    changed: dict[str, str] = {}
    for control in controls():
        if control.path not in values:
            continue
        technique = control.path.rpartition(".")[0]
        if technique in values and values[technique] is False:
            continue
        text = as_text(control, values[control.path])
        if text != as_text(control, value_of(base, control.path)):
            changed[control.path] = text
    return changed


def complaints(base: EngineConfig, changed: Mapping[str, str]) -> dict[str, ConfigError]:
    """What is wrong with the changes, by dotted name; where they do not hold together, each is judged alone.

    One that only lacks another change (KV tiers without prefix sharing) is right where both are made.
    """
    try:
        apply_overrides(base, changed)
    except ConfigError as error:
        together = error
    else:
        return {}
    errors: dict[str, ConfigError] = {}
    for path, text in changed.items():
        try:
            apply_overrides(base, {path: text})
        except ConfigError as error:
            errors[path] = error
    return errors or {together.field: together}


def at_the_control(error: ConfigError) -> str:
    """What is wrong, where the control itself is in sight: its name is not repeated, and ``none`` is an empty field."""
    shown = "Empty" if error.value in (None, "", "none") else error.value
    return f"{shown}: {in_words(error)}".replace(", or none.", ", or empty.")


@cache
def _by_path() -> dict[str, Control]:
    return {control.path: control for control in controls()}


@cache
def _defaults() -> dict[str, Any]:
    """Defaults of the parts of techniques, for those that are off."""
    schema = EngineConfig.model_json_schema()
    known: dict[str, Any] = {}
    for name, field in schema["properties"].items():
        inner = _object(field, schema.get("$defs", {}))
        for part, inner_field in (inner or {}).get("properties", {}).items():
            known[f"{name}.{part}"] = inner_field.get("default")
    return known


def _walk(schema: Mapping[str, Any], definitions: Mapping[str, Any], prefix: str) -> list[Control]:
    controls: list[Control] = []
    for name, field in schema.get("properties", {}).items():
        path = prefix + name
        inner = _object(field, definitions)
        optional = any(option.get("type") == "null" for option in field.get("anyOf", ()))
        if inner is not None and optional:
            controls.append(control_of(path, "technique", field, optional))
        if inner is not None:
            controls += _walk(inner, definitions, f"{path}.")
        else:
            controls.append(control_of(path, kind_of(field, definitions), plain_field(field, definitions), optional))
    return controls


def control_of(path: str, kind: Kind, field: Mapping[str, Any], optional: bool) -> Control:
    return Control(
        path=path,
        kind=kind,
        title=str(field.get("title", path)),
        help=str(field.get("description", "")),
        group=str(field.get("group", "Other")),
        unit=str(field.get("unit", "")),
        paper=str(field.get("paper", "")),
        advanced=bool(field.get("advanced", False)),
        optional=optional,
        choices=tuple(field.get("enum", ())),
        aliases=tuple(field.get("aliases", {}).items()),
        bounds=_bounds(field, kind),
        leading=bool(field.get("leading", False)),
    )


def _object(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The settings class a field holds, if it holds one."""
    for option in (field, *field.get("anyOf", ()), *field.get("allOf", ())):
        target = definitions.get(str(option.get("$ref", "")).rpartition("/")[2])
        if target is not None and "properties" in target:
            return target
    return None


def plain_field(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """A field with the facts of its one non-null type merged in (references followed)."""
    merged = dict(field)
    for option in (field, *field.get("anyOf", ())):
        target = definitions.get(str(option.get("$ref", "")).rpartition("/")[2], option)
        if target.get("type") != "null":
            merged |= {key: value for key, value in target.items() if key not in ("title", "description", "default")}
    return merged


def kind_of(field: Mapping[str, Any], definitions: Mapping[str, Any]) -> Kind:
    plain = plain_field(field, definitions)
    if "enum" in plain:
        return "choice"
    kinds: dict[str, Kind] = {"boolean": "switch", "integer": "whole", "number": "number", "array": "list"}
    return kinds.get(str(plain.get("type")), "text")


def _bounds(field: Mapping[str, Any], kind: Kind) -> str:
    if kind not in ("whole", "number"):
        return ""
    words = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
    bounds = [f"{text} {field[key]}" for key, text in words.items() if key in field and worth_saying(field[key])]
    noun = "a whole number" if kind == "whole" else "a number"
    return f"{noun} {' and '.join(bounds)}" if bounds else noun
