"""What a page of a test does when it comes to a place, told by the test: both import this module."""

from __future__ import annotations

from collections.abc import Callable

WHEN: dict[str, Callable[[], object]] = {}
"""By place; called in the page's thread."""


def act(place: str) -> None:
    WHEN.get(place, lambda: None)()
