"""What an answer is made of, without an engine: text as its tokens come, chunks of who reads slowly, and what a body may say."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.door.answer_text import AnswerText
from app.door.answers import MOST_CHUNKS, Answer
from app.door.bodies import NOT_SERVED, ChatBody, CompletionBody, read_body
from app.door.errors import DoorError
from app.door.metrics import Counts, metrics_text
from app.door.openapi import document
from app.door.streams import Exchange, Step, Stream
from engine.config import RequestSpec, Sampling
from engine.config.door import Ask
from engine.model.tokenizer import ByteTokenizer
from engine.request import Request
from engine.sampling import SamplingState
from engine.stopping import Outputs

LETTERS = ByteTokenizer(3 + 94)
FEW = st.integers(0, 3)  # so that stop strings are met by chance


def ids_of(letters: list[int]) -> list[int]:
    return [65 - 33 + letter for letter in letters]


@given(
    st.lists(FEW, min_size=1, max_size=20),
    st.lists(st.lists(FEW, min_size=1, max_size=3), max_size=3),
    st.sets(FEW, max_size=1),
    st.integers(0, 5),
    st.lists(st.integers(1, 4), min_size=1),
)
def test_pieces_are_the_text_the_engine_records(
    tokens: list[int], stops: list[list[int]], ends: set[int], least: int, sizes: list[int]
):
    """The engine's own rule says where an answer ends and what its text is; the door is told tokens, and why it ended."""
    words = tuple(LETTERS.decode(ids_of(stop)) for stop in stops)
    sampling = Sampling(stop=words)
    request = Request(0, RequestSpec(request_id="0", prompt="-"), [1], sampling, len(tokens))
    request.sampling_state = SamplingState(sampling, run_seed=0, number=0, seed=None, vocab=97, device=None)  # type: ignore[arg-type]
    request.stop_token_ids, request.min_tokens = frozenset(ids_of(sorted(ends))), least
    if words:
        from engine.model.tokenizer import StreamDecoder

        request.stream = StreamDecoder(LETTERS)
    outputs = Outputs(LETTERS, (), 1000, keep_text=True)
    text = AnswerText(LETTERS, words, request.stop_token_ids)
    pieces, left, steps = [], ids_of(tokens), itertools.cycle(sizes)
    while request.end_reason is None:
        size = next(steps)
        taken = outputs.append(request, left[:size])
        pieces.append(text.push(request.token_ids[-taken:]))
        left = left[size:]
        if request.end_reason is None:
            assert not any(stop in "".join(pieces) for stop in words), "nothing of a stop string is shown"
    outputs.close(request)
    pieces.append(text.finish(request.end_reason))
    assert "".join(pieces) == request.text


def answer_of(body: CompletionBody, count: int) -> tuple[Answer, list[Stream]]:
    exchange = Exchange()
    for number in range(count):
        ask = Ask(number=number, request=RequestSpec(request_id="c", prompt_token_ids=(1,)), came_ns=0)
        exchange.streams.append(Stream(number, number, ask, exchange))
    words = [AnswerText(LETTERS) for _ in exchange.streams]
    return Answer(exchange, body, "m", words, [[1]] * count, str), exchange.streams


def test_a_client_that_reads_slowly_is_sent_what_waited_in_one_chunk():
    body = CompletionBody(prompt="x", stream=True)
    answer, (stream,) = answer_of(body, 1)
    tokens = ids_of([n % 4 for n in range(5 * MOST_CHUNKS)])
    stream.steps = [Step([token]) for token in tokens]
    chunks = answer.chunks()
    assert len(chunks) == 1
    stream.steps = [Step([token]) for token in tokens[:3]]
    stream.ended = {"reason": "length"}
    chunks += answer.chunks()
    told = [json.loads(chunk.removeprefix(b"data: "))["choices"][0] for chunk in chunks]
    assert "".join(choice["text"] for choice in told) == LETTERS.decode(tokens + tokens[:3])
    assert [choice["finish_reason"] for choice in told] == [None, None, None, "length"]
    assert answer.chunks() == [], "the end is told once"


@pytest.mark.parametrize("name", NOT_SERVED)
def test_what_is_not_served_is_refused_by_name_and_what_asks_for_nothing_is_taken(name: str):
    kind, body = CompletionBody, {"prompt": "x"}
    if name == "echo":
        kind, body = ChatBody, {"messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(DoorError, match=f"{name} is not served here") as caught:
        read_body(kind, body | {name: {"no": "such"}})
    assert (caught.value.status, caught.value.param) == (400, name)
    for usual in NOT_SERVED[name]:
        read_body(kind, body | {name: usual})
    properties = document()["components"]["schemas"][kind.__name__]["properties"]
    assert properties[name]["enum"] == list(NOT_SERVED[name])


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"max_tokens": -1}, "max_tokens"),
        ({"logprobs": True}, "logprobs"),
        ({"logprobs": 21}, "logprobs"),
        ({"temperature": -1}, "temperature"),
        ({"stop": [""]}, "stop"),
        ({"prompt": [True]}, "prompt"),
        ({"prompt": {}}, "prompt"),
        ({"stream_options": {"include_usage": 7}}, "stream_options.include_usage"),
    ],
)
def test_a_wrong_field_is_named(body: dict, field: str):
    with pytest.raises(DoorError) as caught:
        read_body(CompletionBody, {"prompt": "x"} | body)
    assert caught.value.param.split(".0")[0] == field
    assert caught.value.message.startswith(field)


def test_messages_are_text():
    picture = {"role": "user", "content": [{"type": "image_url", "image_url": {}}]}
    body = read_body(ChatBody, {"messages": [picture]})
    with pytest.raises(DoorError, match="type 'image_url' is not served") as caught:
        body.messages[0].as_text(0)
    assert caught.value.param == "messages.0.content"


FAMILIES = [
    "num_requests_running", "num_requests_waiting", "num_requests_waiting_by_reason", "kv_cache_usage_perc",
    "prompt_tokens", "prompt_tokens_by_source", "prompt_tokens_cached", "generation_tokens",
    "iteration_tokens_total", "time_to_first_token_seconds", "inter_token_latency_seconds",
    "request_time_per_output_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds",
    "request_prefill_time_seconds", "request_decode_time_seconds", "request_inference_time_seconds",
    "request_prefill_kv_computed_tokens", "num_preemptions", "request_num_preemptions", "prefix_cache_queries",
    "prefix_cache_hits", "spec_decode_num_drafts", "spec_decode_num_draft_tokens",
    "spec_decode_num_accepted_tokens", "spec_decode_num_accepted_tokens_per_pos", "request_success",
    "request_prompt_tokens", "request_generation_tokens", "request_params_n", "request_params_max_tokens",
    "estimated_flops_per_gpu", "estimated_read_bytes_per_gpu", "cache_config_info",
]  # fmt: skip
"""What dashboards and load generators read of vLLM."""


def test_metrics_have_vllms_families_each_once_with_their_kind():
    lines = metrics_text(Counts(), "m", {"block_size": 16, "kv_blocks": 9}, 0).splitlines()
    kinds = [line.split()[2:] for line in lines if line.startswith("# TYPE vllm:")]
    assert {f"vllm:{name}" for name in FAMILIES} == {name for name, _ in kinds}
    assert len(kinds) == len(FAMILIES)
    assert ["vllm:iteration_tokens_total", "histogram"] in kinds
    assert lines[-1] == "# EOF"
    for line in lines:
        if not line.startswith("#"):
            float(line.rpartition(" ")[2])


def test_the_dashboard_asks_for_series_that_there_are():
    page = metrics_text(Counts(), "m", {"block_size": 16, "kv_blocks": 9}, 0)
    series = {line.partition("{")[0].partition(" ")[0] for line in page.splitlines() if not line.startswith("#")}
    dashboard = json.loads((Path(__file__).parents[3] / "assets" / "grafana-door.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    named = {name for expression in asked for name in re.findall(r"vllm:\w+", expression)}
    assert len(named) == 16
    assert named <= series


def test_accepted_guesses_are_counted_by_their_place():
    counts = Counts()
    _, (stream, _) = answer_of(CompletionBody(prompt="x"), 2)
    for drafted, emitted in ((0, 1), (4, 3), (4, 1), (2, 3)):
        counts.tokens(stream, drafted, emitted, 10)
    assert (counts.drafts, counts.accepted_at) == (3, [2, 2])
    assert counts.ignore(["a", "b", "a"]) == ["a", "b", "a"]
    assert counts.ignore(["a"]) == []
    assert counts.ignored == {"a": 3, "b": 1}
