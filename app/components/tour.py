"""A tour of a page: a card beside one thing after another, for a browser that has not had it. It covers nothing that it
explains, moves nothing of the page, and can be left at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.resources import files
from typing import Any

import streamlit as st

FOLDER = files(__package__) / "tour"


@dataclass(frozen=True)
class Stop:
    """``targets``: selectors of what is explained, of which the first that is visible counts; ``A >>> B``: B within the
    shadow tree of A.
    """

    title: str
    text: str
    targets: tuple[str, ...]


@cache
def _component() -> Callable[..., Any]:
    return st.components.v2.component(
        "servescope_tour",
        css=(FOLDER / "tour.css").read_text(encoding="utf-8"),
        js=(FOLDER / "tour.js").read_text(encoding="utf-8"),
        isolate_styles=False,
    )


def tour(stops: Sequence[Stop]) -> None:
    """Give the tour, unless this browser keeps that it was given or left."""
    _component()(key="tour", data={"stops": [asdict(stop) for stop in stops]}, width="content", height="content")
