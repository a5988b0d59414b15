"""The page's address as the place where a reader's settings and the open tab survive a reload."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

FOLDER = files(__package__) / "address"


@cache
def _component() -> Callable[..., Any]:
    return st.components.v2.component("servescope_address", js=script(), isolate_styles=False)


def script() -> str:
    """The component as one module."""
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in ("rewrite.js", "address.js"))


def keep_in_address(parameters: Mapping[str, Sequence[str]], *, tabs: Sequence[str] = (), view: str = "") -> None:
    """Make the address name ``parameters`` (each as often as it has values), and the open one of ``tabs`` as ``tab``.

    ``view``: which of several things the page shows; another one is shown from its top.

    The address changes in place. ``st.query_params`` would make a step of the browser's history of every change.
    """
    _component()(
        key="address",
        data={
            "owned": list(parameters),
            "pairs": [[name, value] for name, values in parameters.items() for value in values],
            "tabs": list(tabs),
            "view": view,
            "at": st.query_params.to_dict(),  # written again when the address has changed
        },
        width="content",
        height="content",
    )


def first_tab(tabs: Sequence[str], usual: str) -> str:
    """The tab to open: the one the address named when the reader came, else the usual one."""
    named = st.session_state.setdefault("tab-of-address", st.query_params.get("tab"))
    return str(named) if named in tabs else usual
