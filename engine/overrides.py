"""Settings written as text: ``chunked_prefill.token_budget=32``, from the command line, a page or a scenario file.

Everything here works from the settings classes' own fields, so a technique that is added tomorrow needs no line here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from engine.errors import EngineError
from engine.schema import Place, choices, describe, field_place, place, suggest, tag_values

S = TypeVar("S", bound=BaseModel)

ON = ("on", "true", "yes")
OFF = ("off", "none", "false", "no")
PLANNED = ("prefix_sharing", "speculation", "kv_quantization")


class ConfigError(EngineError, ValueError):
    """A setting that cannot be: which one, what was given, what is wrong with it, and what would be right."""

    def __init__(self, field: str, value: Any, message: str, mend: str) -> None:
        EngineError.__init__(self, "config", field, value, message, mend)


def apply_overrides(config: S, overrides: Mapping[str, str], prefix: str = "") -> S:
    """A copy of ``config`` with the settings named in ``overrides`` changed; later ones win.

    ``a.b.c`` walks nested settings. A technique takes ``on`` (its settings as they are, else the defaults) and ``off``; setting
    one of its parts switches it on. ``none`` empties an optional setting, lists take commas. ``prefix`` is put before names in errors.

    Raises:
        ConfigError: unknown name (with the nearest ones), or a value of the wrong type or out of range.
    """
    data = config.model_dump()
    tags_first = sorted(overrides.items(), key=lambda item: item[0].rpartition(".")[2] != "kind")
    for name, value in tags_first:
        _assign(type(config), data, name, str(value).strip(), prefix)
    return check_settings(type(config), data, prefix=prefix)


def check_settings(model: type[S], data: Any, *, strict: bool = False, prefix: str = "") -> S:
    """Validate ``data`` as ``model``; a technique may be given as true or false.

    Raises:
        ConfigError: the first thing that is wrong, in terms of the names people write.
    """
    try:
        return model.model_validate(_switches(model, data), strict=strict)
    except ValidationError as error:
        raise explain(model, error, prefix) from None


def explain(model: type[BaseModel], error: ValidationError, prefix: str = "") -> ConfigError:
    """Turn pydantic's first complaint about ``model`` into a ConfigError."""
    first = error.errors(include_url=False)[0]
    names, where, siblings = _locate(model, first["loc"])
    field = prefix + ".".join(names)
    value = first.get("input")
    kind = first["type"]
    if kind == "extra_forbidden":
        last = names[-1]
        return ConfigError(field, value, _unknown(last), _mend_unknown(last, siblings))
    if kind == "missing":
        wanted = f"Give {describe(where)}." if where else "Add it."
        return ConfigError(field, None, "It is missing.", wanted)
    if kind in ("value_error", "assertion_error"):
        return ConfigError(
            field or prefix.rstrip("."), _short(value), _sentence(str(first["ctx"]["error"])), "Change one of them."
        )
    if where is None:
        return ConfigError(field, _short(value), _sentence(first["msg"]), "See the documentation of this setting.")
    if kind in ("union_tag_invalid", "union_tag_not_found") and where.tag is not None:
        given = value.get(where.tag) if isinstance(value, Mapping) else value
        kinds = [str(v) for m in where.models for v in tag_values(m, where.tag)]
        tag_name = f"{field}.{where.tag}"
        return ConfigError(
            tag_name, given, f"No such {where.tag}.", f"{suggest(str(given), kinds)} One of {', '.join(kinds)}."
        )
    return ConfigError(field, _short(value), "It does not fit.", f"Give {describe(where)}.")


def _assign(model: type[BaseModel], data: dict[str, Any], name: str, text: str, prefix: str) -> None:
    """Put ``text`` at the dotted ``name`` inside ``data``, creating switched-off techniques on the way."""
    here, holder, walked = Place((model,), False, None, ()), data, ""
    above = here
    parts = name.split(".")
    for depth, part in enumerate(parts):
        inside = here.member(holder.get(here.tag)) if here.models else None
        above = here
        if inside is not None and part in inside.model_fields:
            here = field_place(inside, part)
        elif here.is_map and part in holder:
            here = place(here.item)
        elif part == here.tag:
            here = Place((str,), False, None, ())
        else:
            known = (
                list(inside.model_fields) if inside else list(holder) if here.is_map else [here.tag] if here.tag else []
            )
            raise ConfigError(f"{prefix}{name}", text, _unknown(part), _mend_unknown(part, [walked + k for k in known]))
        walked += f"{part}."
        if depth == len(parts) - 1:
            break
        if holder.get(part) is None:
            holder[part] = {}
        if not isinstance(holder[part], dict):
            raise ConfigError(
                f"{prefix}{name}", text, f"{prefix}{walked.rstrip('.')} has no parts.", f"It takes {describe(here)}."
            )
        holder = holder[part]
    _put(here, holder, parts[-1], text, f"{prefix}{name}")
    if parts[-1] == above.tag:
        other = above.member(holder[parts[-1]])
        for key in [k for k in holder if other is not None and k not in other.model_fields]:
            del holder[key]


def _put(here: Place, holder: dict[str, Any], key: str, text: str, name: str) -> None:
    if here.models and here.tag is None:
        if here.optional and text.lower() in OFF:
            holder[key] = None
        elif here.optional and text.lower() in ON:
            holder[key] = holder[key] if isinstance(holder.get(key), dict) else {}
        elif here.optional:
            raise ConfigError(
                name, text, "It is switched on or off.", f"Give on, off, or set a part such as {_a_part(here, name)}."
            )
        else:
            raise ConfigError(
                name, text, "It has parts of its own.", f"Set one of them, such as {_a_part(here, name)}."
            )
        return
    holder[key] = _read(here, text)


def _read(here: Place, text: str) -> Any:
    """Text as the value the place holds; pydantic turns the scalars themselves."""
    if here.optional and text.lower() in ("none", "null", ""):
        return None
    if (here.is_list or here.models) and text[:1] in "[{" and text:
        try:
            return _tuples(json.loads(text))
        except json.JSONDecodeError:
            return text
    if here.is_list:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    if here.accepts(bool) and text.lower() in (*ON, *OFF):
        return text.lower() in ON
    words = {str(c).lower(): c for c in choices(here)}
    return words.get(text.lower(), text)


def _switches(model: type[BaseModel], data: Any) -> Any:
    """Techniques given as true / false become their default settings / None; lists become tuples."""
    if not isinstance(data, Mapping):
        return data
    result = {}
    for key, value in data.items():
        value = _tuples(value)
        if key in model.model_fields:
            where = field_place(model, key)
            inner = where.models[0] if where.models and where.tag is None else None
            if inner is not None and where.optional and isinstance(value, bool):
                value = {} if value else None
            if inner is not None and isinstance(value, dict):
                value = _switches(inner, value)
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
        if here is None:
            names.append(str(part))
            continue
        if here.tag is not None and tag_value is None and here.member(part) is not None:
            tag_value = part
            continue
        inside = here.member(tag_value)
        if inside is not None:
            siblings = list(inside.model_fields)
            names.append(str(part))
            here = field_place(inside, part) if part in inside.model_fields else None
        elif here.item is not None:
            names.append(str(part))
            here = place(here.item)
        tag_value = None
    return names, here, siblings


def _unknown(name: str) -> str:
    return (
        "This technique is not built yet in this version." if name in PLANNED else f"There is no setting {name!r} here."
    )


def _mend_unknown(name: str, known: list[str]) -> str:
    return "Leave it out." if name in PLANNED else suggest(name, known)


def _a_part(here: Place, name: str) -> str:
    return f"{name}.{next(iter(here.models[0].model_fields))}"


def _short(value: Any) -> Any:
    text = repr(value)
    return value if len(text) <= 200 else text[:200] + "..."


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")
