"""Chart functions: a table in, a figure out."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from app import charts
from app.charts.comparison import Point, curve, heat_map
from app.charts.iterations import kind_of, tallest
from app.charts.roofline import balance, roof
from app.charts.tokens import thinned
from app.components.chart_links import clicked
from app.theme import DARK, LIGHT


def steps(count: int = 50, budget: float | None = 64) -> pa.Table:
    rng = np.random.default_rng(1)
    duration = rng.uniform(20, 40, count)
    prefill = np.where(np.arange(count) % 7 == 0, 56, 0)
    return pa.table(
        {
            "t": np.cumsum(duration) / 1000,
            "duration_ms": duration,
            "forward_ms": duration - 4,
            **{f"{step}_ms": np.ones(count) for step in ("schedule", "prepare", "sample", "finish")},
            "prefill_tokens": prefill,
            "decode_tokens": np.full(count, 8),
            "token_budget": pa.array([budget] * count, pa.float64()),
            "running": np.full(count, 8),
            "waiting": np.arange(count) % 3,
            "blocks_used": np.arange(count),
            "blocks_cached": np.zeros(count),
            "blocks_total": np.full(count, 200),
            "iteration": np.arange(count),
        }
    )


def gaps(values: list[float]) -> pa.Table:
    return pa.table({"t": np.arange(len(values)) / 10, "itl_ms": values, "request": np.arange(len(values)) % 4})


def tops(trace: object) -> np.ndarray:
    """The heights of an outline's bars: of its corners, the upper left."""
    return np.asarray(trace.y).reshape(-1, 4)[:, 1]


def test_each_iteration_is_drawn_with_the_colour_of_what_it_did() -> None:
    figure = charts.iteration_timeline(steps(), LIGHT)
    drawn = {trace.name: trace for trace in figure.data}
    assert len(tops(drawn["mixed"])) + len(tops(drawn["decode only"])) == 50
    assert drawn["mixed"].fillcolor == LIGHT.mixed
    assert drawn["decode only"].fillcolor == LIGHT.decode
    assert "prefill only" not in drawn


def test_the_steps_of_an_iteration_stack_to_its_duration() -> None:
    table = steps()
    figure = charts.iteration_timeline(table, LIGHT)
    outlines = [trace for trace in figure.data if trace.name in ("finish", "sample", "prepare", "schedule")]
    assert [trace.name for trace in outlines] == ["finish", "sample", "prepare", "schedule"], "the highest lies below"
    np.testing.assert_allclose(tops(outlines[0]), charts.column(table, "duration_ms"), rtol=1e-6)
    for higher, lower in pairwise(outlines):
        np.testing.assert_allclose(tops(higher) - tops(lower), 1, rtol=1e-5)


def test_within_a_bar_the_nearest_mark_is_its_own() -> None:
    table = steps()
    marks = charts.iteration_timeline(table, LIGHT).data[-1]
    end, width = charts.column(table, "t"), charts.column(table, "duration_ms") / 1000
    for share in (0.05, 0.3, 0.5, 0.7, 0.95):
        within = end - (1 - share) * width
        nearest = np.abs(np.asarray(marks.x)[None] - within[:, None]).argmin(axis=1)
        assert list(marks.customdata[nearest, 0]) == list(range(50))


def test_kinds_are_told_from_the_tokens() -> None:
    kinds = kind_of(np.array([5, 5, 0, 0]), np.array([0, 3, 3, 0]))
    assert list(kinds) == ["prefill", "mixed", "decode", "idle"]


def test_thinning_bars_never_loses_the_tallest() -> None:
    heights = np.random.default_rng(0).uniform(1, 2, 10_000)
    heights[1234] = 99.0
    shown = tallest(heights, 500)
    assert len(shown) == 500
    assert 1234 in shown
    assert (np.diff(shown) > 0).all()


def test_thinning_dots_keeps_every_stall() -> None:
    values = np.full(50_000, 10.0)
    stalls = np.arange(0, 50_000, 997)
    values[stalls] = 500.0
    shown = thinned(values, 50.0, most=2000)
    assert len(shown) <= 2100
    assert set(stalls) <= set(shown.tolist())


def test_gaps_above_the_line_are_stalls_in_their_own_colour_and_shape() -> None:
    figure = charts.token_gaps(gaps([10, 12, 300, 11, 250]), LIGHT, 60.0)
    stalls = next(trace for trace in figure.data if trace.name == "stall")
    assert sorted(stalls.y) == [250, 300]
    assert stalls.marker.color == LIGHT.stall
    assert stalls.marker.symbol != figure.data[0].marker.symbol


def test_the_ghost_of_an_earlier_run_is_named_and_lies_behind() -> None:
    ghost = charts.Ghost("chunked prefill off", gaps([10, 900]), "before")
    figure = charts.token_gaps(gaps([10, 12]), LIGHT, 60.0, ghost=ghost)
    assert "chunked prefill off" in figure.data[0].name
    assert figure.data[0].marker.color == LIGHT.ghost
    assert figure.data[-1].marker.color == LIGHT.decode


def test_a_name_that_looks_like_markup_reaches_the_legend_as_text() -> None:
    ghost = charts.Ghost("model <a href='http://x'>y</a>", gaps([10, 900]), "before")
    figure = charts.token_gaps(gaps([10, 12]), LIGHT, 60.0, ghost=ghost)
    assert "<" not in figure.data[0].name.replace("&lt;", "")


def test_every_axis_names_quantity_and_unit() -> None:
    device = pa.table(
        {"t": [0.0, 1.0], "utilization": [10.0, 20.0], "memory_used": [1e9, 2e9], "power": [200.0, 300.0]}
    )
    made = {
        "ms": [charts.iteration_timeline(steps(), LIGHT), charts.token_gaps(gaps([1.0, 2.0]), LIGHT, 9.0)],
        "tokens": [charts.batch_makeup(steps(), LIGHT)],
        "requests": [charts.running_and_waiting(steps(), LIGHT)],
        "blocks": [charts.kv_pool(steps(), LIGHT)],
        "%": [charts.device_activity(device, LIGHT)],
        "GiB": [charts.memory_and_power(device, LIGHT)],
    }
    for unit, figures in made.items():
        for figure in figures:
            assert unit in figure.layout.yaxis.title.text
            assert figure.layout.xaxis.title.text.endswith(", s")
    assert made["GiB"][0].layout.yaxis2.title.text == "power, W"


UNITS = r"(s|ms|%|tokens|blocks|requests|threads|kB|MB|GiB|W|J|times|GB/s|TFLOP/s|FLOP/byte|tokens/s|requests/s|tokens or share)$"
COUNTED = {
    "answers",
    "request",
    "copies of a swap",
    "session, lowest first",
    "where the prefix was found",
    "verifications",
    "draft tokens accepted",
    "draft tokens per request",
    "position of the draft token",
    "requests in the step",
    "layer",
    "KV head",
    "requests in order of arrival",
    "programs in order of arrival",
}


def test_no_chart_names_an_axis_without_its_unit() -> None:
    titles = set()
    for path in sorted(Path(charts.__file__).parents[1].rglob("*.py")):
        for call in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(call, ast.Call):
                given = {word.arg: word.value for word in call.keywords if word.arg in ("x_title", "y_title")}
                titles |= {value.value for value in given.values() if isinstance(value, ast.Constant)}
    titles -= {""}  # categories, or strips that are titled one by one
    assert len(titles) > 20
    assert [title for title in sorted(titles - COUNTED) if not re.search(rf", {UNITS}", title)] == []


def test_charts_over_time_can_be_put_on_one_clock() -> None:
    shown = [
        charts.on_one_clock(figure, 12.5)
        for figure in (charts.kv_pool(steps(), LIGHT), charts.batch_makeup(steps(), LIGHT))
    ]
    assert {tuple(figure.layout.xaxis.range) for figure in shown} == {(0, 12.5)}
    assert {figure.layout.meta for figure in shown} == {"time"}


def test_marks_carry_the_number_of_what_they_open() -> None:
    ghost = charts.Ghost("off", gaps([10, 900]), "before")
    for figure in (charts.iteration_timeline(steps(), LIGHT), charts.roofline(work(), PEAKS, LIGHT)):
        marks = [trace for trace in figure.data if trace.meta]
        assert {trace.meta["opens"] for trace in marks} == {"iteration"}
        assert all(float(trace.customdata[0][0]).is_integer() for trace in marks)
    dots = charts.token_gaps(gaps([10, 12, 300]), LIGHT, 60.0, ghost=ghost)
    assert [(trace.meta["run"] == "before") for trace in dots.data] == [
        trace.marker.color == LIGHT.ghost for trace in dots.data
    ]


@pytest.mark.parametrize(
    "click", [None, 3, {}, {"opens": "page", "number": 1}, {"opens": "request", "number": "1; DROP"}]
)
def test_a_click_that_names_nothing_known_opens_nothing(click: object) -> None:
    assert clicked(click) == {}


def test_a_click_is_told_as_a_part_of_an_address() -> None:
    assert clicked({"opens": "iteration", "number": 7, "run": ""}) == {"iteration": "7"}
    assert clicked({"opens": "request", "number": 0, "run": "before"}) == {"request": "0", "run": "before"}


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_an_empty_table_gives_a_figure_that_says_so(palette) -> None:
    none = steps(0)
    for figure in (
        charts.iteration_timeline(none, palette),
        charts.batch_makeup(none, palette),
        charts.running_and_waiting(none, palette),
        charts.kv_pool(none, palette),
        charts.token_gaps(gaps([]), palette, float("nan")),
        charts.device_activity(pa.table({"t": pa.array([], pa.float64())}), palette),
    ):
        assert figure.layout.annotations[0].text


@pytest.mark.parametrize("palette", [LIGHT, DARK])
def test_the_pool_marks_who_was_thrown_out(palette) -> None:
    thrown = pa.table({"t": [0.5, 0.9], "blocks_used": [190, 200], "preempted": [1, 3]})
    marks = charts.kv_pool(steps(), palette, thrown).data[-1]
    assert (list(marks.x), list(marks.y), list(marks.customdata)) == ([0.5, 0.9], [190, 200], [1, 3])
    assert (marks.marker.color, marks.marker.symbol) == (palette.stall, "x")
    assert "preempted at" in marks.hovertemplate
    names = [trace.name for trace in charts.kv_pool(steps(), palette, thrown.slice(0, 0)).data]
    assert "preemption" not in names, "no legend for what never happened"


PEAKS = {"flops_per_s": 1e12, "bytes_per_s": 1e11}


def work() -> pa.Table:
    """Two iterations at half the limit: one that moves bytes, one that computes."""
    return pa.table(
        {
            "iteration": [0, 1],
            "flops": [1e9, 2e11],
            "bytes": [1e9, 1e9],
            "forward_ms": [20.0, 400.0],
            "prefill_tokens": [0, 50],
            "decode_tokens": [4, 0],
        }
    )


def test_the_roof_bends_where_memory_and_arithmetic_limit_alike() -> None:
    assert balance(PEAKS) == 10
    np.testing.assert_allclose(roof(np.array([1.0, 10.0, 500.0]), PEAKS), [0.1, 1.0, 1.0])


def test_every_iteration_lies_below_the_measured_roof_at_its_share() -> None:
    drawn = {trace.name: trace for trace in charts.roofline(work(), PEAKS, LIGHT).data}
    np.testing.assert_allclose([drawn["decode only"].y[0], drawn["prefill only"].y[0]], [0.05, 0.5])
    np.testing.assert_allclose([drawn[name].customdata[0][1] for name in ("decode only", "prefill only")], [50, 50])


def test_without_measured_peaks_there_is_no_roof() -> None:
    assert "measured limit" not in [trace.name for trace in charts.roofline(work(), None, LIGHT).data]
    empty = charts.roofline(work().slice(0, 0), PEAKS, LIGHT)
    assert empty.layout.annotations[0].text


def test_counters_the_device_lacks_are_left_out() -> None:
    table = pa.table(
        {"t": [0.0, 1.0], "utilization": [50.0, 60.0], "cpu_percent": pa.array([None, None], pa.float64())}
    )
    figure = charts.device_activity(table, LIGHT)
    assert [trace.name for trace in figure.data] == ["device busy"]


def test_stretches_that_were_disturbed_are_shaded_and_named() -> None:
    table = pa.table({"t": [0.0, 9.0], "utilization": [50.0, 60.0]})
    stretches = [
        {"kind": "others", "from_s": 1.0, "to_s": 2.5},
        {"kind": "throttled", "from_s": 2.0, "to_s": 3.0},
        {"kind": "others", "from_s": 7.0, "to_s": 8.0},
    ]
    figure = charts.device_activity(table, LIGHT, stretches)
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [(1.0, 2.5), (2.0, 3.0), (7.0, 8.0)]
    assert len({shape.fillcolor for shape in figure.layout.shapes}) == 2
    assert [trace.name for trace in figure.data] == ["device busy", "other processes", "throttled"]


def test_without_a_budget_no_budget_line_is_drawn() -> None:
    drawn = charts.batch_makeup(steps(budget=None), LIGHT).data
    assert [trace.name for trace in drawn if trace.name] == ["prompt tokens", "decode tokens"]


def test_no_figure_offers_to_upload_its_data() -> None:
    assert charts.CONFIG["showSendToCloud"] is False
    html = charts.kv_pool(steps(), LIGHT).to_html(include_plotlyjs=False, config=charts.CONFIG)
    assert '"showSendToCloud": false' in html or '"showSendToCloud":false' in html


def test_a_distribution_says_above_which_share_it_has_too_few_samples() -> None:
    from app.charts.comparison import cdf

    def marked(*counts: int) -> list[str]:
        figure = cdf({str(n): np.linspace(1, 9, n) for n in counts}, LIGHT, title="TTFT")
        return [note.text for note in figure.layout.annotations]

    assert marked(12, 800) == ["above: too few of 12 samples"], "the smallest sample decides"
    assert marked(800) == []
    figure = cdf({"one": np.linspace(1, 9, 50)}, LIGHT, title="TTFT")
    assert figure.layout.shapes[0].y0 == pytest.approx(0.9)


def test_a_sweeps_curve_marks_its_knee_and_the_objective_and_a_grid_the_interval_of_each_cell() -> None:
    values, latencies = ["1", "2", "3", "4", "5", "6"], [10, 11, 12, 13, 200, 400]
    points = [Point(value, 0.0, y, None, (y - 1.0, y + 1.0)) for value, y in zip(values, latencies, strict=True)]
    given = {"x_title": "rate", "y_title": "TTFT", "unit": "ms"}
    figure = curve(values, points, LIGHT, **given, limit=(100.0, "objective strict"))
    assert [trace.name for trace in figure.data][1:] == ["knee"]
    assert figure.data[1].x == (4.0,)
    assert figure.layout.shapes[0].y0 == 100
    assert not curve(values, points, LIGHT, **given, limit=(1e6, "far above")).layout.shapes, (
        "it would squeeze the curve"
    )
    grid = heat_map(["a", "b"], ["c"], np.array([[5.0, np.nan]]), LIGHT, **given, intervals={(0, 0): (4.5, 5.5)})
    assert grid.data[0].text == (["5<br>4.5 to 5.5", ""],)
