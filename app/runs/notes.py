"""A run's name and notes, kept beside it in ``notes.json``."""

from __future__ import annotations

from app.errors import LabError
from app.home import Home
from store.notes import LONGEST, Notes
from telemetry.folder import NOTES
from telemetry.json_file import Unreadable, read_as, write_json


def read_notes(home: Home, run_id: str) -> Notes:
    """Name and notes of a run; empty ones if nobody wrote any. Raises ``Unreadable``."""
    try:
        return read_as(Notes, home.run_dir(run_id) / NOTES)
    except FileNotFoundError:
        return Notes()


def notes_or_none(home: Home, run_id: str) -> tuple[Notes, str | None]:
    """The same for a reader who goes on without: empty ones, and why, where the file cannot be read."""
    try:
        return read_notes(home, run_id), None
    except Unreadable as error:
        return Notes(), str(error)


def write_notes(home: Home, run_id: str, *, name: str | None = None, notes: str | None = None) -> Notes:
    """Change what is given; notes that cannot be read are replaced. Raises ``LabError`` for an unknown run or a text
    that is too long.
    """
    run_dir = home.existing_run_dir(run_id)
    given = {key: value.strip() for key, value in (("name", name), ("notes", notes)) if value is not None}
    for key, value in given.items():
        if len(value) > LONGEST[key]:
            raise LabError(
                "too-long",
                field=key,
                value=f"{len(value)} characters",
                message=f"{key} may hold {LONGEST[key]} characters.",
                mend="Shorten it.",
            )
    before, _ = notes_or_none(home, run_id)
    changed = before.model_copy(update=given)
    write_json(run_dir / NOTES, changed)
    return changed
