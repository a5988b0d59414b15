"""Reading a scenario's YAML strictly: plain maps, lists, text, decimal numbers, on and off; nothing that means something else than it says."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

from engine.config import ConfigError, check_settings

M = TypeVar("M", bound=BaseModel)

LARGEST_FILE = 4_000_000  # bytes
DEEPEST = 40  # levels of maps and lists
MOST_DIGITS = 19  # of a whole number: those of 2**63


class ScenarioError(ConfigError):
    """A scenario file that cannot be used. ``field`` is ``FILE: key.path``."""


class _Loader(yaml.SafeLoader):
    """YAML without its traps: no key twice, no aliases, no tags; ``1e3`` is a number; a date, ``1:30`` and ``010`` are text."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if self.check_event(yaml.AliasEvent):
            raise _wrong("aliases (*name) are not read here", event)
        if event.tag not in (None, "!"):
            raise _wrong(f"the tag {event.tag} is not read here", event)
        if self.depth >= DEEPEST:
            raise _wrong(f"the file is nested more than {DEEPEST} levels deep", event)
        self.depth += 1
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if not isinstance(key_node.value, str):
                raise _wrong("a key must be a word", key_node)
            if key_node.value in seen:
                raise _wrong(f"the key {key_node.value!r} is given twice", key_node)
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)

    def construct_whole(self, node: yaml.ScalarNode) -> int:
        digits = node.value.replace("_", "")
        if len(digits.lstrip("+-")) > MOST_DIGITS:
            raise _wrong(f"a whole number has at most {MOST_DIGITS} digits here", node)
        return int(digits)

    def construct_decimal(self, node: yaml.ScalarNode) -> float:
        value = float(node.value.replace("_", ""))
        if not math.isfinite(value):
            raise _wrong("the number is too large", node)
        return value

    def construct_text(self, node: yaml.ScalarNode) -> str:
        if any("\ud800" <= letter <= "\udfff" for letter in node.value):
            raise _wrong("half a surrogate pair is no character", node)
        return str(node.value)


def _wrong(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


_NUMBERS = {
    "int": re.compile(r"^[-+]?(0|[1-9][0-9_]*)$"),
    "float": re.compile(
        r"^[-+]?(0|[1-9][0-9_]*)?(\.[0-9_]+|\.?[eE][-+]?[0-9]+|\.[0-9_]+[eE][-+]?[0-9]+)$|^[-+]?[1-9][0-9_]*\.$"
    ),
}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float", ":int"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _name, _pattern in _NUMBERS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", _pattern, list("-+0123456789."))
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_whole)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_decimal)
_Loader.add_constructor("tag:yaml.org,2002:str", _Loader.construct_text)


def read_yaml(path: Path) -> Any:
    """What a YAML file says. Raises ``ScenarioError`` with the file, the line and what is wrong with it."""
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise _too_large(path.name, path.stat().st_size)
        return parse_yaml(path.read_text(encoding="utf-8"), path.name)
    except OSError as error:
        raise ScenarioError(
            str(path), None, f"The file cannot be read: {error.strerror}.", "Check its name and rights."
        ) from None
    except UnicodeDecodeError:
        raise ScenarioError(path.name, None, "The file is not UTF-8 text.", "Save it as UTF-8.") from None


def parse_yaml(text: str, name: str) -> Any:
    """The same of a text; ``name`` is what errors call it."""
    if len(text) > LARGEST_FILE:
        raise _too_large(name, len(text))
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ScenarioError(
            f"{name}{line}", None, f"The YAML cannot be read: {error.problem}.", "Mend this line."
        ) from None
    except yaml.YAMLError as error:
        raise ScenarioError(name, None, f"The YAML cannot be read: {error}.", "Mend the file.") from None


def _too_large(name: str, size: int) -> ScenarioError:
    return ScenarioError(name, size, "The file is too large for a scenario.", f"Keep it below {LARGEST_FILE} bytes.")


def line_of(path: Path, field: str) -> int | None:
    """The line of a dotted key in a YAML file, counted from 1: of the deepest part of it that is there; None in no map, and of no key."""
    if not field:
        return None  # the file as a whole, which may be no YAML at all
    node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_Loader)
    line = None
    while field and isinstance(node, yaml.MappingNode | yaml.SequenceNode):
        if isinstance(node, yaml.SequenceNode):
            inside = {str(n): (item, item) for n, item in enumerate(node.value)}
        else:
            inside = {key.value: (key, value) for key, value in node.value}
        name = max((name for name in inside if field == name or field.startswith(f"{name}.")), key=len, default=None)
        if name is None:
            break
        key, node = inside[name]
        line, field = key.start_mark.line + 1, field[len(name) + 1 :]
    return line


def read_as(model: type[M], path: Path, begin: str) -> M:
    """A file's map as ``model``. ``begin``: the keys that a file begins with, for one that is no map.

    Raises:
        ScenarioError: not YAML, or something in it is wrong (file, key, value, what would be right).
    """
    return checked_as(model, read_yaml(path), path.name, begin)


def checked_as(model: type[M], data: Any, name: str, begin: str) -> M:
    """What was read from a file called ``name``, as ``model``. Raises as ``read_as`` does."""
    if not isinstance(data, dict):
        raise ScenarioError(f"{name}:", data, "The file is not a map of keys.", f"Begin it with {begin}.")
    try:
        return check_settings(model, data, strict=True)
    except ConfigError as error:
        raise ScenarioError(f"{name}: {error.field}", error.value, error.message, error.mend) from None
