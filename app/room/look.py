"""What the presenter looks at within a page: how far it is scrolled, and what its charts show. It is passed on to those
who follow and kept nowhere.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.errors import LabError

MOST_VIEWS = 24
Mark = Annotated[str, Field(max_length=100)]
Share = Annotated[float, Field(ge=0, le=1)]
View = Annotated[tuple[Annotated[float, Field(allow_inf_nan=False)], ...], Field(max_length=6)]


class Look(BaseModel):
    """A place in a page, by two of its marks, and the numbers that its charts show."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    page: Annotated[str, Field(pattern=r"^[a-z]{0,20}$")]
    from_: Annotated[Mark, Field(alias="from")] = ""
    to: Mark = ""
    share: Share = 0.0  # of the way from one mark to the other
    of: Share = 0.0  # of the whole page
    views: Annotated[dict[Annotated[str, Field(max_length=120)], View], Field(max_length=MOST_VIEWS)] = Field(
        default_factory=dict
    )


def look_of(found: Any) -> Look:
    """What a window says it looks at. Raises ``LabError``, which names the part that is wrong."""
    try:
        return Look.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise LabError(
            "bad-message",
            field=".".join(["look", *map(str, first["loc"])]),
            value=str(first["input"])[:80],
            message=f"This is nothing to look at: {first['msg']}.",
            mend="page, from, to, share, of, views: two marks, shares from 0 to 1, up to six numbers a view.",
        ) from None
