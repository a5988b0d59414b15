"""Settings written as text: ``chunked_prefill.token_budget=32``, from the command line, a page or a scenario file.

Everything here works from the settings classes' own fields, so a technique that is added tomorrow needs no line here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from engine.config.errors import ConfigError
from engine.config.schema import Place, choices, describe, field_place, place, suggest, tag_values
from engine.config.settings import worth_saying

S = TypeVar("S", bound=BaseModel)

ON = ("on", "true", "yes")
OFF = ("off", "none", "false", "no")
REFUSED = "It cannot be that."
REFUSALS = {
    "literal_error": "There is no such choice.",
    **dict.fromkeys(("greater_than", "greater_than_equal"), "It is too small."),
    **dict.fromkeys(("less_than", "less_than_equal"), "It is too large."),
}
"""What is wrong, by pydantic's type of the complaint."""


def apply_overrides(config: S, overrides: Mapping[str, str], prefix: str = "") -> S:
    """A copy of ``config`` with the settings named in ``overrides`` changed, whatever their order.

    ``a.b.c`` walks nested settings. A technique takes ``on`` (its settings as they are, else the defaults) and ``off``;
    setting one of its parts switches it on. ``none`` empties an optional setting, lists take commas. ``prefix`` goes
    before the names in errors.

    Raises:
        ConfigError: unknown name (with the nearest ones), a value of the wrong type or out of range, or settings that
            contradict each other.
    """
    refuse_contradictions(overrides, prefix)
    data = config.model_dump()
    kinds_first = sorted(overrides.items(), key=lambda item: not item[0].endswith(".kind"))
    for name, value in kinds_first:
        _assign(type(config), data, name, str(value).strip(), prefix)
    return check_settings(type(config), data, prefix=prefix)


def refuse_contradictions(overrides: Mapping[str, str], prefix: str = "") -> None:
    """Raises ``ConfigError`` where one setting is switched off and a part of it is set beside that."""
    for name, value in overrides.items():
        part = next((other for other in overrides if other.startswith(f"{name}.")), None)
        if part is not None and switches_off(value):
            raise ConfigError(
                f"{prefix}{part}",
                overrides[part],
                f"It contradicts {prefix}{name}={value}, which is given too.",
                f"Leave one of them out: a part alone switches {prefix}{name} on.",
            )


def switches_off(value: str) -> bool:
    """Whether a technique's value means off."""
    return str(value).strip().lower() in OFF


def check_settings(model: type[S], data: Any, *, strict: bool = False, prefix: str = "") -> S:
    """Validate ``data`` as ``model``; a technique may be true or false. ``strict``: no text in place of numbers.

    Raises:
        ConfigError: the first thing that is wrong, in terms of the names people write.
    """
    try:
        return model.model_validate(_switches(model, data), strict=strict)
    except ValidationError as error:
        raise explain(model, error, prefix) from None


def explain(model: type[BaseModel], error: ValidationError, prefix: str = "") -> ConfigError:
    """Turn one of pydantic's complaints about ``model`` into a ConfigError: a misspelt name before what it leaves
    missing."""
    complaints = error.errors(include_url=False)
    first = min(complaints, key=lambda complaint: complaint["type"] != "extra_forbidden")
    names, where, siblings = _locate(model, first["loc"])
    field, value, kind = prefix + ".".join(names), first.get("input"), first["type"]
    if kind == "extra_forbidden":
        return _unknown(field, value, names[-1], {name: name for name in siblings})
    if kind == "missing":
        return ConfigError(field, None, "It is missing.", f"It must be {describe(where)}." if where else "Add it.")
    if kind in ("value_error", "assertion_error"):
        message = _sentence(str(first["ctx"]["error"]))
        return ConfigError(field or prefix.rstrip("."), _short(value), message, "Change one of them.")
    if where is None:
        return ConfigError(field, _short(value), _sentence(first["msg"]), "See the documentation of this setting.")
    if kind in ("union_tag_invalid", "union_tag_not_found") and where.tag is not None and isinstance(value, Mapping):
        given = value.get(where.tag)
        kinds = [str(v) for m in where.models for v in tag_values(m, where.tag)]
        mend = f"It must be one of {', '.join(kinds)}." if given is None else suggest(str(given), kinds)
        return ConfigError(f"{field}.{where.tag}", given, f"There is no such {where.tag}.", mend)
    most = first.get("ctx", {}).get("le", 0)
    largest = "" if worth_saying(most) else f", {most} at most"  # a bound that only counts for who has gone beyond it
    return ConfigError(field, _short(value), REFUSALS.get(kind, REFUSED), f"It must be {describe(where)}{largest}.")


def _assign(model: type[BaseModel], data: dict[str, Any], name: str, text: str, prefix: str) -> None:
    """Put ``text`` at the dotted ``name`` inside ``data``, creating switched-off techniques on the way."""
    here = above = Place((model,), False, None, ())
    holder, walked = data, prefix
    *path, last = name.split(".")
    for part in (*path, last):
        next_place = _step(here, holder, part)
        if next_place is None:
            stem = walked.removeprefix(prefix)
            known = {stem + key: key for key in _names(here, holder)} | _elsewhere(model, part)
            raise _unknown(f"{prefix}{name}", text, part, {prefix + full: key for full, key in known.items()})
        above, here = here, next_place
        walked += f"{part}."
        if part is last:
            break
        if holder.get(part) is None:
            holder[part] = {}
        if not isinstance(holder[part], dict):
            message = f"{walked.rstrip('.')} has no parts."
            raise ConfigError(f"{prefix}{name}", text, message, f"It takes {describe(here)}.")
        holder = holder[part]
    holder[last] = _value(here, holder.get(last), text, f"{prefix}{name}")
    if last == above.tag and (other := above.member(holder[last])) is not None:
        for key in [key for key in holder if key not in other.model_fields]:
            del holder[key]  # another kind has other settings; those it shares are kept


def _step(here: Place, holder: Mapping[str, Any], part: str) -> Place | None:
    """The place called ``part`` inside ``here``; None if there is none."""
    inside = here.member(holder.get(here.tag or ""))
    if inside is not None and part in inside.model_fields:
        return field_place(inside, part)
    if here.is_map and part in holder:
        return place(here.item)
    return Place((str,), False, None, ()) if part == here.tag else None


def _names(here: Place, holder: Mapping[str, Any]) -> list[str]:
    """What may follow at a place: a settings class's fields, a map's keys, or the tag that decides about the rest."""
    inside = here.member(holder.get(here.tag or ""))
    if inside is not None:
        return list(inside.model_fields)
    return list(holder) if here.is_map else [here.tag] if here.tag else []


def _elsewhere(model: type[BaseModel], part: str) -> dict[str, str]:
    """Parts of techniques that are called ``part``, by their full names."""
    inner = ((name, m) for name in model.model_fields for m in field_place(model, name).models)
    return {f"{name}.{part}": part for name, m in inner if part in m.model_fields}


def _value(here: Place, current: Any, text: str, name: str) -> Any:
    """What ``text`` means at a place: a switch for a technique, else a value that pydantic checks later."""
    if here.models and here.tag is None:
        part = f"{name}.{next(iter(here.models[0].model_fields))}"
        if not here.optional:
            raise ConfigError(name, text, "It has parts of its own.", f"Set one of them, such as {part}.")
        if switches_off(text):
            return None
        if text.lower() in ON:
            return current if isinstance(current, dict) else {}
        raise ConfigError(
            name, text, "It is switched on or off.", f"It must be on or off; or set a part, such as {part}."
        )
    if here.optional and text.lower() in ("none", "null", ""):
        return None
    if text.startswith(("[", "{")) and (here.is_list or here.models):
        try:
            return _tuples(json.loads(text))
        except json.JSONDecodeError:
            return text
    if here.is_list:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if bool in here.options and text.lower() in (*ON, *OFF):
        return text.lower() in ON
    return {str(choice).lower(): choice for choice in choices(here)}.get(text.lower(), text)


def _switches(model: type[BaseModel], data: Any) -> Any:
    """Techniques given as true / false become their default settings / None; lists become tuples."""
    if not isinstance(data, Mapping):
        return data
    result = {}
    for key, given in data.items():
        value = _tuples(given)
        where = field_place(model, key) if key in model.model_fields else None
        if where is not None and where.models and where.tag is None:
            if where.optional and isinstance(value, bool):
                value = {} if value else None
            if isinstance(value, dict):
                value = _switches(where.models[0], value)
        result[key] = value
    return result


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(v) for v in value)
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return value


def _locate(model: type[BaseModel], loc: tuple[Any, ...]) -> tuple[list[str], Place | None, list[str]]:
    """Names a person would write for pydantic's error location, the place it is, and the names known beside it."""
    here: Place | None = Place((model,), False, None, ())
    names: list[str] = []
    siblings: list[str] = []
    tag_value: Any = None
    for part in loc:
        if here is not None and here.tag is not None and tag_value is None and here.member(part) is not None:
            tag_value = part  # pydantic names the union's member on its way; people do not
            continue
        inside = here.member(tag_value) if here is not None else None
        names.append(str(part))
        if inside is not None:
            written = {field.alias or name: name for name, field in inside.model_fields.items()}
            siblings = list(written)
            here = field_place(inside, written[part]) if part in written else None
        else:
            here = place(here.item) if here is not None and here.item is not None else None
        tag_value = None
    return names, here, siblings


def _unknown(field: str, value: Any, name: str, known: Mapping[str, str]) -> ConfigError:
    """``known``: full names that are possible, each with its last part, which is what misspellings are compared
    with."""
    return ConfigError(field, _short(value), f"There is no setting {name!r} here.", suggest(name, known))


def _short(value: Any) -> Any:
    text = repr(value)
    return value if len(text) <= 200 else text[:200] + "..."


def _sentence(text: str) -> str:
    if not {"_", "."} & set(text.split(" ", 1)[0]):  # a setting's name stays as it is written
        text = text[:1].upper() + text[1:]
    return text + ("" if text.endswith(".") else ".")
