"""Lessons: one YAML file each, beside this file or in the folder of a teacher's own, called as the lesson."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from engine.config import suggest
from scenarios.lessons.lesson import Lesson
from scenarios.lessons.lesson_file import read_lesson
from scenarios.yaml_file import ScenarioError

_own_folders: list[Path] = []  # at most one: of the store that this process works on


def look_also_in(folder: Path | None) -> None:
    """From now on find lessons in a folder of the teacher's own, too; None: only those that come with the lab."""
    _own_folders[:] = [] if folder is None else [folder]


def folder() -> Path:
    """The folder of the lessons that come with the lab."""
    return Path(__file__).parent


def paths() -> dict[str, Path]:
    """Every lesson's file by the lesson's name; one of the teacher's own stands in for ours of the same name."""
    found = {path.stem: path for path in folder().glob("*.yaml")}
    return found | {
        path.stem: path for own in _own_folders for path in own.glob("*.yaml") if not path.name.startswith(".")
    }


def path_of(name: str) -> Path:
    """A lesson's file. Raises ``ScenarioError`` with the names most like it."""
    known = paths()
    if name not in known:
        raise ScenarioError("lesson", name, "There is no lesson of this name.", suggest(name, sorted(known)))
    return known[name]


def lesson(name: str) -> Lesson:
    """Read and check a lesson.

    Raises:
        ScenarioError: there is none of this name, or something in its file is wrong (file, line, key, value, mend).
    """
    path = path_of(name)
    try:
        changed = path.stat().st_mtime_ns
    except OSError:
        changed = 0  # to read it says what is wrong
    return _read(path, changed)


def lessons() -> tuple[dict[str, Lesson], list[ScenarioError]]:
    """Every lesson by its name, in the order of the list, and what is wrong with those that cannot be read."""
    sound, wrong = {}, []
    for name in sorted(paths()):
        try:
            sound[name] = lesson(name)
        except ScenarioError as error:
            wrong.append(error)
    return dict(sorted(sound.items(), key=lambda item: (item[1].place, item[0]))), wrong


@lru_cache(maxsize=64)
def _read(path: Path, changed_ns: int) -> Lesson:
    """Kept until the file changes."""
    return read_lesson(path)
