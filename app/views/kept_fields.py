"""Fields of a form that a reload finds again: the address names those that differ from what they usually hold."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import streamlit as st

from app.components.address import keep_in_address

T = TypeVar("T", str, int, float, bool, float | None, list[str])


class KeptFields:
    """The fields of one form. ``begin`` before a control is drawn, ``note`` after it, ``keep`` at the end."""

    def __init__(self, parameter: str, asked: object) -> None:
        """``parameter``: of the address, once for each field, as ``name=text``.

        ``asked``: what a link to the form asks for; another link ends what the reader came with.
        """
        self._parameter = parameter
        pairs = [text.partition("=") for text in st.query_params.get_all(parameter)]
        usual = (asked, {name: text for name, _, text in pairs})
        first, came_with = st.session_state.setdefault(f"kept-{parameter}", usual)
        self._came_with: dict[str, str] = came_with if first == asked else {}
        self._differing: dict[str, str] = {}

    def begin(self, name: str, usual: T, read: Callable[[str], T]) -> T:
        """What the field begins with: what the reader came with, where ``read`` takes it, else ``usual``.

        It stays the same for as long as the page is open. ``read`` raises ``ValueError`` for what the field cannot
        hold.
        """
        try:
            return read(self._came_with[name])
        except (KeyError, ValueError):
            return usual

    def note(self, name: str, value: T | None, usual: T) -> None:
        """What the field holds now."""
        if value is not None and value != usual:
            self._differing[name] = str(value)

    def keep(self, tabs: tuple[str, ...]) -> None:
        """Have the address say it, and which of ``tabs`` is open."""
        keep_in_address({self._parameter: [f"{name}={text}" for name, text in self._differing.items()]}, tabs=tabs)


def one_of(known: list[str]) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in known:
            raise ValueError(text)
        return text

    return read


def whole(lowest: int, highest: int) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not lowest <= (number := int(text)) <= highest:
            raise ValueError(text)
        return number

    return read


def rate(text: str) -> float:
    """A finite number from 0 on."""
    if not 0 <= (number := float(text)) < float("inf"):
        raise ValueError(text)
    return number
