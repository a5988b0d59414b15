"""The scenarios a page offers: the built-in ones and the person's own, each read once for as long as its file stays."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from scenarios import Scenario, ScenarioError, ScenarioInfo, available, load
from scenarios.load import find, own_folder, own_scenarios

Stamp = tuple[int, int]  # when a file was changed, and its bytes


def scenario_infos() -> list[ScenarioInfo]:
    """The built-in scenarios, then the person's own that can be read."""
    return [*_built_in(), *_own()[0]]


def damaged_scenarios() -> list[ScenarioError]:
    """What is wrong with those of the person's own that cannot be read."""
    return _own()[1]


def scenario_title(info: ScenarioInfo) -> str:
    return f"{info.title} ({info.name}, yours)" if info.own else info.title


def scenario_of(name: str) -> Scenario:
    """A scenario by name. Raises ``ScenarioError``."""
    path = find(name)
    return _loaded(path, _stamp(path))


def _own() -> tuple[list[ScenarioInfo], list[ScenarioError]]:
    folder = own_folder()
    if folder is None:
        return [], []
    return _listed(folder, tuple((path.name, *_stamp(path)) for path in sorted(folder.glob("*.yaml"))))


def _stamp(path: Path) -> Stamp:
    try:
        about = path.stat()
    except OSError:
        return (0, 0)
    return (about.st_mtime_ns, about.st_size)


@lru_cache(maxsize=1)
def _built_in() -> tuple[ScenarioInfo, ...]:
    return tuple(available())


@lru_cache(maxsize=4)
def _listed(folder: Path, files: tuple[tuple[str, int, int], ...]) -> tuple[list[ScenarioInfo], list[ScenarioError]]:
    return own_scenarios()


@lru_cache(maxsize=64)
def _loaded(path: Path, stamp: Stamp) -> Scenario:
    return load(path)
