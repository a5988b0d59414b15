"""Pages of metrics: parsed whole or refused with the line; counters that begin anew; histograms."""

from __future__ import annotations

import contextlib
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.attach.families import ENGINES, engine_of
from app.attach.prometheus import NotMetrics, parse_page, total
from app.attach.readings import Readings
from store.foreign import FIGURES, OF_METRICS, quantile
from tests.app.attach.pages_of_engines import family, llama_cpp, sglang, vllm
from tests.examples import examples

LABEL = st.text(st.characters(codec="utf-8", exclude_categories=("Cs",)), max_size=12)


def readings(text: str) -> Readings:
    known = engine_of(parse_page(text))
    assert known is not None
    return Readings(known[1], known[2])


def rows(pages: Readings, text: str) -> tuple[dict[tuple[str, float | None], float], bool]:
    taken, anew = pages.take(parse_page(text))
    return {(row["name"], row["bound"]): row["value"] for row in taken}, anew


@settings(max_examples=examples(60), deadline=None)
@given(st.dictionaries(st.from_regex(r"[a-z_][a-z0-9_]{0,6}", fullmatch=True), LABEL, max_size=4), st.floats())
def test_what_is_written_is_read(labels: dict[str, str], value: float) -> None:
    escape = {"\\": "\\\\", '"': '\\"', "\n": "\\n"}
    inside = ",".join(f'{n}="{"".join(escape.get(c, c) for c in v)}"' for n, v in labels.items())
    if any(c in v for v in labels.values() for c in "\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"):
        return
    shown = {math.inf: "+Inf", -math.inf: "-Inf"}.get(value, "NaN" if math.isnan(value) else repr(value))
    page = parse_page(f"# TYPE a:b gauge\na:b{{{inside}}} {shown} 17\n")
    ((found, got),) = page["a:b"].items()
    assert dict(found) == labels
    assert got == value or math.isnan(value)


@settings(max_examples=examples(150), deadline=None)
@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(NotMetrics):
        parse_page(text)


@pytest.mark.parametrize(
    "line",
    ["vllm:x{", 'vllm:x{a="b} 1', "vllm:x{a=b} 1", "vllm:x", "vllm:x one", "<html>", 'x{a="b"}}{ 1', "x" * 20_000],
)
def test_a_line_that_is_no_sample_is_named(line: str) -> None:
    with pytest.raises(NotMetrics, match="line 2"):
        parse_page(f"a 1\n{line}\n")


def test_exemplars_and_braces_in_labels_are_passed_over() -> None:
    page = parse_page('a_bucket{le="1",p="}{ # {"} 3 # {trace_id="x"} 0.5 1.7\n')
    assert page["a_bucket"] == {(("le", "1"), ("p", "}{ # {")): 3.0}


@pytest.mark.parametrize(("engine", "page"), [("vLLM", vllm()), ("SGLang", sglang()), ("llama.cpp", llama_cpp())])
def test_each_engine_is_known_by_its_names(engine: str, page: str) -> None:
    assert engine_of(parse_page(page)) == (engine, *ENGINES[engine])


def test_every_family_is_a_figure_that_a_page_can_tell() -> None:
    for _, families in ENGINES.values():
        assert set(families) <= set(OF_METRICS)
    assert set(OF_METRICS) <= set(FIGURES)


def test_what_came_before_the_first_reading_is_not_counted_and_ranks_are_added_up() -> None:
    pages = readings(vllm())
    first, anew = rows(pages, vllm())
    assert not anew
    assert first["running", None] == 6
    assert first["kv_used_share", None] == pytest.approx(0.3), "of a share the mean over ranks"
    assert ("prompt_tokens", None) not in first
    assert first["ttft", math.inf] == 0
    second, anew = rows(pages, vllm(3))
    assert not anew
    assert second["prompt_tokens", None] == 400
    assert second["output_tokens", None] == 200
    assert (second["ttft", 0.1], second["ttft", 0.5], second["ttft", math.inf]) == (16, 16, 8)
    assert second["ttft.sum", None] == 22


def test_counters_that_began_anew_count_from_nothing() -> None:
    pages = readings(vllm())
    rows(pages, vllm(4))
    second, anew = rows(pages, vllm(1))
    assert anew
    assert second["prompt_tokens", None] == 200
    assert second["ttft", 0.1] == 8
    later, anew = rows(pages, vllm(2, started=1.8e9))
    assert anew, "a later start of the process is seen though every counter has grown"
    assert later["prompt_tokens", None] == 400
    again, anew = rows(pages, vllm(2, started=1.8e9))
    assert not anew
    assert again["prompt_tokens", None] == 0


def test_a_series_that_appears_later_counts_from_nothing() -> None:
    pages = readings(vllm(1, ranks=1))
    rows(pages, vllm(1, ranks=1))
    second, _ = rows(pages, vllm(1, ranks=2))
    assert second["prompt_tokens", None] == 100


def test_sources_of_cached_tokens_are_added_and_what_is_no_number_is_left_out() -> None:
    pages = readings(sglang())
    rows(pages, sglang())
    second, _ = rows(pages, sglang(2) + family("sglang:num_running_reqs_x", "gauge", ("", math.nan)))
    assert second["cached_tokens", None] == 15
    assert total(parse_page("a NaN\n"), "a") is None


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=8), st.floats(0.01, 0.99))
def test_a_quantile_lies_in_its_bucket(counts: list[int], share: float) -> None:
    buckets = [(float(k + 1), float(count)) for k, count in enumerate(counts)]
    found = quantile(buckets, share)
    if not sum(counts):
        assert found is None
        return
    assert found is not None
    assert found.low <= found.value <= found.high
    below = sum(count for bound, count in buckets if bound <= found.low)
    within = dict(buckets)[found.high]
    assert below <= share * sum(counts) * (1 + 1e-9) + 1e-9
    assert below + within >= share * sum(counts) * (1 - 1e-9)
