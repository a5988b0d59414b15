"""A result table on the page."""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from app.words.table import Column, Table


def result_table(table: Table, *, height: int | Literal["content"] = "content", pinned: str | None = None) -> None:
    """Draw it; numbers can be sorted, a run's name opens it. ``pinned``: the column that stays when the rest is
    moved.
    """
    links = [column.title for column in table.columns if column.form == "run"]
    st.dataframe(
        [row | {title: f"/?run={row[title]}" for title in links} for row in table.values()],
        hide_index=True,
        height=height,
        placeholder="–",
        column_config={column.title: _config(column, column.title == pinned) for column in table.columns},
        alt=". ".join(filter(None, [table.title, table.summary])),  # read aloud as it stands: no markup
    )


def _config(column: Column, pinned: bool) -> Any:
    about: dict[str, Any] = {"help": column.help or None, "pinned": pinned or None}
    if column.form is None:
        return st.column_config.TextColumn(column.title, **about)
    if column.form == "run":
        return st.column_config.LinkColumn(column.title, display_text=r"run=(.*)", **about)
    return st.column_config.NumberColumn(column.title, format=column.form or None, **about)
