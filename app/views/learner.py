"""Whose lessons these are: those of the browser, by a name that it keeps, or of the learner whom the address names."""

from __future__ import annotations

import streamlit as st

from app.components.browser_name import browser_name
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
    """Parameters of the address, with those that stay from page to page: the learner it names, and large type."""
    return parameters | {name: st.query_params[name] for name in (PARAMETER, LARGE) if name in st.query_params}


def large_type() -> bool:
    """Whether the page is read from a projector."""
    return st.query_params.get(LARGE) == "yes"


def large_type_button() -> None:
    """Turns large type on or off; the address says which, for a reload."""
    large = large_type()
    st.button(
        "Usual type" if large else "Large type",
        key="large-type",
        icon=":material/text_decrease:" if large else ":material/text_increase:",
        type="tertiary",
        help="For a projector: everything in a size that the last row can read.",
        on_click=_turn,
        args=(not large,),
    )


def _turn(large: bool) -> None:
    if large:
        st.query_params[LARGE] = "yes"
    else:
        st.query_params.pop(LARGE, None)
