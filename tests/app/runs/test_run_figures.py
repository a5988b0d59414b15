"""Figures of runs side by side."""

from __future__ import annotations

from app.runs.facts import RunFacts, SpecInBrief
from app.runs.run_figures import COLUMNS, USUAL, figure, settings_apart, side_by_side
from engine.config import EngineConfig

FIGURES = {"output_tokens_per_s": 12.34567, "ttft_ms": {"p50": 5, "p99": None}}


def facts(engine: EngineConfig) -> RunFacts:
    return RunFacts("r", SpecInBrief("chat", "", engine, 1, 1, "h", 1), {}, "", ())


def test_a_figure_is_found_by_its_path_or_is_none() -> None:
    assert set(USUAL) <= set(COLUMNS)
    assert figure(FIGURES, "output_tokens_per_s") == 12.346
    assert figure(FIGURES, "ttft_ms.p50") == 5
    assert figure(FIGURES, "ttft_ms.p99") is None
    assert figure(FIGURES, "ttft_ms.p50.deeper") is None
    assert figure(None, "ttft_ms.p50") is None


def test_runs_of_one_title_have_columns_of_their_own() -> None:
    rows = side_by_side([("chat", FIGURES), ("chat", {"ttft_ms": {"p50": 7}})])
    assert {"figure": "TTFT p50, ms", "1: chat": 5, "2: chat": 7} in rows
    assert {"figure": "output tokens/s", "1: chat": 12.346, "2: chat": None} in rows
    assert not any(row["figure"].startswith("E2E") for row in rows)


def test_only_settings_that_differ_are_listed_and_parts_of_what_is_off_have_no_value() -> None:
    with_it = EngineConfig.model_validate({"speculation": {"k": 4}})
    rows = {row["setting"]: row for row in settings_apart([("a", facts(EngineConfig())), ("b", facts(with_it))])}
    assert rows["Speculative decoding"] == {"setting": "Speculative decoding", "a": "off", "b": "on"}
    assert rows["Draft length"] == {"setting": "Draft length", "a": "–", "b": "4"}
    assert "Seed" not in rows
