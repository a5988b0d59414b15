"""Prompts: real text, exact token counts, and prefixes that are shared exactly where they should be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import scenarios
from scenarios import texts
from scenarios.questions import QUESTIONS
from scenarios.streams import stream


def one_group(**keys: str):
    """The requests of ``burst`` with its single group changed."""
    return scenarios.build("burst", {f"workload.{k.replace('__', '.')}": v for k, v in keys.items()}).requests


def test_random_tokens_have_the_exact_length_and_range():
    requests = one_group(prompt__kind="tokens", prompt__low="5", prompt__high="9", prompt_tokens="200")
    assert all(len(r.prompt_token_ids) == 200 for r in requests)
    assert {i for r in requests for i in r.prompt_token_ids} == {5, 6, 7, 8, 9}


def test_families_share_their_first_tokens_and_nothing_more():
    requests = one_group(
        prompt__kind="tokens", prompt__shared="30", prompt__families="2", prompt_tokens="40", requests="4"
    )
    a, b, c, d = (r.prompt_token_ids for r in requests)
    assert a[:30] == c[:30]
    assert b[:30] == d[:30]
    assert a[:30] != b[:30]
    assert a[30:] != c[30:]


def test_every_question_comes_once_before_any_comes_again():
    requests = one_group(requests=str(2 * len(QUESTIONS)))
    first, second = requests[: len(QUESTIONS)], requests[len(QUESTIONS) :]
    assert sorted(r.prompt for r in first) == sorted(QUESTIONS)
    assert [r.prompt for r in first] == [r.prompt for r in second]
    assert all(r.chat for r in requests)


def test_a_shared_system_message_is_the_same_for_everybody():
    requests = scenarios.build("shared-prompt").requests
    assert len({r.system for r in requests}) == 1
    assert len({r.prompt for r in requests}) > 1
    assert len(requests[0].system.split()) >= 400


def test_documents_are_read_again_in_turn_with_another_question():
    requests = one_group(prompt__kind="documents", prompt__documents="2", prompt__words="50", requests="6")
    bodies = [r.prompt.rsplit("\n\n", 1) for r in requests]
    assert len({body for body, _ in bodies}) == 2
    assert bodies[0][0] == bodies[2][0] == bodies[4][0]
    assert len({question for _, question in bodies[::2]}) == 3


def test_documents_of_ones_own_are_all_different():
    requests = one_group(prompt__kind="documents", prompt__words="50", requests="6")
    assert len({r.prompt for r in requests}) == 6


def test_few_shot_templates_are_shared_and_their_sums_are_right():
    requests = one_group(prompt__kind="few-shot", prompt__families="2", prompt__examples="5", requests="4")
    templates = [r.prompt.rsplit("\n\n", 1)[0] for r in requests]
    assert templates[0] == templates[2] != templates[1] == templates[3]
    assert requests[0].prompt != requests[2].prompt
    for line in re.findall(r"Q: (.+)\nA: (-?\d+)", templates[0]):
        assert eval(line[0]) == int(line[1])


def test_every_turn_of_a_conversation_begins_with_all_that_was_said():
    keys = {"prompt__kind": "conversation", "prompt__people": "2", "prompt__turns": "3", "prompt__words": "20"}
    prompts = [r.prompt for r in one_group(**keys, requests="8")]
    for earlier, later in ((0, 2), (2, 4), (1, 3), (3, 5)):
        assert prompts[later].startswith(prompts[earlier])
        assert prompts[later].count("User:") == prompts[earlier].count("User:") + 1
    assert prompts[6].count("User:") == 1  # a new talk
    assert prompts[0] != prompts[1]


def test_code_to_be_copied_stands_whole_in_the_prompt():
    requests = scenarios.build("copy-heavy").requests
    for request in requests:
        before, first, second, asked = re.split(r"# version \d.*\n", request.prompt)
        assert (before, asked) == ("", "")
        assert first.strip() == second.strip()
        compile(first, "prompt", "exec")
        assert 4 <= len(first.strip().splitlines()) <= 20


def test_own_texts_take_turns():
    requests = one_group(prompt__kind="texts", prompt__texts='["one", "two"]', requests="3")
    assert [r.prompt for r in requests] == ["one", "two", "one"]


@given(words=st.integers(1, 3000), seed=st.integers(0, 50))
def test_prose_has_exactly_the_words_asked_for(words: int, seed: int):
    assert len(texts.prose(words, stream(seed)).split()) == words


@given(words=st.integers(1, 3000), seed=st.integers(0, 50))
def test_code_has_at_least_the_words_asked_for(words: int, seed: int):
    assert len(texts.code(words, stream(seed)).split()) >= words


def test_prose_reads_as_sentences():
    assert len(texts.paragraphs()) > 300
    assert all(not p.startswith((" ", "*", "#")) and "\n" not in p for p in texts.paragraphs())


def test_text_with_a_token_count_is_long_enough_to_be_cut():
    requests = one_group(prompt__kind="prose", prompt_tokens="300", requests="3")
    assert all(r.prompt_tokens == 300 and len(r.prompt.split()) == 300 for r in requests)


def test_no_prompt_names_a_path_of_this_machine():
    home = str(Path.home())
    assert all(home not in (r.prompt or "") for s in scenarios.available() for r in scenarios.build(s.name).requests)


@pytest.mark.parametrize("bad", [{"prompt__low": "9", "prompt__high": "5"}, {"prompt__shared": "-1"}])
def test_impossible_token_ranges_are_refused(bad: dict[str, str]):
    with pytest.raises(scenarios.ConfigError):
        one_group(prompt__kind="tokens", prompt_tokens="5", **bad)
