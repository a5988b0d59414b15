"""``notes.json``: what a person wrote about a run, a name and notes. Plain text, never markup."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

LONGEST = {"name": 120, "notes": 20_000}  # characters


class Notes(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(max_length=LONGEST["name"])] = ""
    notes: Annotated[str, Field(max_length=LONGEST["notes"])] = ""
