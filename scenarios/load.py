"""Finding scenarios and reading their files, strictly: what is unknown or of a wrong type is an error that says why."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from engine.config import suggest
from scenarios.schema import Scenario
from scenarios.yaml_file import ScenarioError, read_as

SUFFIXES = (".yaml", ".yml")


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
    loaded = ((path, load(path)) for path in paths)
    return [ScenarioInfo(path.stem, s.title, s.summary, path, s.technique) for path, s in loaded]


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
    return read_as(Scenario, find(name_or_path), "title, summary, question and workload")
