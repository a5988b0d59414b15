"""The glossary: the words of the field by parts of the lab, narrowed by a search that the address keeps."""

from __future__ import annotations

import streamlit as st

from app.components.address import keep_in_address
from app.components.fields import begin
from app.panels.sentences import words_of_the_field
from app.words.glossary import Entry
from app.words.plain import counted, plain

TABLE_WIDTH = 820  # pixels: cells wrap long texts, and the words stay beside them


def glossary_list() -> None:
    """Draw the search and every word that it leaves."""
    begin("glossary-words", st.query_params.get("words", ""))
    wanted = (
        st.text_input(
            "Search",
            key="glossary-words",
            placeholder="a word, such as ITL",
            icon=":material/search:",
            help="Looks for these letters in words, their other forms and what they mean.",
            live=True,
        )
        or ""
    ).strip()
    keep_in_address({"words": [wanted] if wanted else []}, view="glossary")
    parts = {
        part: {word: entry for word, entry in words.items() if wanted.lower() in _haystack(word, entry)}
        for part, words in words_of_the_field().items()
    }
    st.caption(f"{counted(sum(map(len, parts.values())), 'word')}.")
    for part, words in parts.items():
        if words:
            st.subheader(part, anchor=False)
            rows = [
                {"Word": f"**{plain(word)}**{_spelled(entry)}", "Meaning": plain(entry.means)}
                for word, entry in words.items()
            ]
            st.table(rows, border="horizontal", hide_index=True, alt=part, width=TABLE_WIDTH)


def _spelled(entry: Entry) -> str:
    return f" {plain(entry.name)}" if entry.name else ""


def _haystack(word: str, entry: Entry) -> str:
    return " ".join((word, entry.name, *entry.also, entry.means)).lower()
