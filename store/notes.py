"""``notes.json``: what a person wrote about a run or an experiment: a name, notes, tags, and whether it is pinned. Plain text, never markup."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LONGEST = {"name": 120, "notes": 20_000, "tag": 40}  # characters
MOST_TAGS = 20
TAG = r"^[^\s,\x00-\x1f\x7f]([^,\x00-\x1f\x7f]*[^\s,\x00-\x1f\x7f])?$"  # no commas, no control characters, no space at its ends

Tag = Annotated[str, Field(max_length=LONGEST["tag"], pattern=TAG)]


class Notes(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(max_length=LONGEST["name"])] = ""
    notes: Annotated[str, Field(max_length=LONGEST["notes"])] = ""
    tags: Annotated[tuple[Tag, ...], Field(max_length=MOST_TAGS)] = ()
    pinned: bool = False  # never deleted to make room
