"""What should come out, ticked or refuted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from app.words.plain import plain

MARKS = {
    "seen": ":green-badge[:material/check: seen]",
    "refuted": ":red-badge[:material/close: refuted]",
    "open": ":gray-badge[:material/question_mark: open]",
    "not tested": ":gray-badge[:material/remove: not tested]",
}


def expected_lines(lines: Sequence[Mapping[str, Any]]) -> None:
    """Draw each expectation with its mark, and the figures that say so below it."""
    for line in lines:
        st.markdown(f"{MARKS[line['outcome']]} {plain(line['says'])}")
        if line["why"]:
            st.caption(plain(line["why"]))
