"""Queries that a person saved under a name: ``HOME/queries/NAME.json``.

They are checked when they run, as any other is.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.errors import LabError
from app.home import Home
from app.rights import Right, needs
from scenarios.own import NAME, checked_name
from telemetry.json_file import Unreadable, read_as, write_json

MOST_BYTES = 1 << 20
LONGEST = 100_000  # characters of a query


class SavedQuery(BaseModel):
    """The whole file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: Literal[1] = 1
    query: Annotated[str, Field(min_length=1, max_length=LONGEST)]


def saved_queries(home: Home) -> list[str]:
    """The names there are, whether their files can be read or not."""
    return sorted(path.stem for path in home.queries.glob("*.json") if NAME.fullmatch(path.stem))


@needs(Right.KEEP)
def save_query(home: Home, name: str, query: str) -> None:
    """Keep a query under a name; one of this name is replaced.

    Raises:
        ScenarioError: it is no name.
        LabError: there is no query, or it cannot be written.
    """
    path = home.queries / f"{checked_name(name)}.json"
    if not 1 <= len(query.strip()) <= LONGEST:
        raise LabError(
            "bad-query",
            field="query",
            value=query[:80],
            message=f"A query has 1 to {LONGEST:,} characters; this one has {len(query.strip()):,}.",
            mend="Write one, then save it.",
        )
    try:
        home.queries.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_json(path, SavedQuery(query=query))
    except OSError as error:
        raise LabError(
            "cannot-save", field="name", value=name, message=f"The file cannot be written: {error.strerror}."
        ) from error


def read_query(home: Home, name: str) -> str:
    """The query of a name. Raises ``LabError`` naming the file and what is wrong with it."""
    path = home.queries / f"{name}.json"
    try:
        if NAME.fullmatch(name):
            return read_as(SavedQuery, path, MOST_BYTES).query
    except FileNotFoundError:
        pass
    except Unreadable as error:
        raise LabError(
            "bad-query", field=path.name, value=name, message=f"{error}.", mend=f"Mend {path}, or delete it here."
        ) from error
    raise _unknown(home, name)


@needs(Right.KEEP)
def delete_query(home: Home, name: str) -> None:
    """Remove a saved query. Raises ``LabError`` for none of this name."""
    if not NAME.fullmatch(name) or not (home.queries / f"{name}.json").exists():
        raise _unknown(home, name)
    (home.queries / f"{name}.json").unlink(missing_ok=True)


def _unknown(home: Home, name: str) -> LabError:
    return LabError(
        "unknown-query",
        field="name",
        value=name[:80],
        message=f"No query {name[:80]!r} is saved.",
        mend=f"Saved are: {', '.join(saved_queries(home)) or 'none'}.",
    )
