"""Walking a tree of settings classes by the dotted names people write, and saying in words what a setting accepts.

A *place* is a type annotation reached by such a name. The tree may hold nested settings classes, optional ones
(techniques), maps of them, and unions told apart by a tag field such as ``kind``.
"""

from __future__ import annotations

import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from engine.config.settings import Accepts, Aliases, OneOf, worth_saying

SCALAR_WORDS = {int: "a whole number", float: "a number", bool: "on or off", str: "text", dict: "a map"}


@dataclass(frozen=True)
class Place:
    """A spot in the settings tree: its type without ``Annotated`` and ``None``, and whether it may be ``None``."""

    options: tuple[Any, ...]  # the union's members without None
    optional: bool
    tag: str | None  # the field that tells the union's members apart
    bounds: tuple[Any, ...]  # annotated-types metadata: Ge, Le, ...

    @property
    def models(self) -> tuple[type[BaseModel], ...]:
        return tuple(o for o in self.options if isinstance(o, type) and issubclass(o, BaseModel))

    @property
    def item(self) -> Any | None:
        """The value type of a map or the element type of a list; None for anything else."""
        for option in self.options:
            arguments = typing.get_args(option)
            if typing.get_origin(option) in (tuple, list) and arguments:
                return arguments[0]
            if typing.get_origin(option) is dict:
                return arguments[1]
        return None

    @property
    def is_list(self) -> bool:
        return any(typing.get_origin(o) in (tuple, list) for o in self.options)

    @property
    def is_map(self) -> bool:
        return any(typing.get_origin(o) is dict for o in self.options)

    def accepts(self, kind: type) -> bool:
        return kind in self.options

    def member(self, tag_value: Any) -> type[BaseModel] | None:
        """The settings class that stands at this place: the only one, or the one whose tag holds ``tag_value``."""
        if self.tag is None:
            return self.models[0] if self.models else None
        return next((m for m in self.models if tag_value in tag_values(m, self.tag)), None)


def place(annotation: Any, field: FieldInfo | None = None) -> Place:
    """Read a type annotation (and the field that carries it, for its bounds)."""
    bounds: list[Any] = list(field.metadata) if field else []
    tag = field.discriminator if field and isinstance(field.discriminator, str) else None
    optional = False
    pending, options = [annotation], []
    while pending:
        current = pending.pop(0)
        origin = typing.get_origin(current)
        if origin is Annotated:
            inner, *metadata = typing.get_args(current)
            pending.insert(0, inner)
            for extra in metadata:
                if isinstance(extra, FieldInfo):
                    bounds.extend(extra.metadata)
                    tag = extra.discriminator if isinstance(extra.discriminator, str) else tag
                else:
                    bounds.append(extra)
        elif origin in (Union, types.UnionType):
            pending = [*typing.get_args(current), *pending]
        elif current is type(None):
            optional = True
        else:
            options.append(current)
    return Place(tuple(options), optional, tag, tuple(bounds))


def field_place(model: type[BaseModel], name: str) -> Place:
    """The place a field of a settings class is."""
    field = model.model_fields[name]
    return place(field.annotation, field)


def tag_values(model: type[BaseModel], tag: str) -> tuple[Any, ...]:
    """The values of the tag field that mean this class."""
    return typing.get_args(model.model_fields[tag].annotation)


def choices(where: Place) -> tuple[Any, ...]:
    """The values of a place that is a list of words; empty for anything else."""
    words = [v for option in where.options if typing.get_origin(option) is Literal for v in typing.get_args(option)]
    return (*words, *(name for bound in where.bounds if isinstance(bound, OneOf) for name in bound.names))


def describe(where: Place) -> str:
    """What a place accepts, as the end of a sentence: ``a whole number at least 1, or none``."""
    words = " or ".join(dict.fromkeys(_describe_option(o, where) for o in where.options))
    pattern = next((b.pattern for b in where.bounds if getattr(b, "pattern", None)), None)
    said = next((b.words for b in where.bounds if isinstance(b, Accepts)), None)
    names = next((b.names for b in where.bounds if isinstance(b, OneOf)), None)
    if names is not None:
        words = "one of " + ", ".join(names)
    elif said:
        words = said
    elif pattern:
        words += f" that matches {pattern}"
    words += "".join(f" ({', '.join(b.of)} for short)" for b in where.bounds if isinstance(b, Aliases))
    words += _describe_bounds(where.bounds)
    return words + (", or none" if where.optional else "")


def _describe_option(option: Any, where: Place) -> str:
    origin = typing.get_origin(option)
    if origin is Literal:
        return "one of " + ", ".join(str(v) for v in typing.get_args(option))
    if origin in (tuple, list):
        return "a list of " + describe(place(typing.get_args(option)[0])).removeprefix("a ") + "s, with commas between"
    if origin is dict:
        return "a map of names"
    if isinstance(option, type) and issubclass(option, BaseModel):
        if where.tag is not None:
            kinds = (str(v) for m in where.models for v in tag_values(m, where.tag))
            return f"a map with {where.tag}: one of " + ", ".join(kinds)
        return "a map with " + ", ".join(option.model_fields)
    return SCALAR_WORDS.get(option, str(getattr(option, "__name__", option)))


def _describe_bounds(bounds: Iterable[Any]) -> str:
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    limits = ((text, getattr(bound, name, None)) for bound in bounds for name, text in words.items())
    return "".join(f", {text} {limit}" for text, limit in limits if limit is not None and worth_saying(limit))


def suggest(name: str, known: Iterable[str] | Mapping[str, str]) -> str:
    """A mend for a misspelt name: the nearest known ones, else all of them.

    ``known`` may map full names to the part of them that ``name`` is to be compared with.
    """
    parts = dict(known) if isinstance(known, Mapping) else {k: k for k in known}
    close = difflib.get_close_matches(name, list(dict.fromkeys(parts.values())), n=3, cutoff=0.6)
    if close:
        return f"Did you mean {' or '.join(full for part in close for full in parts if parts[full] == part)}?"
    return f"Known here: {', '.join(parts)}." if parts else "Nothing can be set here."
