"""A drawing that was made for one theme in the colours of another."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import astuple

from app.theme import DARK, HIGH_DARK, HIGH_LIGHT, LIGHT, VARIANTS, Palette

_COLOUR = re.compile(r'"(?:#([0-9a-fA-F]{6})|rgba\((\d{1,3}), ?(\d{1,3}), ?(\d{1,3}), ?([\d.]+)\))"')


def repainted(drawing: str, *, dark: bool, colours: Palette) -> str:
    """A Plotly figure's JSON with every colour of the palettes replaced by the one of the same meaning in ``colours``;
    ``dark``: it was drawn for the dark theme. Other colours stay.
    """
    before, contrast = (DARK, HIGH_DARK) if dark else (LIGHT, HIGH_LIGHT)
    variants = (VARIANTS["dark" if one else "light"] for one in (dark, colours in (DARK, HIGH_DARK)))
    meant: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    for palette in (before, contrast):
        for old, new in zip(astuple(palette), astuple(colours), strict=True):
            meant.setdefault(_channels(old), _channels(new))  # of two meanings the first: it is the larger area
    for old, new in zip(*variants, strict=True):
        meant.setdefault(_channels(old), _channels(new))

    def other(found: re.Match[str]) -> str:
        if found[1] is not None:
            channels = meant.get(_channels(f"#{found[1]}"))
            return found[0] if channels is None else '"#{:02X}{:02X}{:02X}"'.format(*channels)
        channels = meant.get((int(found[2]), int(found[3]), int(found[4])))
        return found[0] if channels is None or float(found[5]) == 0.0 else f'"{_rgba(channels, found[5])}"'

    return _COLOUR.sub(other, drawing)


def _channels(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def _rgba(channels: Iterable[int], opacity: str) -> str:
    return f"rgba({','.join(map(str, channels))},{opacity})"
