"""The sentences of the pages."""

from __future__ import annotations

import pytest

from app.panels.sentences import decision_in_words, reasons
from app.settings.given import flat
from app.words.board import board_words
from app.words.charts import CHARTS
from app.words.decisions import iteration_in_words
from app.words.plain import clock, counted, milliseconds, plain
from app.words.states import STATES
from app.words.text import in_sentence, number
from telemetry.rows import DECISION_REASONS, DECISIONS, ROW_TYPES, columns
from telemetry.status import ACTIVE_STATES, FINAL_STATES


def test_every_state_and_every_reason_has_words() -> None:
    assert set(STATES) == ACTIVE_STATES | FINAL_STATES | {"queued"}
    assert set(reasons()) == set(DECISION_REASONS)


def test_every_chart_says_where_its_figures_come_from() -> None:
    for words in CHARTS.values():
        assert set(words.columns) <= set(columns(ROW_TYPES[words.table]))
        assert words.explained.endswith(words.provenance)
    assert CHARTS["itl"].provenance.startswith("Derived")
    assert CHARTS["timeline"].provenance.startswith("Measured")


@pytest.mark.parametrize("action", DECISIONS)
def test_every_decision_becomes_a_sentence(action: str) -> None:
    row = {"action": action, "reason": "budget", "request": 7, "tokens": 12, "tokens_left": 0, "blocks_free": 3}
    words = decision_in_words(row)
    assert words[0].isupper()
    assert words.endswith(".")
    assert "0 tokens of budget left" in words
    assert "None" not in decision_in_words(row | {"request": None, "tokens": None})


def test_an_iteration_is_told_with_its_numbers() -> None:
    row = {
        "iteration": 41,
        "start_ns": 0,
        "end_ns": 118_000_000,
        "forward_ns": 110_000_000,
        "prefill_tokens": 54,
        "prefill_requests": 1,
        "decode_tokens": 8,
        "decode_requests": 8,
        "running": 9,
        "waiting": 2,
    }
    assert "118.0 ms" in iteration_in_words(row)
    assert "54 prompt tokens for 1 request and 8 decode tokens for 8 requests" in iteration_in_words(row)
    assert "nothing" in iteration_in_words(row | {"prefill_tokens": 0, "decode_tokens": 0})


@pytest.mark.parametrize(
    "text", ["<script>x()</script>", "**bold** $x$ :red[no]", "[link](http://a.b)", "`code` # head", "a | b ~~c~~"]
)
def test_no_mark_of_markup_survives_unescaped(text: str) -> None:
    shown = plain(text)
    for mark in "<>*$:[]()`#|~":
        assert shown.count(mark) == shown.count("\\" + mark), mark
    assert shown.replace("\\", "") == text


def test_numbers_are_written_with_units() -> None:
    assert milliseconds(1234.0) == "1.23 s"
    assert milliseconds(1_234_000.0) == "1,234 s"
    assert milliseconds(12.3) == "12.3 ms"
    assert (milliseconds(999.7), milliseconds(0.9997)) == ("1000 ms", "1000 µs")
    assert milliseconds(0.2) == "200 µs"
    assert milliseconds(None) == "–"


def test_measured_facts_keep_the_digits_that_mean_something() -> None:
    told = {"peaks": {"flops_per_s": 158694188518.0401, "seconds": 1.3729371629980}, "seed": 12345, "on": True}
    assert dict(flat(told)) == {
        "peaks.flops_per_s": "158,694,188,518",
        "peaks.seconds": "1.37294",
        "seed": "12345",
        "on": "True",
    }


def test_one_block_is_not_several() -> None:
    decision = {"action": "admitted", "request": 3, "reason": "scheduled", "blocks_needed": 1, "blocks_free": 2}
    assert decision_in_words(decision).endswith("(1 block needed, 2 blocks to be had).")
    assert counted(1, "run") == "1 run"
    assert counted(2000, "run") == "2,000 runs"
    assert clock(None) == "–"


def test_the_board_gets_words_for_every_chart_and_tile() -> None:
    words = board_words()
    assert set(words["charts"]) == set(CHARTS)
    assert all(tile["help"] for tile in words["tiles"].values())
    assert all(tile["plain"] for tile in words["tiles"].values())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (20_914.2, "20,914"),
        (-13_880.0, "-13,880"),
        (1045.4, "1,045"),
        (136.24, "136.2"),
        (0.01659, "0.01659"),
        (160, "160"),
    ],
)
def test_figures_have_four_digits_and_no_powers_of_ten(value: float, words: str) -> None:
    assert number(value) == words


def test_a_missing_figure_is_a_dash() -> None:
    assert number(None) == number(float("nan")) == "–"


def test_a_title_in_a_sentence_keeps_its_initials() -> None:
    assert in_sentence("KV quantization") == "KV quantization"
    assert in_sentence("Chunked prefill") == "chunked prefill"
