"""What a person writes about a run: a name and notes, kept beside it in ``notes.json``. Plain text, never markup."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from app.errors import LabError
from app.home import Home, read_json, write_json

FILE = "notes.json"
LONGEST = {"name": 120, "notes": 20_000}


@dataclass(frozen=True)
class Notes:
    name: str = ""
    notes: str = ""


def read_notes(home: Home, run_id: str) -> Notes:
    """Name and notes of a run; empty ones if nobody wrote any."""
    found = read_json(home.run_dir(run_id) / FILE) or {}
    return Notes(str(found.get("name", "")), str(found.get("notes", "")))


def write_notes(home: Home, run_id: str, *, name: str | None = None, notes: str | None = None) -> Notes:
    """Change what is given. Raises ``LabError`` for an unknown run or a text that is too long."""
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
    changed = Notes(**(asdict(read_notes(home, run_id)) | given))
    write_json(run_dir / FILE, asdict(changed))
    return changed
