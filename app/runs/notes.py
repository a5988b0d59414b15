"""Name, notes, tags and pin of a run or an experiment, kept beside it in ``notes.json``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from app.errors import LabError
from app.home import Home
from app.rights import Right, needs
from store.notes import LONGEST, MOST_TAGS, Notes, Tag
from telemetry.folder import NOTES
from telemetry.json_file import Unreadable, read_as, write_json

_TAG = TypeAdapter(Tag)


def read_notes(home: Home, name: str) -> Notes:
    """What was written about a run or an experiment; empty if nobody wrote anything. Raises ``Unreadable``."""
    return _read(home.object_dir(name))


def notes_or_none(home: Home, name: str) -> tuple[Notes, str | None]:
    """The same for a reader who goes on without: empty ones, and why, where the file cannot be read."""
    try:
        return read_notes(home, name), None
    except Unreadable as error:
        return Notes(), str(error)


@needs(Right.RENAME)
def write_notes(
    home: Home,
    of: str,
    *,
    name: str | None = None,
    notes: str | None = None,
    tags: Iterable[str] | None = None,
    pinned: bool | None = None,
) -> Notes:
    """Change what is given; notes that cannot be read are replaced.

    Raises ``LabError`` for an unknown run or experiment, a text that is too long, or a tag that cannot be one.
    """
    folder = home.existing_object_dir(of)
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
    changes: dict[str, object] = dict(given)
    if pinned is not None:
        changes["pinned"] = pinned
    if tags is not None:
        changes["tags"] = checked_tags(tags)
    before, _ = notes_or_none(home, of)
    changed = before.model_copy(update=changes)
    write_json(folder / NOTES, changed)
    return changed


def checked_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """The tags, each once and without space around it. Raises ``LabError`` for one that cannot be, or too many."""
    kept = tuple(dict.fromkeys(tag.strip() for tag in tags))
    for tag in kept:
        try:
            _TAG.validate_python(tag)
        except ValidationError as error:
            raise LabError(
                "bad-tag",
                field="tag",
                value=tag[:80],
                message=f"{tag[:80]!r} cannot be a tag.",
                mend=f"A tag is 1 to {LONGEST['tag']} characters without commas or line breaks.",
            ) from error
    if len(kept) > MOST_TAGS:
        raise LabError(
            "bad-tag",
            field="tag",
            value=len(kept),
            message=f"There may be {MOST_TAGS} tags, these are {len(kept)}.",
            mend="Take some away.",
        )
    return kept


def _read(folder: Path) -> Notes:
    try:
        return read_as(Notes, folder / NOTES)
    except FileNotFoundError:
        return Notes()
