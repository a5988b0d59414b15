"""Scenarios of a person's own: files in one folder, written from the page, changed, copied and removed there.

A file is written whole or not at all, and only if it reads back as the scenario it was written from.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from engine.config import EngineConfig
from scenarios.arrivals import Replay, ServeGen
from scenarios.load import library, own_folder, read_scenario
from scenarios.schema import Scenario
from scenarios.yaml_file import ScenarioError

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
PLAIN = re.compile(r"[A-Za-z][A-Za-z_ -]*[A-Za-z]")
LETTERS = "lower case letters, digits and dashes, at most 63"


def checked_name(name: str, field: str = "name") -> str:
    """The name of a file if it is one. Raises ``ScenarioError`` with one like it that would be."""
    if not NAME.fullmatch(name):
        like = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].strip("-") or "my-chat"
        raise ScenarioError(field, name[:80], f"A name has {LETTERS}.", f"For example: {like}")
    return name


def save_scenario(name: str, scenario: Scenario, *, replace: bool = False, base: Path | None = None) -> Path:
    """Keep a scenario under a name; its file.

    ``replace``: the person's own of this name may be there. ``base``: the folder that relative traces are looked for in.

    Raises:
        ScenarioError: no name, one that is taken, no place to keep it, or a scenario that its file would not give back.
    """
    place = _place(name)
    if (library() / place.name).exists():
        raise ScenarioError("name", name, "A built-in scenario has this name.", "Take another one.")
    if place.exists() and not replace:
        raise ScenarioError("name", name, "A scenario of yours has this name.", "Take another one, or replace it.")
    scenario = _with_traces_found(scenario, base)
    text = scenario_text(scenario)
    if read_scenario(text, place.name) != scenario:
        raise ScenarioError("scenario", name, "Its file would say something else.", "Leave out what you set last.")
    _write(place, text)
    return place


def save_text(name: str, text: str) -> Path:
    """Replace the file of a scenario of the person's own. Raises ``ScenarioError`` as ``read_scenario`` does."""
    place = _existing(name)
    read_scenario(text, place.name)
    _write(place, text)
    return place


def text_of(name: str) -> str:
    """The file of a scenario of the person's own, readable as a scenario or not. Raises ``ScenarioError``."""
    with _refused(name, "read"):
        return _existing(name).read_text(encoding="utf-8", errors="replace")


def remove_scenario(name: str) -> None:
    """Remove a scenario of the person's own; runs of it keep what they were asked. Raises ``ScenarioError``."""
    with _refused(name, "removed"):
        _existing(name).unlink()


@contextmanager
def _refused(name: str, done: str) -> Iterator[None]:
    """Tell what could not be ``done`` to the file of a scenario."""
    try:
        yield
    except OSError as error:
        raise ScenarioError(
            "scenario", name, f"The file cannot be {done}: {error.strerror}.", "Check its rights."
        ) from None


def scenario_text(scenario: Scenario) -> str:
    """A scenario as its file has it: what differs from what a file need not say."""
    data = _written(scenario)
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


class _Dumper(yaml.SafeDumper):
    """YAML in which text that is no plain words stands in quotes: nothing reads it as a number or a switch."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=None if PLAIN.fullmatch(text) else '"')


_Dumper.add_representer(str, _Dumper.represent_text)


def _written(model: BaseModel) -> dict[str, Any]:
    """The fields that have to be said: kinds, and values that are not usual."""
    said = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        usual = field.get_default(call_default_factory=True)
        if name == "kind" or field.is_required() or value != usual:
            said[field.alias or name] = _plain(value, isinstance(model, EngineConfig))
    return said


def _plain(value: Any, technique: bool = False) -> Any:
    """``technique``: the value is an engine setting, of which a technique that is off is written so."""
    if value is None and technique:
        return False
    if isinstance(value, BaseModel):
        return _written(value) or (True if technique else {})
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, tuple):
        return [_plain(inner) for inner in value]
    return value


def _with_traces_found(scenario: Scenario, base: Path | None) -> Scenario:
    """The scenario with relative traces named from where they are, which is no longer beside it."""
    groups = dict(scenario.workload.groups)
    for name, group in groups.items():
        arrivals = group.arrivals
        if not isinstance(arrivals, Replay | ServeGen) or Path(arrivals.path).expanduser().is_absolute():
            continue
        places = [Path(arrivals.path), *([base / arrivals.path] if base is not None else [])]
        path = next((place.resolve() for place in places if place.exists()), None)
        if path is not None:
            groups[name] = group.model_copy(update={"arrivals": arrivals.model_copy(update={"path": str(path)})})
    return scenario.model_copy(update={"workload": scenario.workload.model_copy(update={"groups": groups})})


def _place(name: str) -> Path:
    folder = own_folder()
    if folder is None:
        raise ScenarioError("name", name, "There is no place to keep scenarios here.", "Save it from the lab's page.")
    return folder / f"{checked_name(name)}.yaml"


def _existing(name: str) -> Path:
    place = _place(name)
    if not place.is_file():
        raise ScenarioError(
            "scenario", name, "You have no scenario of this name.", "It may have been removed meanwhile."
        )
    return place


def _write(place: Path, text: str) -> None:
    """Replace a file so that a reader sees the old text or the new."""
    temporary = None
    try:
        place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=place.parent, prefix=f".{place.stem}.", suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(handle)
        Path(temporary).replace(place)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise ScenarioError(
            "scenario",
            place.stem,
            f"The file cannot be written: {error.strerror}.",
            "Free some space, or check the rights.",
        ) from None
