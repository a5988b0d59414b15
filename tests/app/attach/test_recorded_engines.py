"""Pages of metrics and KV events as real servers gave them, read and held against what their clients were told.

``recorded/``: replies of a server that we started on a CPU with the embedded model and asked, without their help texts and shortened by
whole families; the events are the frames of its replay socket. What was asked stands beside each test.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest

from app.attach.families import ENGINES, engine_of
from app.attach.listen import Listener
from app.attach.messages import KvEvents, NotAMessage
from app.attach.prometheus import parse_page
from app.attach.readings import Readings
from store.foreign import OF_METRICS

RECORDED = Path(__file__).parent / "recorded"


def grown(engine: str, *names: str) -> tuple[dict[str, float], set[str]]:
    """What figures grew by from the first page to the last, histograms by their counts; and the figures told."""
    prefix, families = ENGINES[engine]
    pages, sums = Readings(prefix, families), dict.fromkeys(OF_METRICS, 0.0)
    for name in names:
        page = parse_page((RECORDED / name).read_text())
        assert engine_of(page) == (engine, prefix, families)
        rows, anew = pages.take(page)
        assert not anew
        for row in rows:
            if row["counted"]:
                sums[row["name"]] = sums.get(row["name"], 0.0) + row["value"]
    return sums, pages.told


def test_vllms_pages_say_what_its_clients_were_told() -> None:
    """vLLM 0.32: 15 completions of 2,060 prompt tokens, 160 of them cached, and 126 output tokens, by the usage of each; prompt lookup
    with 3 tokens; the sum of its times to first token as on its page.
    """
    sums, told = grown("vLLM", "vllm_0_32_first.txt", "vllm_0_32_later.txt", "vllm_0_32_last.txt")
    assert (sums["prompt_tokens"], sums["cached_tokens"], sums["output_tokens"]) == (2060, 160, 126)
    assert (sums["prefix_query_tokens"], sums["prefix_hit_tokens"]) == (2060, 160)
    assert sums["requests_done"] == sums["ttft"] == sums["e2e"] == sums["queue_time"] == 15
    assert sums["ttft.sum"] == pytest.approx(668.0098249912262)
    assert (sums["drafts"], sums["draft_tokens"], sums["accepted_tokens"]) == (5, 11, 10)
    assert sums["step_tokens.sum"] == 2060 - 160 + 126, "what was computed"
    assert set(OF_METRICS) - told == {"cache_hit_share", "accept_length", "steps", "prompt_s", "decode_s"}


def test_llama_cpps_pages_say_what_its_clients_were_told() -> None:
    """llama.cpp's server b11434: three completions of 121 prompt tokens, 99 of them cached, and 19 output tokens, by the usage of each."""
    sums, told = grown("llama.cpp", "llama_cpp_b11434_first.txt", "llama_cpp_b11434_last.txt")
    assert (sums["prompt_tokens"], sums["cached_tokens"], sums["output_tokens"]) == (121, 99, 19)
    assert sums["steps"] == 19
    assert sums["prompt_s"] == pytest.approx(6.58367 - 5.03353)
    assert {"running", "waiting", "drafts", "draft_tokens", "accepted_tokens"} <= told
    assert not {"ttft", "itl", "kv_used_share"} & told


def events(name: str) -> list[list[bytes]]:
    return [[base64.b64decode(frame) for frame in frames] for frames in json.loads((RECORDED / name).read_text())]


def test_vllms_kv_events_are_counted_and_what_is_held_is_known() -> None:
    """vLLM 0.32 with 36 blocks of 32 tokens, the cache cleared once: a replay of all batches, from number 0."""
    *batches, end = events("vllm_0_32_kv_events.json")
    reader = KvEvents()
    told = [{name: value for name, value, _ in reader.take(frames).figures} for frames in batches]
    assert [each["blocks_stored"] for each in told] == [3, 1, 2, 1, 4, 24, 8, 4, 3]
    assert [each["blocks_removed"] for each in told] == [0, 0, 0, 0, 0, 7, 8, 0, 0]
    assert [each["blocks_held"] for each in told] == [3, 4, 6, 7, 11, 28, 28, 32, 3]
    assert [each["cache_cleared"] for each in told] == [0] * 8 + [1]
    with pytest.raises(NotAMessage, match="end of a replay"):
        reader.take(end)
    reader = KvEvents()
    assert [reader.take(frames).lost for frames in (batches[0], batches[4])] == [0, 3]


def test_a_publisher_that_is_silent_is_said_with_what_may_be_why() -> None:
    silent = Listener("--kv-events", "tcp://127.0.0.1:5557", KvEvents().take, lambda told: None)
    assert silent.words().startswith(
        "No messages from tcp://127.0.0.1:5557. vLLM's publisher waits to be connected to only"
    )
    assert (
        Listener("--kv-events", "ipc:///tmp/a", KvEvents().take, lambda told: None).words()
        == "No messages from ipc:///tmp/a."
    )
    silent.messages, silent.unread, silent.why = 3, 1, "no batch"
    assert silent.words() == "3 messages from tcp://127.0.0.1:5557, 1 of them not understood (no batch)."
