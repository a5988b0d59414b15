"""A drawing of one theme in the colours of another: every mark means what it meant."""

from __future__ import annotations

from dataclasses import astuple

import plotly.graph_objects as go
import plotly.io
import pytest

from app.charts.frame import faded
from app.charts.repaint import repainted
from app.theme import DARK, HIGH_DARK, LIGHT, VARIANTS, Palette


def drawn(palette: Palette, variant: str) -> str:
    figure = go.Figure(
        go.Scatter(x=[1, 2], y=[3, 4], line_color=palette.decode, fillcolor=faded(palette.kv_used, 0.25))
    )
    figure.add_bar(x=[1], y=[2], marker_color=variant, marker_pattern_fgcolor="#123456")
    figure.add_annotation(text="<b>#1F6FB8</b> is a colour", font_color=palette.text)
    figure.update_layout(paper_bgcolor="rgba(0,0,0,0)")
    return str(plotly.io.to_json(figure))


@pytest.mark.parametrize(("dark", "colours"), [(False, DARK), (True, LIGHT), (False, HIGH_DARK)])
def test_every_colour_becomes_the_one_of_the_same_meaning(dark: bool, colours: Palette) -> None:
    before = DARK if dark else LIGHT
    there, here = ("dark", "light") if dark else ("light", "dark")
    figure = plotly.io.from_json(repainted(drawn(before, VARIANTS[there][2]), dark=dark, colours=colours))
    assert figure.data[0].line.color == colours.decode
    assert figure.data[0].fillcolor == faded(colours.kv_used, 0.25)
    assert figure.data[1].marker.color in (VARIANTS[here][2], colours.mixed)
    assert figure.layout.annotations[0].font.color == colours.text
    assert figure.data[1].marker.pattern.fgcolor == "#123456", "no colour of ours"
    assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
    assert figure.layout.annotations[0].text == "<b>#1F6FB8</b> is a colour"


def test_there_and_back_is_the_same_drawing() -> None:
    light, dark = astuple(LIGHT), astuple(DARK)  # some meanings share a colour
    unlike = [a for a, b in zip(light, dark, strict=True) if light.count(a) == dark.count(b) == 1]
    drawing = plotly.io.to_json(go.Figure(go.Bar(x=unlike, y=[1] * len(unlike), marker_color=unlike)))
    there = repainted(str(drawing), dark=False, colours=DARK)
    assert there != drawing
    assert repainted(there, dark=True, colours=LIGHT).upper() == str(drawing).upper()
