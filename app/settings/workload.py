"""The workload's settings as controls: which there are follows from the kinds that are chosen.

A path is the dotted name that ``--set`` takes: ``workload.GROUP.arrivals.rate``. Nothing here draws anything.

    workload of a scenario + values by path  ->  fields  ->  overrides  ->  scenarios.build
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from pydantic import BaseModel

from app.settings.controls import Control, as_text, control_of, kind_of, plain_field
from app.settings.prompts import prompts_as_text
from app.words.workload import TITLES
from engine.config import ConfigError
from engine.config.schema import Place, field_place, tag_values
from scenarios.build import WORKLOAD_PREFIX, full_names, override_workload
from scenarios.schema import Group, Workload

GROUPS = "groups."
KIND = ".kind"
FIRST = ("requests", "arrivals", "prompt", "prompt_tokens", "output_tokens", "sized_by")
"""Of a group: what is shown first; the rest on request."""
SELDOM = (
    *("start_s", "stagger_s", "block_tokens", "licence", "skip", "format", "sessions", "families", "exact_rate"),
    *("from_s", "step_ms", "prefill_steps"),
)
"""Of any kind: what is shown on request."""
BEGIN_WITH: dict[str, Any] = {
    **{"rate": 1.0, "every_s": 1.0, "clients": 4, "size": 4, "pause_s": 1.0, "low_s": 0.5, "high_s": 2.0},
    **{"median_s": 1.0, "tokens": 64, "low": 32, "high": 128, "mean": 64.0, "median": 64.0, "path": "", "texts": ()},
    **{"prefill_tokens_per_s": 1000.0, "step_ms": 10.0, "batch_step_ms": 20.0},
}
"""What a field without a usual value begins with once its kind is chosen."""


@dataclass(frozen=True)
class Field:
    """One control of the workload.

    ``begins``: what it holds until it is changed. ``implied``: what is served if it is not said, as text; None: it must
    be said.
    """

    control: Control
    begins: Any
    implied: str | None


def fields(workload: Workload, values: Mapping[str, Any]) -> tuple[Field, ...]:
    """The controls of a workload; ``values``: what was chosen, by path: kinds decide what else there is."""
    return tuple(_fields_of(Workload, workload.model_dump(), values, WORKLOAD_PREFIX, False))


def overrides(workload: Workload, values: Mapping[str, Any]) -> dict[str, str]:
    """What differs from the workload, as text by dotted name."""
    changed: dict[str, str] = {}
    for field in fields(workload, values):
        path = field.control.path
        text = as_text(field.control, values.get(path, field.begins))
        if text != field.implied:
            changed.update([_said(path, text)])
    return changed


def complaints(workload: Workload, changed: Mapping[str, str]) -> dict[str, ConfigError]:
    """What is wrong with the changes together, by the path of the control, or of the group where it is several'."""
    try:
        override_workload(workload, _inside(changed))
    except ConfigError as error:
        return {_short(error.field): error}
    return {}


def values_of(workload: Workload, changed: Mapping[str, str]) -> dict[str, Any]:
    """What the controls hold with workload settings written in any way that ``--set`` takes.

    Raises ``ConfigError`` for what cannot be.
    """
    asked = _inside(changed)
    made, as_given = override_workload(workload, asked)
    full = full_names(workload, asked)
    named = [f"{WORKLOAD_PREFIX}{name}.".replace(f"{WORKLOAD_PREFIX}{GROUPS}", WORKLOAD_PREFIX) for name in full]
    usual = {field.control.path: field.begins for field in fields(workload, {})}
    known = _kinds_of(made, usual)
    begins = {field.control.path: field.begins for field in fields(made, {})}
    hands_off = tuple(f"{WORKLOAD_PREFIX}{group}.sized_by." for group in as_given)
    touched = {
        path: value
        for path, value in begins.items()
        if not path.startswith(hands_off or "\0")
        and (usual.get(path, value) != value or any(f"{path}.".startswith(name) for name in named))
    }
    return known | touched


def group_of(path: str) -> str:
    """The group that a path of the workload belongs to; empty for one of the whole workload."""
    name, _, rest = path.removeprefix(WORKLOAD_PREFIX).partition(".")
    return name if rest and name not in Workload.model_fields else ""


def _fields_of(
    model: type[BaseModel], given: Mapping[str, Any] | None, values: Mapping[str, Any], prefix: str, fresh: bool
) -> Iterator[Field]:
    """``given``: what the scenario has here. ``fresh``: the kind is another one, so of that only shared names count."""
    for name in model.model_fields:
        where = field_place(model, name)
        here = (given or {}).get(name)
        if name == "kind" or (name == "recipe" and here is None):
            continue
        if name == "prompt_to_output" and not values.get(
            f"{prefix}total_tokens{KIND}", (given or {}).get("total_tokens")
        ):
            continue  # it splits that length
        if name == "groups":
            for group, about in (here or {}).items():
                yield from _fields_of(Group, about, values, f"{prefix}{group}.", False)
        elif where.models and where.tag:
            yield from _union(model, name, where, here, values, prefix, fresh)
        elif where.models:
            if here is not None:
                yield from _fields_of(where.models[0], here, values, f"{prefix}{name}.", fresh)
        elif name != "requests" or model is Group or (given or {}).get("recipe") is not None:
            yield _leaf(model, name, given, prefix, fresh)


def _union(
    model: type[BaseModel],
    name: str,
    where: Place,
    here: Mapping[str, Any] | None,
    values: Mapping[str, Any],
    prefix: str,
    fresh: bool,
) -> Iterator[Field]:
    """The choice of a kind, and the fields of the one that is chosen."""
    path = f"{prefix}{name}{KIND}"
    default = model.model_fields[name].get_default()
    if here is None and fresh and isinstance(default, BaseModel):
        here = default.model_dump()
    kinds = tuple(str(kind) for member in where.models for kind in tag_values(member, "kind"))
    usual = None if here is None else here["kind"]
    chosen = values.get(path, usual)
    begins = usual if usual is not None or where.optional else kinds[0]
    title, unit, about = TITLES.get(name, (name, "", ""))
    control = Control(
        path, "choice", title, about, _group(prefix), unit, "", _advanced(model, name), where.optional, kinds, (), ""
    )
    implied = None if begins is not None and usual is None else as_text(control, usual)
    yield Field(control, begins, implied)
    member = where.member(chosen if chosen is not None else begins)
    if member is not None and (chosen is not None or begins is not None):
        inner = _fields_of(member, here, values, f"{prefix}{name}.", fresh or chosen != usual)
        for field in inner:
            advanced = field.control.advanced or control.advanced
            yield replace(field, control=replace(field.control, advanced=advanced))


def _leaf(model: type[BaseModel], name: str, given: Mapping[str, Any] | None, prefix: str, fresh: bool) -> Field:
    schema = _schema(model)
    field = plain_field(schema["properties"][name], schema.get("$defs", {}))
    optional = field_place(model, name).optional
    kind = kind_of(schema["properties"][name], schema.get("$defs", {}))
    control = control_of(f"{prefix}{name}", "texts" if name == "texts" else kind, field, optional)
    title, unit, about = TITLES.get(name, (name.replace("_", " ").capitalize(), "", ""))
    if model.__name__ in ("Tokens", "PrefixHits", "TraceBlocks", "Texts") and name in ("low", "high"):
        title, about = {"low": "Smallest token id", "high": "Largest token id"}[name], "Of the random token ids."
    control = replace(
        control,
        title=title,
        unit=unit,
        help=about or control.help,
        group=_group(prefix),
        advanced=_advanced(model, name),
    )
    about_field = model.model_fields[name]
    if given is not None and name in given:
        value = given[name]
        implied: str | None = as_text(control, _held(control, value))
    elif about_field.is_required():
        value, implied = BEGIN_WITH.get(name), None
    else:
        value = about_field.get_default()
        implied = as_text(control, _held(control, value))
    return Field(control, _held(control, value), implied)


def _held(control: Control, value: Any) -> Any:
    """A value as the control's widget holds it."""
    return prompts_as_text(value or ()) if control.kind == "texts" else value


def _advanced(model: type[BaseModel], name: str) -> bool:
    if model is Group:
        return name not in FIRST
    return name in SELDOM or (model is Workload and name in ("seed", "sizing"))


def _group(prefix: str) -> str:
    return group_of(prefix + "x") or "Workload"


def _said(path: str, text: str) -> tuple[str, str]:
    """A control's value as a setting: no kind at all means that there is none of it."""
    return (path.removesuffix(KIND), "none") if path.endswith(KIND) and text == "none" else (path, text)


def _kinds_of(made: Workload, usual: Mapping[str, Any]) -> dict[str, Any]:
    """The kinds that were changed, those that became none included."""
    kinds = {f.control.path: f.begins for f in fields(made, {}) if f.control.path.endswith(KIND)}
    return {path: kind for path, kind in kinds.items() if path in usual and usual[path] != kind}


def _inside(changed: Mapping[str, str]) -> dict[str, str]:
    return {path.removeprefix(WORKLOAD_PREFIX): text for path, text in changed.items()}


def _short(field: str) -> str:
    """An error's field as controls are called."""
    whole = f"{WORKLOAD_PREFIX}{GROUPS}"
    return WORKLOAD_PREFIX + field.removeprefix(whole) if field.startswith(whole) else field


@cache
def _schema(model: type[BaseModel]) -> dict[str, Any]:
    return json.loads(json.dumps(model.model_json_schema()))
