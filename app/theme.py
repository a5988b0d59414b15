"""The lab's look: one palette with fixed meanings, for canvases, Plotly figures and Streamlit alike.

A colour means the same thing on every page: amber is prompt work, blue is token generation, magenta is both in one
iteration, teal is memory, red is a stall. ``tests/app/charts/test_page_theme.py`` holds the palette to distances that
survive the three common kinds of colour blindness, and to contrast with both backgrounds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path

STYLES = Path(__file__).parent / "lab.css"
CONTRAST_STYLES = Path(__file__).parent / "contrast.css"


@dataclass(frozen=True)
class Palette:
    """Colours by meaning, as ``#rrggbb``."""

    background: str
    surface: str
    text: str
    muted: str
    grid: str
    accent: str
    prefill: str
    mixed: str
    decode: str
    draft: str
    stall: str
    ghost: str
    kv_used: str
    kv_cached: str
    running: str
    waiting: str
    schedule: str
    prepare: str
    sample: str
    finish: str
    good: str
    warn: str
    on_accent: str  # text on a button of the accent's colour


LIGHT = Palette(
    background="#FBFCFC",
    surface="#F0F3F4",
    text="#17212B",
    muted="#566573",
    grid="#DDE3E7",
    accent="#0B6E7F",
    prefill="#D97B06",
    mixed="#B0347E",
    decode="#1F6FB8",
    draft="#6A4FB3",
    stall="#C1272D",
    ghost="#8494A1",
    kv_used="#1D8A7E",
    kv_cached="#8CCBC3",
    running="#42525F",
    waiting="#C26A00",
    schedule="#33414D",
    prepare="#5E6E7B",
    sample="#8C9AA5",
    finish="#B9C4CC",
    good="#1D7F4F",
    warn="#A85B00",
    on_accent="#FFFFFF",
)

DARK = Palette(
    background="#0E1419",
    surface="#182027",
    text="#E8EEF2",
    muted="#9FB0BD",
    grid="#27323B",
    accent="#4FC3D5",
    prefill="#F5A742",
    mixed="#E573B5",
    decode="#5AA9F0",
    draft="#B79CF0",
    stall="#FF6B5E",
    ghost="#75858F",
    kv_used="#3DB8A6",
    kv_cached="#1F6A61",
    running="#B9C7D1",
    waiting="#F0B05E",
    schedule="#D5DEE4",
    prepare="#A9B6C0",
    sample="#7D8C97",
    finish="#55636D",
    good="#5CCB92",
    warn="#F0B05E",
    on_accent="#0E1419",
)

HIGH_LIGHT = replace(
    LIGHT,
    background="#FFFFFF",
    surface="#FFFFFF",
    text="#000000",
    muted="#1F2933",
    grid="#767F87",
    accent="#004E5C",
    prefill="#8A4B00",
    mixed="#8C1D61",
    decode="#0A4A8C",
    draft="#482C92",
    stall="#A1060F",
    ghost="#56626C",
    kv_used="#0B5A51",
    running="#1C2832",
    waiting="#7D3F00",
)
HIGH_DARK = replace(
    DARK,
    background="#000000",
    surface="#000000",
    text="#FFFFFF",
    muted="#E3E8EC",
    grid="#8B969E",
    accent="#7FE3F2",
    prefill="#FFC069",
    mixed="#FF8FCB",
    decode="#7CC0FF",
    draft="#D0BCFF",
    stall="#FF9086",
    ghost="#A3B1BA",
    kv_used="#66E0CE",
    running="#DDE6EC",
    waiting="#FFC985",
    on_accent="#000000",
)
"""For weak projectors and bright rooms: text on the whole range of contrast, marks at 4.5 : 1 at least."""

VARIANTS: dict[str, tuple[str, ...]] = {
    "light": ("#1F6FB8", "#C26A00", "#B0347E", "#1D8A7E", "#6A4FB3", "#42525F"),
    "dark": ("#5AA9F0", "#F5A742", "#E573B5", "#3DB8A6", "#B79CF0", "#B9C7D1"),
}
"""Colours of a comparison's variants, by their place; each also has a dash and a marker, so that print and every eye
can tell them apart.
"""
DASHES = ("solid", "dash", "dot", "dashdot", "longdash", "longdashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "cross", "x")

STEPS = ("forward", "schedule", "prepare", "sample", "finish")


def palette(name: str, *, high_contrast: bool = False) -> Palette:
    """The palette of the ``"light"`` or ``"dark"`` theme; anything else is light."""
    if high_contrast:
        return HIGH_DARK if name == "dark" else HIGH_LIGHT
    return DARK if name == "dark" else LIGHT


def ink_on(colour: str) -> str:
    """Black or white, whichever can be read better on ``#rrggbb``; one of them always has a contrast of 4.5 : 1."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in channels)
    luminance = 0.2126 * red + 0.7152 * green + 0.0722 * blue
    return "#000000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#FFFFFF"


def palettes() -> dict[str, dict[str, str]]:
    """Both palettes as plain dictionaries, for the canvases."""
    return {"light": asdict(LIGHT), "dark": asdict(DARK)}


def _streamlit(colours: Palette) -> dict[str, object]:
    return {
        "primaryColor": colours.accent,
        "backgroundColor": colours.background,
        "secondaryBackgroundColor": colours.surface,
        "textColor": colours.text,
        "linkColor": colours.accent,
        "borderColor": colours.grid,
        "dataframeBorderColor": colours.grid,
        "redColor": colours.stall,
        "orangeColor": colours.prefill,
        "blueColor": colours.decode,
        "greenColor": colours.good,
        "violetColor": colours.draft,
        "grayColor": colours.muted,
        "chartCategoricalColors": [
            colours.decode,
            colours.prefill,
            colours.mixed,
            colours.kv_used,
            colours.draft,
            colours.running,
        ],
    }


def streamlit_theme() -> dict[str, object]:
    """Streamlit options, by full name, that dress the lab: both themes, the reader switches in the page's menu."""
    options: dict[str, object] = {
        "theme.baseFontSize": 16,
        "theme.baseRadius": "0.5rem",
        "theme.showWidgetBorder": True,
        "theme.headingFontWeights": [700, 650, 600, 600, 600, 600],
        "theme.headingFontSizes": ["2rem", "1.5rem", "1.2rem", "1.05rem", "1rem", "1rem"],
    }
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        options |= {f"theme.{name}.{key}": value for key, value in _streamlit(colours).items()}
        options[f"theme.{name}.sidebar.backgroundColor"] = colours.surface
        options[f"theme.{name}.sidebar.secondaryBackgroundColor"] = colours.background
    return options


@cache
def page_styles(colours: Palette) -> str:
    """The style sheet of the pages: the palette as variables (``--lab-muted``), then ``lab.css``, which names no colour
    of its own; with a palette of high contrast also ``contrast.css``, since Streamlit's theme stays what it is.
    """
    variables = " ".join(f"--lab-{name.replace('_', '-')}: {value};" for name, value in asdict(colours).items())
    sheets = [STYLES, *([CONTRAST_STYLES] if colours in (HIGH_LIGHT, HIGH_DARK) else [])]
    return "\n".join([f":root {{ {variables} }}", *(sheet.read_text(encoding="utf-8") for sheet in sheets)])
