"""The page on speculation: its charts, its judgement where guessing loses, and the colours of tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import tokenizers
from tokenizers import decoders, models

from app.panels.sentences import decision_in_words
from app.panels.speculation import charts
from app.panels.speculation.page import prediction_in_words, totals_in_words, verdict_in_words
from app.panels.speculation.token_colours import coloured, token_origins
from app.theme import DARK, LIGHT
from engine.config.text import token_texts


def batch(size: int, verifies: bool, tokens_per_s: float, step_ms: float, per_pass: float, steps: int = 20) -> dict:
    return {
        "batch": size, "verifies": verifies, "steps": steps, "guesses": 3.0 * verifies, "step_ms": step_ms,
        "tokens_per_s": tokens_per_s, "tokens_per_pass": per_pass,
    }  # fmt: skip


def test_the_page_says_where_guessing_loses_and_why() -> None:
    rows = [
        batch(1, False, 40, 25, 1), batch(1, True, 90, 30, 2.7),
        batch(8, False, 200, 40, 1), batch(8, True, 150, 105, 2.0),
        batch(16, False, 300, 53, 1), batch(16, True, 200, 90, 1.1),
        batch(32, True, 200, 90, 1.1),
    ]  # fmt: skip
    said = verdict_in_words(rows)
    assert "With 1 request it wins, 2.25 times the speed" in said
    assert "With 8 requests speculation loses, 0.75 times the speed" in said
    assert "no longer free" in said
    assert "too few guesses were right" in said
    assert "compare this run" in verdict_in_words(rows[-1:])


def test_charts_draw_what_the_tables_hold() -> None:
    place = pa.table({"place": [1, 2], "tested": [10, 5], "acceptance": [0.5, 0.2]})
    assert list(charts.acceptance_by_position(place, LIGHT).data[0].y) == [0.5, 0.2]
    lengths = pa.table({"accepted": [0, 3], "verifications": [4, 6], "whole": [0, 6]})
    bars = {trace.name: list(trace.y) for trace in charts.accepted_lengths(lengths, DARK).data}
    assert bars == {"all accepted": [0, 6], "up to a rejected one": [4, 0]}
    batches = pa.Table.from_pylist([batch(1, False, 40, 25, 1, 10), batch(1, True, 90, 30, 2.7, 30)])
    assert list(charts.chosen_lengths(batches, LIGHT).data[0].y) == [3.0 * 30 / 40]
    assert [trace.name for trace in charts.speed_by_batch(batches, LIGHT).data] == ["plain steps", "verifying steps"]
    times = pa.table({"predicted_ms": [10.0, 20.0], "measured_ms": [11.0, 19.0], "batch": [1, 1], "guesses": [0, 4]})
    assert [trace.name for trace in charts.predicted_times(times, LIGHT).data] == [
        "plain step",
        "verifying step",
        "equal",
    ]
    over = pa.table({"t": [1.0], "acceptance": [0.5], "tokens_per_pass": [1.8], "guesses": [2.0]})
    assert len(charts.acceptance_over_time(over, LIGHT).data) == 3


def test_empty_tables_give_figures_that_say_so() -> None:
    for draw in (
        charts.acceptance_by_position, charts.accepted_lengths, charts.acceptance_over_time, charts.chosen_lengths,
        charts.predicted_times, charts.speed_by_batch,
    ):  # fmt: skip
        assert draw(pa.table({"place": []}), LIGHT).layout.annotations


def test_each_token_has_the_origin_of_its_pass() -> None:
    passes = [(0, 0, 1), (3, 3, 4), (3, 1, 2), (2, 0, 1), (4, 2, 2)]  # the last ended inside its accepted guesses
    told = token_origins([dict(zip(("drafted", "accepted", "emitted"), p, strict=True)) for p in passes])
    assert told == [
        "target",
        *["accepted"] * 3,
        "target",
        "accepted",
        "correction",
        "correction",
        "accepted",
        "accepted",
    ]


def test_an_answer_that_looks_like_markup_stays_text() -> None:
    html = coloured(["<img src=x>", "b"], ["accepted", "correction"], LIGHT)
    assert "<img" not in html
    assert "&lt;img src=x&gt;" in html
    assert LIGHT.draft in html
    assert LIGHT.warn in html


def test_tokens_without_a_tokenizer_are_shown_by_number() -> None:
    assert token_texts("random:tiny", [5, 17]) == ["5 ", "17 "]


def test_a_character_of_several_tokens_stands_with_the_last_of_them(tmp_path: Path) -> None:
    """Also where each of its tokens is one byte (Llama 2, Mistral); what never became a character is shown as such."""
    sloth = [f"<0x{byte:02X}>" for byte in "🦥".encode()]
    names = ["</s>", "▁a", "b", *sloth]
    backend = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
    backend.add_special_tokens(["</s>"])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(parts)
    backend.save(str(tmp_path / "tokenizer.json"))
    bytes_of = list(range(3, 7))
    ids = [1, *bytes_of, *bytes_of, 2, 1, 0, 1, *bytes_of]
    texts = token_texts(str(tmp_path), ids)
    assert texts == ["a", "", "", "", "🦥", "", "", "", "🦥", "b", " a", "</s>", " a", "", "", "", "🦥"]
    assert token_texts(str(tmp_path), [1, 3, 4]) == ["a", "", "\ufffd\ufffd"]


def test_words_for_totals_and_predictions() -> None:
    assert totals_in_words({"verifications": 0}).startswith("Nothing was guessed in this run: ")
    assert "2.00 per verification" in totals_in_words(
        {"verifications": 5, "drafted": 15, "accepted": 10, "mean_accepted": 2.0, "tokens_per_pass": 3.0, "draft_share": 0.1, "draft_ms": 2.0}
    )  # fmt: skip
    assert "within 10 %" in prediction_in_words(np.array([11.0]), np.array([10.0]))
    decision = {"action": "speculation", "reason": "predicted", "tokens": 4, "value": 2.5e7}
    assert decision_in_words(decision) == "This step verifies 4 guesses in all; the step was expected to take 25.0 ms."
