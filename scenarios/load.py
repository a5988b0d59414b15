"""Finding scenarios and reading their files, strictly: what is unknown or of a wrong type is an error that says why."""

from __future__ import annotations

import re
from collections.abc import Hashable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from engine.config import ConfigError, check_settings, suggest
from scenarios.schema import Scenario

LARGEST_FILE = 4_000_000  # bytes
SUFFIXES = (".yaml", ".yml")


class ScenarioError(ConfigError):
    """A scenario file that cannot be used. ``field`` is ``FILE: key.path``."""


@dataclass(frozen=True)
class ScenarioInfo:
    """One line of the list of built-in scenarios."""

    name: str
    title: str
    summary: str
    path: Path
    technique: str | None  # the engine setting whose effect it shows


def available() -> list[ScenarioInfo]:
    """The built-in scenarios, ``starter`` first, then by name."""
    paths = sorted(library().glob("*.yaml"), key=lambda path: (path.stem != "starter", path.stem))
    found = ((path, load(path)) for path in paths)
    return [ScenarioInfo(path.stem, s.title, s.summary, path, s.technique) for path, s in found]


def library() -> Path:
    """The folder of the built-in scenarios."""
    return Path(str(resources.files("scenarios"))) / "library"


def find(name_or_path: str | Path) -> Path:
    """The file of a scenario: a built-in one by name, any other by its path (which ends in .yaml or .yml).

    Raises:
        ScenarioError: there is none, with the names most like it.
    """
    text = str(name_or_path)
    path = Path(text).expanduser()
    if path.suffix in SUFFIXES:
        if not path.is_file():
            raise ScenarioError(
                "scenario", text, "There is no such file.", "Give the path of a scenario file or a built-in name."
            )
        return path
    known = {p.stem: p for p in library().glob("*.yaml")}
    if text not in known:
        mend = f"{suggest(text, sorted(known))} A file of your own is given by its path and ends in .yaml."
        raise ScenarioError("scenario", text, "There is no built-in scenario of this name.", mend)
    return known[text]


def load(name_or_path: str | Path) -> Scenario:
    """Read and check a scenario.

    Raises:
        ScenarioError: no such scenario, not YAML, or something in it is wrong (file, key, value, what would be right).
    """
    path = find(name_or_path)
    data = _read_yaml(path)
    if not isinstance(data, dict):
        raise ScenarioError(
            f"{path.name}:",
            data,
            "The file is not a map of keys.",
            "Begin it with title, summary, question and workload.",
        )
    try:
        return check_settings(Scenario, data, strict=True)
    except ConfigError as error:
        raise ScenarioError(f"{path.name}: {error.field}", error.value, error.message, error.mend) from None


class _Loader(yaml.SafeLoader):
    """YAML without its traps: no key twice, no aliases, ``1e3`` is a number, a date is text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(problem="aliases (*name) are not read here", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.tag != "tag:yaml.org,2002:str" and not isinstance(key_node.value, str):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key_node.start_mark)
            if key_node.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key {key_node.value!r} is given twice", problem_mark=key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":float"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?([0-9][0-9_]*)(\.[0-9_]*)?([eE][-+]?[0-9]+)?$|^[-+]?\.[0-9]+([eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def _read_yaml(path: Path) -> Any:
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise ScenarioError(
                path.name,
                path.stat().st_size,
                "The file is too large for a scenario.",
                f"Keep it below {LARGEST_FILE} bytes.",
            )
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except OSError as error:
        raise ScenarioError(
            str(path), None, f"The file cannot be read: {error.strerror}.", "Check its name and rights."
        ) from None
    except UnicodeDecodeError:
        raise ScenarioError(path.name, None, "The file is not UTF-8 text.", "Save it as UTF-8.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        raise ScenarioError(
            f"{path.name}{line}", None, f"The YAML cannot be read: {error.problem}.", "Mend this line."
        ) from None
    except yaml.YAMLError as error:
        raise ScenarioError(path.name, None, f"The YAML cannot be read: {error}.", "Mend the file.") from None
