"""The name that a browser keeps for itself, so that a reload or a restarted lab finds what it did.

No cookie, nobody is asked.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

FOLDER = files(__package__) / "browser_name"
KEY = "browser-name"


@cache
def _component() -> Callable[..., Any]:
    return st.components.v2.component(
        "servescope_browser_name", js=(FOLDER / "name.js").read_text(encoding="utf-8"), isolate_styles=False
    )


def browser_name() -> str | None:
    """What the browser calls itself; None until it has answered, upon which the page is drawn again."""
    name = st.session_state.get(KEY, {}).get("name")
    _component()(
        key=KEY,
        data={"known": bool(name)},
        default={"name": None},
        on_name_change=lambda: None,
        width="content",
        height="content",
    )
    return name if isinstance(name, str) else None
