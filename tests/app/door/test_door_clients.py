"""Clients of an open door, over HTTP and with a real engine process behind it. The tests of this file share one door, and the last one
closes it.
"""

from __future__ import annotations

import json
import os
import random
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest

from tests.app.door.door_process import DoorProcess, events, metric
from tests.app.small_runs import wait_for

SEED = 20261127
SOAKING = "SERVESCOPE_SOAK_ROUNDS" in os.environ  # make soak: as many as the door has to bear
BODIES = 100_000 if SOAKING else 400
STREAMS = 256 if SOAKING else 40
WAITING = 252 if SOAKING else 44


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorProcess]:
    opened = DoorProcess.open(tmp_path_factory.mktemp("door"), "--keep-text", "--most-waiting", str(WAITING))
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def client(door: DoorProcess) -> Iterator[httpx.Client]:
    with door.client() as client:
        yield client


@pytest.fixture(scope="module")
def sdk(door: DoorProcess) -> openai.OpenAI:
    own = openai.DefaultHttpxClient(trust_env=False)
    return openai.OpenAI(base_url=f"{door.url}/v1", api_key="none", max_retries=0, http_client=own)


def streamed(client: httpx.Client, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    options = {"include_usage": True, "continuous_usage_stats": True}
    with client.stream("POST", path, json=body | {"stream": True, "stream_options": options}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"].startswith("text/event-stream")
        return events(response)


def text_of(chunks: list[dict[str, Any]]) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    return "".join(choice["text"] if "text" in choice else choice["delta"]["content"] for choice in choices)


def is_idle(client: httpx.Client) -> bool:
    page = client.get("/metrics").text
    busy = ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")
    return all(metric(page, name) == 0 for name in busy)


CASES = {
    "completion": ("/v1/completions", {"prompt": "The door is open.", "max_tokens": 12}),
    "drawn": ("/v1/completions", {"prompt": "Draw.", "max_tokens": 24, "temperature": 1.0, "seed": 7, "top_k": -1}),
    "tokens": ("/v1/completions", {"prompt": [5, 6, 7, 8], "max_tokens": 3, "return_token_ids": True}),
    "chat": ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 9}),
    "parts": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "max_tokens": 5},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_text_streamed_is_text_unstreamed_is_the_text_of_the_rows(door: DoorProcess, client: httpx.Client, case: str):
    path, body = CASES[case]
    answer = client.post(path, json=body).json()
    chunks = streamed(client, path, body)
    choice = answer["choices"][0]
    whole = choice.get("text", choice.get("message", {}).get("content"))
    assert text_of(chunks) == whole
    *steps, last = chunks
    assert last["choices"] == []
    assert last["usage"] == answer["usage"]
    assert answer["usage"]["completion_tokens"] == body.get("max_tokens", body.get("max_completion_tokens"))
    assert [step["usage"]["completion_tokens"] for step in steps] == list(range(1, len(steps) + 1))
    assert [step["choices"][0]["finish_reason"] for step in steps] == [None] * (len(steps) - 1) + ["length"]
    kinds = {"text_completion"} if "prompt" in body else {"chat.completion.chunk"}
    assert {chunk["object"] for chunk in chunks} == kinds
    if "messages" in body:
        roles = [step["choices"][0]["delta"].get("role") for step in steps]
        assert roles == ["assistant"] + [None] * (len(steps) - 1), "the role comes with the first token"
    recorded: dict[str, Any] = {}
    wait_for(lambda: recorded.update({r["request_id"]: r for r in door.rows("request")}) or chunks[0]["id"] in recorded)
    for told in (answer, chunks[0]):
        row = recorded[told["id"]]
        assert (row["text"], row["prompt_tokens"]) == (whole, answer["usage"]["prompt_tokens"])
    if body.get("return_token_ids"):
        ids = [token for step in steps for token in step["choices"][0]["token_ids"]]
        assert ids == choice["token_ids"] == recorded[answer["id"]]["output_token_ids"]
        assert choice["prompt_token_ids"] == steps[0]["choices"][0]["prompt_token_ids"] == body["prompt"]
    times = answer["metrics"]
    row = recorded[answer["id"]]
    assert times["request"] == row["request"]
    assert times["time_to_first_token_ms"] == (row["first_token_ns"] - row["arrival_ns"]) / 1e6


def test_a_stop_string_ends_an_answer_before_it_however_it_is_cut(door: DoorProcess, client: httpx.Client):
    body = {"prompt": "Go on and on.", "max_tokens": 24, "temperature": 1.5, "seed": 3}
    text = client.post("/v1/completions", json=body).json()["choices"][0]["text"]
    stop = text[10:14]
    first = text.index(stop)
    stopped = body | {"stop": [stop, "never here"]}
    answer = client.post("/v1/completions", json=stopped).json()
    chunks = streamed(client, "/v1/completions", stopped)
    assert answer["choices"][0]["text"] == text_of(chunks) == text[:first]
    assert (answer["choices"][0]["finish_reason"], answer["choices"][0]["stop_reason"]) == ("stop", stop)
    assert chunks[-2]["choices"][0]["finish_reason"] == "stop"
    wait_for(lambda: chunks[0]["id"] in {row["request_id"] for row in door.rows("request")})
    texts = {row["request_id"]: row["text"] or "" for row in door.rows("request")}
    assert texts[answer["id"]] == texts[chunks[0]["id"]] == text[:first]


def test_several_prompts_are_several_answers_in_their_order(client: httpx.Client):
    body = {"prompt": [[9, 8, 7], [30, 31], [3] * 20], "max_tokens": 5}
    answer = client.post("/v1/completions", json=body).json()
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    alone = [client.post("/v1/completions", json=body | {"prompt": ids}).json() for ids in body["prompt"]]
    assert [c["text"] for c in answer["choices"]] == [one["choices"][0]["text"] for one in alone]
    chunks = streamed(client, "/v1/completions", body)
    for place, choice in enumerate(answer["choices"]):
        own = [c for chunk in chunks for c in chunk["choices"] if c["index"] == place]
        assert "".join(c["text"] for c in own) == choice["text"]
    assert answer["usage"]["prompt_tokens"] == 25


def test_the_openai_sdk_reads_answers_streams_and_errors(sdk: openai.OpenAI, door: DoorProcess):
    assert [model.id for model in sdk.models.list()] == [door.model]
    assert sdk.models.retrieve(door.model).id == door.model
    whole = sdk.completions.create(model=door.model, prompt="Once", max_tokens=6)
    assert (whole.choices[0].finish_reason, whole.usage.completion_tokens) == ("length", 6)
    talk: list[Any] = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}]
    answer = sdk.chat.completions.create(model=door.model, messages=talk, max_completion_tokens=7)
    stream = sdk.chat.completions.create(
        model=door.model, messages=talk, max_completion_tokens=7, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == answer.choices[0].message.content
    assert chunks[-1].usage == answer.usage
    with pytest.raises(openai.NotFoundError, match="is not served here"):
        sdk.completions.create(model="gpt-9", prompt="Hi")
    with pytest.raises(openai.BadRequestError, match="n is not served here") as caught:
        sdk.completions.create(model=door.model, prompt="Hi", n=3)
    assert (caught.value.param, caught.value.code) == ("n", "not_served")
    with pytest.raises(openai.BadRequestError, match="context holds 2,048 tokens") as caught:
        sdk.completions.create(model=door.model, prompt="Hi", max_tokens=5000)
    assert caught.value.code == "context_length_exceeded"


def test_vllm_bench_reads_its_streams(client: httpx.Client, door: DoorProcess):
    """It takes the usage from chunks without choices only, and counts a token for each chunk that has some."""
    usual = {"model": door.model, "repetition_penalty": 1.0, "stream": True, "stream_options": {"include_usage": True}}
    parts = [{"type": "text", "text": "Hello"}]
    asked = {
        "/v1/completions": {"prompt": "Hello", "max_tokens": 6, "logprobs": None, "temperature": 0.0},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": parts}], "max_completion_tokens": 6},
    }
    for path, own in asked.items():
        with client.stream("POST", path, json=usual | own, headers={"x-request-id": "bench-7"}) as response:
            assert response.headers["x-request-id"] == "bench-7"
            chunks = events(response)
        assert all(chunk["choices"] or "usage" in chunk for chunk in chunks)
        told = [chunk["usage"] for chunk in chunks if not chunk["choices"]]
        assert [usage["completion_tokens"] for usage in told] == [6]
        assert len(text_of(chunks)) == 6


def test_sglang_bench_reads_its_stream(client: httpx.Client, door: DoorProcess):
    """It reads the first choice of every chunk unguarded, so none may come without."""
    body = {"model": door.model, "prompt": "Hi", "temperature": 0, "best_of": 1, "max_tokens": 5, "stream": True}
    with client.stream("POST", "/v1/completions", json=body | {"ignore_eos": True}) as response:
        assert "".join(chunk["choices"][0]["text"] for chunk in events(response))
    info = client.get("/server_info").json()
    assert "avg_spec_accept_length" in info["internal_states"][0]


def test_guidellm_and_aiperf_read_their_streams(client: httpx.Client, door: DoorProcess):
    """Both want usage on every chunk when they ask for it, and drop chunks whose ``object`` is another word."""
    options = {"include_usage": True, "continuous_usage_stats": True}
    talk = [{"role": "user", "content": "Hi"}]
    body = {"model": door.model, "messages": talk, "max_completion_tokens": 4, "ignore_eos": True, "stream": True}
    headers = {"Accept": "text/event-stream", "X-Correlation-ID": "c1"}
    with client.stream("POST", "/v1/chat/completions", json=body | {"stream_options": options}, headers=headers) as got:
        chunks = events(got)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks][-1] == 4
    assert chunks[-1]["usage"]["prompt_tokens_details"] == {"cached_tokens": 0}


def test_log_probabilities_as_lm_eval_asks_for_them(client: httpx.Client):
    """``local-completions`` sends contexts with their continuations as token ids and reads what lies between."""
    rows = [[9, 8, 7, 30, 31, 32], [40, 41, 42, 43]]
    asked = {"prompt": rows, "echo": True, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234}
    answer = client.post("/v1/completions", json=asked).json()
    for ids, choice in zip(rows, answer["choices"], strict=True):
        told = choice["logprobs"]
        assert {len(part) for part in told.values()} == {len(ids) + 1}
        assert told["token_logprobs"][0] is told["top_logprobs"][0] is None
        assert "".join(told["tokens"]) == choice["text"]
        assert [choice["text"][at] for at in told["text_offset"]] == told["tokens"], "a character for each token"
        inside = list(zip(told["token_logprobs"], told["top_logprobs"], strict=True))[1:]
        assert all(own <= max(top.values()) for own, top in inside)
        assert inside[-1][0] == max(inside[-1][1].values()), "what was generated is the likeliest"
    alone = client.post("/v1/completions", json=asked | {"prompt": rows[1], "max_tokens": 0}).json()
    assert alone["usage"]["completion_tokens"] == 0
    first, again = (one["choices"][-1]["logprobs"]["token_logprobs"] for one in (answer, alone))
    assert again[1:] == pytest.approx(first[1:-1], abs=1e-4)
    info = client.get("/tokenizer_info").json()
    assert {"eos_token", "bos_token", "pad_token", "chat_template"} <= info.keys()
    refused = client.post("/v1/completions", json=asked | {"stream": True}).json()["error"]
    assert (refused["param"], refused["code"]) == ("echo", "not_served")


def test_log_probabilities_of_a_stream_are_those_of_the_whole(sdk: openai.OpenAI, door: DoorProcess):
    asked: Any = {"model": door.model, "messages": [{"role": "user", "content": "Hm"}], "max_completion_tokens": 5}
    asked |= {"logprobs": True, "top_logprobs": 2}
    whole = sdk.chat.completions.create(**asked).choices[0].logprobs.content
    chunks = sdk.chat.completions.create(stream=True, **asked)
    streamed = [entry for chunk in chunks for entry in chunk.choices[0].logprobs.content]
    assert [entry.token for entry in streamed] == [entry.token for entry in whole]
    assert [entry.logprob for entry in streamed] == pytest.approx([entry.logprob for entry in whole], abs=1e-4)
    assert all(len(entry.top_logprobs) == 2 and entry.top_logprobs[0].token == entry.token for entry in whole)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_streams_cut_at_random_leave_nothing_behind(door: DoorProcess, client: httpx.Client):
    """The engine balances its books after every step; one that did not would end it."""
    choose = random.Random(SEED)
    leavers = set(choose.sample(range(STREAMS), STREAMS // 2))
    wait_for(lambda: is_idle(client))
    page = client.get("/metrics").text
    before, tasks = metric(page, "vllm:request_success_total", finished_reason="abort"), "servescope_door_tasks"

    def follow(number: int) -> int:
        body = {"prompt": f"Stream {number}", "max_tokens": 40 if number not in leavers else 1500, "stream": True}
        body |= {"temperature": 1.0, "seed": number}
        read = 0
        with door.client() as own, own.stream("POST", "/v1/completions", json=body) as response:
            assert response.status_code == 200
            leaves_after = choose.randrange(12)
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    read += len(json.loads(line[6:])["choices"][0]["text"])  # a character for each token
                if number in leavers and read >= leaves_after:
                    return -1
        return read

    with ThreadPoolExecutor(STREAMS) as pool:
        read = list(pool.map(follow, range(STREAMS)))
    assert [number for number in range(STREAMS) if read[number] == -1] == sorted(leavers)
    assert {read[number] for number in range(STREAMS) if number not in leavers} == {40}
    wait_for(lambda: is_idle(client))
    after = metric(client.get("/metrics").text, "vllm:request_success_total", finished_reason="abort")
    assert after - before == STREAMS // 2
    wait_for(lambda: metric(client.get("/metrics").text, tasks) <= metric(page, tasks))


def test_a_slow_reader_holds_nobody_up_and_loses_nothing(door: DoorProcess, client: httpx.Client):
    body = json.dumps({"prompt": "Slow", "max_tokens": 700, "stream": True, "temperature": 1.0, "seed": 5}).encode()
    host, port = door.url.removeprefix("http://").split(":")
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: {len(body)}\r\n\r\n"
    slow = socket.socket()
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    slow.connect((host, int(port)))
    with slow:
        slow.sendall(head.encode() + body)
        for _ in range(3):
            quick = client.post("/v1/completions", json={"prompt": "Quick", "max_tokens": 5})
            assert quick.json()["usage"]["completion_tokens"] == 5
        wait_for(lambda: is_idle(client))  # the engine has gone on to the end without it
        received = b""
        slow.settimeout(30)
        while b"data: [DONE]" not in received:
            received += slow.recv(65536)
    lines = [line for line in received.split(b"\n") if line.startswith(b"data: {")]
    text = "".join(json.loads(line[6:])["choices"][0]["text"] for line in lines)
    name = json.loads(lines[0][6:])["id"]
    wait_for(lambda: name in {row["request_id"] for row in door.rows("request")})
    assert text == next(row["text"] for row in door.rows("request") if row["request_id"] == name)


def test_beyond_its_limit_the_door_says_when_to_come_again(door: DoorProcess, client: httpx.Client):
    held = WAITING - 4
    many = {"prompt": ["Wait"] * held, "max_tokens": 1500, "stream": True}
    with door.client() as own, own.stream("POST", "/v1/completions", json=many) as response:
        assert response.status_code == 200
        page = client.get("/metrics").text
        assert metric(page, "vllm:num_requests_running") + metric(page, "vllm:num_requests_waiting") == held
        answer = client.post("/v1/completions", json={"prompt": ["More"] * 9, "max_tokens": 1})
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "overloaded")
        assert 1 <= int(answer.headers["retry-after"]) <= 60
    wait_for(lambda: is_idle(client))
    assert client.post("/v1/completions", json={"prompt": ["More"] * 9, "max_tokens": 1}).status_code == 200


def test_tokens_and_text_go_there_and_back(client: httpx.Client, door: DoorProcess):
    told = client.post("/tokenize", json={"model": door.model, "prompt": "abc", "add_special_tokens": False}).json()
    assert (told["count"], told["tokens"], told["max_model_len"]) == (3, [100, 101, 102], 2048)
    assert client.post("/tokenize", json={"messages": [{"role": "user", "content": "abc"}]}).json()["count"] == 4
    assert len(client.post("/detokenize", json={"tokens": told["tokens"]}).json()["prompt"]) == 3
    assert client.post("/detokenize", json={"tokens": [10**9]}).status_code == 400


def test_routes_that_load_generators_read(client: httpx.Client, door: DoorProcess):
    health = client.get("/health")
    assert (health.status_code, health.content) == (200, b"")
    assert client.get("/version").json()["version"]
    model = client.get("/v1/models").json()["data"][0]
    assert (model["id"], model["root"], model["max_model_len"]) == (door.model, "random:tiny", 2048)
    info = client.get("/server_info").json()
    assert (info["run_id"], info["internal_states"]) == (door.run_id, [{"avg_spec_accept_length": None}])
    assert client.post("/reset_prefix_cache").json() == {"dropped": 0, "held": 0}
    assert client.post("/flush_cache").status_code == 200
    document = client.get("/openapi.json").json()
    assert {"/v1/completions", "/v1/chat/completions", "/tokenize"} <= document["paths"].keys()


def test_metrics_are_what_the_rows_say(client: httpx.Client, door: DoorProcess):
    wait_for(lambda: is_idle(client))
    page = client.get("/metrics").text
    wait_for(
        lambda: sum(r["emitted_tokens"] for r in door.rows("iteration")) == metric(page, "vllm:generation_tokens_total")
    )
    steps, requests = door.rows("iteration"), door.rows("request")
    assert metric(page, "servescope_iterations_total") == len(steps)
    assert metric(page, "vllm:iteration_tokens_total_count") == len(steps), "no warm-up is counted"
    assert metric(page, "vllm:prompt_tokens_total") == sum(row["prompt_tokens"] for row in steps)
    started = [row for row in requests if row["first_token_ns"] is not None]
    assert metric(page, "vllm:time_to_first_token_seconds_count") == len(started)
    ttft = sum(row["first_token_ns"] - row["arrival_ns"] for row in started) / 1e9
    assert metric(page, "vllm:time_to_first_token_seconds_sum") == pytest.approx(ttft)
    gaps = [row["itl_ns"] for row in door.rows("slice") if row["itl_ns"] is not None]
    assert metric(page, "vllm:inter_token_latency_seconds_count") == len(gaps)
    assert metric(page, "vllm:inter_token_latency_seconds_sum") == pytest.approx(sum(gaps) / 1e9)
    ends = [row["end_reason"] for row in requests]
    for reason, own in (("length", ["length"]), ("stop", ["stop", "stop_string"]), ("abort", ["cancelled"])):
        told = metric(page, "vllm:request_success_total", finished_reason=reason)
        assert told == sum(end in own for end in ends), reason


HOSTILE: tuple[Any, ...] = (
    None, True, -1, 0, 2**31, 2**63, 10**400, -1e308, 1e-320, "", "x" * 5000, "\x00", "\ud800", [], [[]], [None], [-1],
    [2**40], [[1], "a"], {}, {"a": {"b": []}}, [[5] * 3000], ["", ""], "NaN", [1, True], {"type": "json_object"},
)  # fmt: skip
RAW = (
    b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"prompt": NaN}', b'{"prompt": "\\ud800", "max_tokens": 2}',
    b"[" * 100_000, b'{"a":' * 50_000, b'{"prompt": "x", "prompt": 5}', b'{"messages": [{"role": "user"}]}',
)  # fmt: skip


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_hostile_bodies_are_refused_and_break_nothing(client: httpx.Client):
    choose = random.Random(SEED)
    good: dict[str, dict[str, Any]] = {
        "/v1/completions": {"prompt": "x", "max_tokens": 2, "stop": ["q"], "stop_token_ids": [1], "stream": False},
        "/v1/chat/completions": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "temperature": 0.5},
        "/tokenize": {"prompt": "x", "add_special_tokens": True},
        "/detokenize": {"tokens": [5]},
    }
    further = [
        "model",
        "seed",
        "top_p",
        "top_k",
        "min_p",
        "min_tokens",
        "priority",
        "stream_options",
        "n",
        "echo",
        "logprobs",
        "top_logprobs",
        "user",
    ]
    further += [
        "logit_bias",
        "response_format",
        "ignore_eos",
        "repetition_penalty",
        "return_token_ids",
        "max_completion_tokens",
    ]
    seen = set()
    for number in range(BODIES):
        path = choose.choice(list(good))
        body = dict(good[path])
        for _ in range(choose.randrange(1, 4)):
            body[choose.choice([*body, *further])] = choose.choice(HOSTILE)
        if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
            body["max_tokens"] = 2
        data = RAW[number] if number < len(RAW) else json.dumps(body).encode()
        answer = client.post(path, content=data)
        assert answer.status_code < 500, (path, data[:300], answer.text)
        if answer.status_code >= 400:
            assert answer.json()["error"]["message"], (path, data[:300])
        seen.add(answer.status_code)
    assert {200, 400} <= seen
    assert client.post("/v1/completions", content=b" " * (9 << 20)).status_code == 413
    assert client.get("/v1/completions").status_code == 405
    assert client.get("/../etc/passwd").status_code == 404
    assert client.get("/health").status_code == 200


def test_unknown_fields_are_ignored_and_counted(client: httpx.Client):
    body = {"prompt": "x", "max_tokens": 1, "metadata": {"a": 1}}
    assert client.post("/v1/completions", json=body).status_code == 200
    page = client.get("/metrics").text
    assert metric(page, "servescope_ignored_fields_total", field="metadata") == 1


@pytest.mark.parametrize(
    "headers",
    [{"Host": "evil.example"}, {"Origin": "http://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
def test_foreign_hosts_and_pages_are_refused(client: httpx.Client, headers: dict[str, str]):
    for path in ("/v1/models", "/metrics", "/health"):
        answer = client.get(path, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "foreign")


def test_at_the_end_open_answers_are_finished_and_the_run_is_whole(door: DoorProcess, client: httpx.Client):
    body = {"prompt": "The last one", "max_tokens": 300, "stream": True}
    with client.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        assert len(text_of([json.loads(next(lines)[6:])])) == 1
        door.ask_to_end()
        wait_for(lambda: refuses(door))
        rest = [line for line in lines if line]
    assert rest[-1] == "data: [DONE]"
    chunks = [json.loads(line[6:]) for line in rest if line.startswith("data: {")]
    assert len(text_of(chunks)) == 299, "a character for each token but the first"
    code, said = door.wait()
    assert code == 0, said
    status = door.status
    assert (status["state"], status["error"]) == ("finished", None)
    assert status["labels"] == ["served to clients", "random weights"]
    assert status["summary"]["requests"]["total"] == len(door.rows("request"))
    assert status["progress"]["kv_used_share"] == 0


def refuses(door: DoorProcess) -> bool:
    """Whether new clients are sent away."""
    try:
        with door.client() as own:
            return own.get("/health").status_code == 503
    except httpx.TransportError:
        return True
