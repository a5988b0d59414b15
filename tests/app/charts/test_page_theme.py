"""The palette: what must stay apart stays apart, for readers with and without colour vision, on both backgrounds."""

from __future__ import annotations

import re
from dataclasses import asdict
from itertools import combinations

import numpy as np
import pytest

from app.theme import (
    DARK,
    HIGH_DARK,
    HIGH_LIGHT,
    LIGHT,
    Palette,
    ink_on,
    page_styles,
    palette,
    palettes,
    streamlit_theme,
)

# Colour vision deficiencies as linear maps of linear RGB (Machado, Oliveira and Fernandes, 2009; full severity).
VISION = {
    "full colour vision": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
THEMES = {"light": LIGHT, "dark": DARK, "high light": HIGH_LIGHT, "high dark": HIGH_DARK}
TOGETHER = (("prefill", "mixed", "decode"), ("decode", "stall"), ("kv_used", "text"), ("running", "waiting"))


def linear(colour: str) -> np.ndarray:
    channels = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    relative = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


def contrast(one: str, other: str) -> float:
    low, high = sorted(float(linear(colour) @ [0.2126, 0.7152, 0.0722]) for colour in (one, other))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("theme", THEMES)
def test_colours_drawn_together_can_be_told_apart(theme: str, vision: str) -> None:
    for group in TOGETHER:
        for one, other in combinations(group, 2):
            seen = [lab(VISION[vision] @ linear(getattr(THEMES[theme], name))) for name in (one, other)]
            assert np.linalg.norm(seen[0] - seen[1]) > 15, (one, other)


@pytest.mark.parametrize("theme", THEMES)
def test_text_and_marks_have_contrast(theme: str) -> None:
    colours = THEMES[theme]
    for paper in (colours.background, colours.surface):
        assert contrast(colours.text, paper) > 7
        assert contrast(colours.muted, paper) > 4.5
    for mark in ("prefill", "mixed", "decode", "stall", "kv_used", "running", "waiting", "accent", "draft"):
        assert contrast(getattr(colours, mark), colours.background) > 3, mark


@pytest.mark.parametrize("name", ["light", "dark"])
def test_high_contrast_has_more_of_it_than_the_usual_palette(name: str) -> None:
    usual, high = palette(name), palette(name, high_contrast=True)
    assert contrast(high.text, high.background) == pytest.approx(21)
    assert contrast(high.muted, high.background) > 12
    for mark in ("prefill", "mixed", "decode", "stall", "kv_used", "running", "waiting", "accent", "draft"):
        assert contrast(getattr(high, mark), high.background) > 4.5, mark
        assert contrast(getattr(high, mark), high.background) > contrast(getattr(usual, mark), usual.background), mark


@pytest.mark.parametrize("theme", THEMES)
def test_text_on_a_coloured_field_can_be_read(theme: str) -> None:
    colours = THEMES[theme]
    assert contrast(colours.on_accent, colours.accent) > 4.5
    for field in asdict(colours).values():
        assert contrast(ink_on(field), field) > 4.5, field


def test_the_style_sheet_names_no_colour_that_the_palette_lacks() -> None:
    for theme, colours in THEMES.items():
        head, _, sheet = page_styles(colours).partition("}")
        assert f"--lab-on-accent: {colours.on_accent};" in head, theme
        used = set(re.findall(r"var\((--lab-[a-z-]+)\)", sheet))
        assert used <= set(re.findall(r"--lab-[a-z-]+", head)), theme
        assert not re.search(r"#[0-9a-fA-F]{3,6}\b", sheet)


def test_canvases_and_streamlit_get_the_same_colours() -> None:
    options = streamlit_theme()
    for name, colours in (("light", LIGHT), ("dark", DARK)):
        assert palettes()[name]["decode"] == colours.decode
        assert options[f"theme.{name}.backgroundColor"] == colours.background
        assert options[f"theme.{name}.blueColor"] == colours.decode


def test_every_colour_is_six_hex_digits() -> None:
    for colours in THEMES.values():
        assert isinstance(colours, Palette)
        for name, colour in asdict(colours).items():
            assert len(colour) == 7, name
            assert int(colour[1:], 16) >= 0
