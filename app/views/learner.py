"""Whose lessons these are: those of the browser, by a name that it keeps, or of the learner whom the address names."""

from __future__ import annotations

import streamlit as st

from app.components.browser_name import browser_name
from app.components.chart_card import CONTRAST
from app.lessons.progress import is_learner
from app.rights import visitor

PARAMETER = "learner"
LARGE = "large"


def this_learner() -> str | None:
    """The learner's name; None for the moment in which the browser is asked for it."""
    who = visitor()
    if who.is_viewer:
        return who.member  # nobody looks at what another viewer predicted
    asked = st.query_params.get(PARAMETER)
    if is_learner(asked):
        return asked
    name = browser_name()
    return name if is_learner(name) else None


def address_of(**parameters: str) -> dict[str, str]:
    """Parameters of the address, with those that stay from page to page: the learner it names, and how it is
    shown to a room.
    """
    stay = (PARAMETER, LARGE, CONTRAST)
    return parameters | {name: st.query_params[name] for name in stay if name in st.query_params}
