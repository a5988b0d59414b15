"""The text behind the prefix tree: what the engine was given, and never markup."""

from __future__ import annotations

import pyarrow as pa

from app.panels.prefix_sharing.charts import in_hover, prefix_tree
from app.panels.prompt_text import texts_of
from app.theme import LIGHT
from engine.model.tokenizer import ByteTokenizer
from tests.app.small_runs import small_spec

VOCAB = 1000


def test_tokens_of_prompt_and_answer_are_text_by_place() -> None:
    spec = small_spec(requests=2)
    text = texts_of(spec, VOCAB, {0: [30, 31]})
    decode = ByteTokenizer(VOCAB).decode
    assert text(0, 0, 4) == decode(range(1, 5))
    assert text(0, 18, 21) == decode([19, 30, 31]), "the answer follows the prompt"
    assert text(7, 0, 4) == "", "there is no such request"


def test_a_prompt_in_words_is_tokenised_as_the_engine_does() -> None:
    spec = small_spec(requests=1)
    asked = spec.requests[0].model_copy(update={"prompt": "abc", "prompt_token_ids": None, "prompt_tokens": 5})
    spec = spec.model_copy(update={"requests": (asked,)})
    tokenizer = ByteTokenizer(VOCAB)
    assert texts_of(spec, VOCAB, {})(0, 0, 9) == tokenizer.decode(tokenizer.prompt("abc", length=5))


def test_a_model_that_is_not_here_has_no_text() -> None:
    assert texts_of(small_spec(model="/no/such/model"), 0, {})(0, 0, 4) == ""


def test_the_tree_shows_the_text_of_its_spans_as_text() -> None:
    row = {"hash": 1, "parent": None, "position": 0, "requests": 2, "request": 0, "holders": 1, "state": "in use"}
    nodes = pa.Table.from_pylist([row, row | {"hash": 2, "parent": 1, "position": 1}])
    asked = []

    def text(request: int, first: int, last: int) -> str:
        asked.append((request, first, last))
        return "<b>bold</b> & more"

    figure = prefix_tree(nodes, LIGHT, 16, text)
    assert asked == [(0, 0, 32)], "two blocks alike are one span"
    assert figure.data[0].customdata[1][4] == "&lt;b&gt;bold&lt;/b&gt; &amp; more"
    shown = in_hover("word\x00 " * 200)
    assert "<br>" in shown
    assert shown.endswith("…")
    assert "\x00" not in shown
