"""A result table once: its columns and rows; page, HTML, terminal and CSV only render it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.words.text import number

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Column:
    """One column of a result table.

    ``keys`` of a row are what a file gets, as they are; ``text`` is the cell as people read it. ``form``: the first key
    is a number that a page writes so (a format of Streamlit's), or with ``run`` the name of a run that a page opens.
    """

    title: str
    keys: tuple[str, ...]
    text: Callable[[Row], str]
    form: str | None = None
    help: str = ""


@dataclass(frozen=True)
class Table:
    """Columns, rows, and what is to be said above and below them."""

    title: str
    columns: tuple[Column, ...]
    rows: Sequence[Row]
    note: str = ""
    summary: str = field(default="", compare=False)  # in words, for those who do not see it

    @property
    def heads(self) -> tuple[str, ...]:
        return tuple(column.title for column in self.columns)

    def cells(self) -> list[list[str]]:
        """Every row as people read it."""
        return [[column.text(row) for column in self.columns] for row in self.rows]

    def values(self) -> list[dict[str, Any]]:
        """Every row by the columns' titles: numbers and runs as they are, the rest as people read it."""
        return [
            {c.title: c.text(row) if c.form is None else row.get(c.keys[0]) for c in self.columns} for row in self.rows
        ]

    def only(self, titles: Iterable[str]) -> Table:
        """The same table with some of its columns, in the order named."""
        by_title = {column.title: column for column in self.columns}
        return Table(self.title, tuple(by_title[t] for t in titles), self.rows, self.note, self.summary)


def words_of(title: str, key: str, help: str = "") -> Column:
    """A column of text."""
    return Column(title, (key,), lambda row: "" if row.get(key) is None else str(row[key]), help=help)


def figure_of(
    title: str, key: str, form: str = "localized", help: str = "", text: Callable[[Any], str] = number
) -> Column:
    """A column of numbers, written by ``text`` where the page does not format them."""
    return Column(title, (key,), lambda row: text(row.get(key)), form, help)


def scaled_of(title: str, key: str, form: str, scale: float = 1) -> Column:
    """A column of numbers in another unit, as text; empty where there is none."""
    return Column(title, (key,), lambda row: "" if row[key] is None else f"{scale * row[key]:,{form}}")


def share(value: float | None) -> str:
    """A share in percent; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.1f} %"
