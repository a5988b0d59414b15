"""Finding scenarios and reading their files, strictly: what is unknown or of a wrong type is an error that says why."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from engine.config import suggest
from scenarios.schema import Scenario
from scenarios.yaml_file import ScenarioError, checked_as, parse_yaml, read_as

SUFFIXES = (".yaml", ".yml")
BEGIN = "title, summary, question and workload"


@dataclass(frozen=True)
class ScenarioInfo:
    """One line of the list of built-in scenarios."""

    name: str
    title: str
    summary: str
    path: Path
    technique: str | None  # the engine setting whose effect it shows
    own: bool = False  # in the folder of the person's own


_own_folders: list[Path] = []  # at most one: of the store that this process works on


def look_also_in(folder: Path | None) -> None:
    """From now on find scenarios by name in a folder of the person's own, too; None: in the library only."""
    _own_folders[:] = [] if folder is None else [folder]


def own_folder() -> Path | None:
    """The folder of the person's own scenarios, existing or not."""
    return next(iter(_own_folders), None)


def available() -> list[ScenarioInfo]:
    """The built-in scenarios, ``starter`` first, then by name."""
    paths = sorted(library().glob("*.yaml"), key=lambda path: (path.stem != "starter", path.stem))
    return [_info(path) for path in paths]


def own_scenarios() -> tuple[list[ScenarioInfo], list[ScenarioError]]:
    """The person's own scenarios by name, and what is wrong with those that cannot be read."""
    infos, wrong = [], []
    for path in sorted(_own_paths().values()):
        try:
            infos.append(_info(path, own=True))
        except ScenarioError as error:
            wrong.append(error)
    return infos, wrong


def library() -> Path:
    """The folder of the built-in scenarios."""
    return Path(str(resources.files("scenarios"))) / "library"


def find(name_or_path: str | Path) -> Path:
    """The file of a scenario: a built-in one or one of the person's own by name, any other by its path (which ends in .yaml or .yml).

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
    known = _own_paths() | {p.stem: p for p in library().glob("*.yaml")}
    if text not in known:
        mend = f"{suggest(text, sorted(known))} A file of your own is given by its path and ends in .yaml."
        raise ScenarioError("scenario", text, "There is no scenario of this name.", mend)
    return known[text]


def load(name_or_path: str | Path) -> Scenario:
    """Read and check a scenario.

    Raises:
        ScenarioError: no such scenario, not YAML, or something in it is wrong (file, key, value, what would be right).
    """
    return read_as(Scenario, find(name_or_path), BEGIN)


def read_scenario(text: str, name: str) -> Scenario:
    """A scenario from the text of its file, which errors call ``name``. Raises ``ScenarioError``."""
    return checked_as(Scenario, parse_yaml(text, name), name, BEGIN)


def _own_paths() -> dict[str, Path]:
    """The files in the folder of the person's own, by name; hidden ones are on their way."""
    folder = own_folder()
    files = folder.glob("*.yaml") if folder is not None else ()
    return {path.stem: path for path in files if not path.name.startswith(".")}


def _info(path: Path, own: bool = False) -> ScenarioInfo:
    scenario = load(path)
    return ScenarioInfo(path.stem, scenario.title, scenario.summary, path, scenario.technique, own)
