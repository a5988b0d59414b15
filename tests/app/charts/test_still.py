"""A chart's picture: the same rows, colours and axes as the chart that takes its place."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
import plotly.graph_objects as go
import pytest

from app.charts import iteration_timeline, on_one_clock
from app.charts.frame import new_figure, step_line
from app.charts.still import HIGH, WIDE, marks, outline, still
from app.theme import DARK, LIGHT, Palette

STEP = re.compile(r"([Mhvl])(-?\d+)(?: (-?\d+))?")
END_S = 4.0


def iterations(count: int = 40) -> dict[str, list[float]]:
    """Iterations of unequal length and every kind."""
    draw = np.random.default_rng(3)
    duration = draw.uniform(5, 120, count)
    parts = {f"{cap}_ms": draw.uniform(0.1, 0.5, count).tolist() for cap in ("schedule", "prepare", "sample", "finish")}
    return parts | {
        "t": (np.cumsum(duration) / 1000).tolist(),
        "iteration": list(range(count)),
        "duration_ms": duration.tolist(),
        "forward_ms": (duration - 2).tolist(),
        "prefill_tokens": [5 * (n % 3) for n in range(count)],
        "decode_tokens": [n % 4 for n in range(count)],
    }


def timeline(palette: Palette = LIGHT) -> go.Figure:
    return on_one_clock(iteration_timeline(iterations(), palette), END_S)


class Image(HTMLParser):
    """The picture's image and its texts."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.alt = self.source = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            known = dict(attrs)
            self.alt, self.source = known["alt"] or "", known["src"] or ""

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def paths(self) -> list[dict[str, str]]:
        kind, _, drawing = self.source.partition(",")
        assert kind == "data:image/svg+xml"
        return [dict(path.attrib) for path in ElementTree.fromstring(unquote(drawing))]


def corners(path: str) -> list[tuple[int, int]]:
    """A path's corners, in the image's units."""
    found: list[tuple[int, int]] = []
    for what, first, second in STEP.findall(path):
        x, y = found[-1] if what != "M" else (0, 0)
        across = int(first) if what in "Mhl" else 0
        down = int(second or 0) if what in "Ml" else int(first) if what == "v" else 0
        found.append((x + across, y + down))
    return found


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_a_picture_draws_the_rows_of_its_figure(palette: Palette) -> None:
    figure = timeline(palette)
    drawn = [trace for trace in figure.data if trace.fill]
    paths = Image(still(figure, "words")).paths()
    assert [path["fill"] for path in paths] == [trace.fillcolor for trace in drawn]
    top = max(iterations()["duration_ms"]) / 0.95
    for path, trace in zip(paths, drawn, strict=True):
        exact = {(x / END_S * WIDE, HIGH - y / top * HIGH) for x, y in zip(*outline(trace), strict=True)}
        shown = np.array(corners(path["d"]))
        assert len(shown) >= 0.9 * len(exact)
        for x, y in exact:
            assert np.abs(shown - (x, y)).max(axis=1).min() <= 0.51, "within half a unit of the image"


def test_a_picture_says_what_its_figure_says() -> None:
    figure = timeline()
    told = Image(still(figure, 'Iterations. "40" < 41'))
    assert told.alt == 'Iterations. "40" < 41'
    legend = [t.name for t in sorted(figure.data, key=lambda t: t.legendrank or 0) if t.showlegend is not False]
    assert [text for text in told.texts if text in legend] == legend
    assert {figure.layout.xaxis.title.text, figure.layout.yaxis.title.text} <= set(told.texts)


def test_a_line_holds_its_value_and_breaks_where_one_is_missing() -> None:
    figure = on_one_clock(new_figure(LIGHT, y_title="requests"), 4.0)
    figure.add_trace(
        step_line(np.array([0, 1, 2, 3.0, 4]), np.array([95, 19, np.nan, 38, 38.0]), "r", LIGHT.running, unit="")
    )
    (path,) = Image(still(figure, "")).paths()
    assert path["stroke"] == LIGHT.running
    assert path["fill"] == "none"
    assert corners(path["d"]) == [(0, 50), (2000, 50), (2000, 810), (4000, 810), (6000, 620), (8000, 620)]
    assert path["d"].count("M") == 2


def test_a_figure_of_other_marks_is_refused() -> None:
    figure = timeline().add_bar(x=[1], y=[2], name="bars")
    with pytest.raises(ValueError, match="bar 'bars'"):
        still(figure, "")


@pytest.mark.parametrize(
    ("end", "most", "step"),
    [(30.67, 10, 5.0), (269.5, 6.9, 50.0), (30.67, 5, 10.0), (0.011, 10, 0.002), (1.0, 10, 0.2)],
)
def test_marks_are_round_and_few(end: float, most: float, step: float) -> None:
    found = marks(end, most)
    assert found == pytest.approx([step * n for n in range(len(found))])
    assert len(found) <= most + 1
    assert found[-1] <= end * (1 + 1e-9) < found[-1] + step * (1 + 1e-6)
