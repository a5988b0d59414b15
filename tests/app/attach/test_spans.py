"""Spans of another engine's requests: taken over real HTTP, read as OTLP says, shown as the requests they are of."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from app.attach.address import watched_at
from app.attach.receiver import MOST_BYTES, Receiver
from app.attach.spans import MOST_TOKENS, NoSpans, Requests, spans_of
from app.errors import LabError
from app.home import Home
from app.runs.process import worker_environment
from telemetry.status import read_status
from tests.app.attach.pages_of_engines import engine_with, serving, vllm
from tests.app.lab_process import free_port, lab_here
from tests.app.pages.test_page_reports import page_of, said
from tests.app.small_runs import wait_for
from tests.examples import examples

PROTOBUF = "application/x-protobuf"
BEGAN = 1_700_000_000_000_000_000


def about(**changed: Any) -> dict[str, Any]:
    told = {
        "request.id": "cmpl-1",
        "latency.time_to_first_token": 0.25,
        "latency.e2e": 1.25,
        "latency.time_in_queue": 0.05,
    }
    told |= {"latency.time_in_model_prefill": 0.15, "usage.prompt_tokens": 40, "usage.completion_tokens": 11}
    return {f"gen_ai.{name}": value for name, value in (told | changed).items() if value is not None}


def message(*spans: tuple[int, int, dict[str, Any]]) -> bytes:
    """``spans``: number, start in ns since 1970, attributes."""
    request = ExportTraceServiceRequest()
    for number, start_ns, attributes in spans:
        span = request.resource_spans.add().scope_spans.add().spans.add(
            name="llm_request", trace_id=number.to_bytes(16, "big"), span_id=number.to_bytes(8, "big"),
            start_time_unix_nano=start_ns,
        )  # fmt: skip
        for key, value in attributes.items():
            kind = {str: "string_value", int: "int_value", float: "double_value", bool: "bool_value"}[type(value)]
            setattr(span.attributes.add(key=key).value, kind, value)
    return request.SerializeToString()


def rows_of(*spans: tuple[int, int, dict[str, Any]]) -> list[dict[str, Any]]:
    return Requests(BEGAN).take(spans_of(message(*spans), PROTOBUF))


def test_a_span_is_a_request_by_the_engines_clock() -> None:
    (row,) = rows_of((1, BEGAN + 5_000_000_000, about()))
    assert (row["request"], row["request_id"], row["prompt_tokens"], row["output_tokens"]) == (0, "cmpl-1", 40, 11)
    ms = {name: row[f"{name}_ns"] / 1e6 for name in ("arrival", "first_scheduled", "first_token", "end")}
    assert ms == {"arrival": 5000, "first_scheduled": 5100, "first_token": 5250, "end": 6250}


@pytest.mark.parametrize(
    ("changed", "column", "value"),
    [
        ({"latency.time_in_model_prefill": None}, "first_scheduled_ns", 50_000_000),
        ({"latency.time_in_model_prefill": 9.0}, "first_scheduled_ns", 0),
        ({"latency.time_to_first_token": float("nan")}, "first_token_ns", None),
        ({"latency.time_to_first_token": 7.0}, "first_token_ns", 1_250_000_000),
        ({"usage.completion_tokens": 0}, "first_token_ns", None),
        ({MOST_TOKENS.removeprefix("gen_ai."): 11}, "end_reason", "length"),
        ({MOST_TOKENS.removeprefix("gen_ai."): 12}, "end_reason", "stop"),
        ({"request.id": None}, "request_id", "0000000000000001"),
    ],
)
def test_what_a_span_leaves_out_or_tells_oddly(changed: dict[str, Any], column: str, value: Any) -> None:
    (row,) = rows_of((1, BEGAN, about(**changed)))
    assert row[column] == value
    assert row["arrival_ns"] <= (row["first_token_ns"] or row["end_ns"]) <= row["end_ns"]


def test_a_span_sent_twice_is_one_request_and_what_is_none_is_counted() -> None:
    requests = Requests(BEGAN)
    sent = spans_of(
        message(
            (1, BEGAN + 1, about()),
            (2, BEGAN + 2, about(**{"latency.e2e": None})),
            (3, BEGAN - 1, about()),
            (4, BEGAN + 3, about(**{"usage.prompt_tokens": -1})),
            (5, BEGAN + 4, about()),
        ),
        PROTOBUF,
    )
    assert [row["request"] for row in requests.take([*sent, sent[0]])] == [0, 1]
    assert requests.take(sent[:1]) == []
    assert (requests.count, requests.others, requests.earlier) == (2, 2, 1)
    assert requests.words() == (
        "2 requests by their spans; left out: 2 of something else than a request, 1 of requests that arrived before the watch began."
    )


def test_json_says_the_same() -> None:
    from google.protobuf.json_format import MessageToJson

    body = message((1, BEGAN, about()))
    as_json = MessageToJson(ExportTraceServiceRequest.FromString(body)).encode()
    assert Requests(BEGAN).take(spans_of(as_json, "application/json")) == Requests(BEGAN).take(spans_of(body, PROTOBUF))


@given(body=st.binary(max_size=200), cut=st.integers(0, 200), kind=st.sampled_from([PROTOBUF, "application/json"]))
@settings(max_examples=examples(100), deadline=None)
def test_what_is_no_message_is_said_to_be_none(body: bytes, cut: int, kind: str) -> None:
    for given_bytes in (body, message((1, BEGAN, about()))[:cut] + body):
        try:
            spans = spans_of(given_bytes, kind)
        except NoSpans:
            continue
        for row in Requests(BEGAN).take(spans):
            assert row["arrival_ns"] <= row["end_ns"]


def test_a_port_that_is_taken_or_none_is_refused() -> None:
    taken = Receiver(0)
    port = int(taken.url.split(":")[2].partition("/")[0])
    with pytest.raises(LabError, match="Nothing can listen") as refused:
        Receiver(port)
    taken.close()
    assert (refused.value.field, refused.value.value) == ("--spans", str(port))
    for given_port in (-1, 65536):
        with pytest.raises(LabError, match="no port"):
            watched_at("http://127.0.0.1:8000", spans=given_port)


def test_requests_are_known_while_spans_come(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    port = free_port()
    url = f"http://127.0.0.1:{port}/v1/traces"
    with serving(engine_with(lambda n: vllm(1 + n))) as (engine, _):
        process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "attach", engine, "--every", "0.2", "--spans", str(port), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)},
        )
        wait_for(lambda: home.run_ids() and read_status(home.run_dir(home.run_ids()[0])).get("state") == "running")
        now = time.time_ns()
        with httpx.Client(trust_env=False) as client:

            def send(body: bytes, **headers: str) -> int:
                told = {"content-type": PROTOBUF} | {name.replace("_", "-"): value for name, value in headers.items()}
                return client.post(url, content=body, headers=told).status_code

            wait_for(lambda: reached(client, url))
            spans = [(n, now + n, about(**{"request.id": f"<b>{n}", "latency.e2e": 0.5 + n})) for n in range(1, 9)]
            assert send(message(*spans)) == send(message(*spans[:2])) == 200
            assert send(b"\xff\xff") == 400
            assert send(b"", content_type="text/plain") == send(b"", content_encoding="gzip") == 415
            assert send(b"\0" * (MOST_BYTES + 1)) == 413
            assert send(message(*spans), host="elsewhere.example") == 403
            assert client.get(url).status_code == 405
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    result = json.loads(out)
    assert (process.returncode, result["status"], result["labels"]) == (0, "finished", ["foreign", "engine's clock"])
    assert result["requests"]["total"] == result["requests"]["finished"] == 8
    assert result["output_tokens"] == 8 * 11
    assert (result["ttft_ms"]["count"], result["ttft_ms"]["p50"], result["e2e_ms"]["max"]) == (8, 250, 8500)
    assert f"Spans of requests are taken at {url}" in err
    assert "8 requests by their spans." in err
    assert "4 of them not understood" in err
    with lab_here(tmp_path) as lab:
        lab.collector.ingest_once(result["run_id"])
        page = page_of("live", run=result["run_id"])
        assert not page.exception
        assert "latencies by the engine's own clock" in said(page)
        table = next(frame.value for frame in page.dataframe if "samples" in frame.value)
        assert dict(zip(table[""], table["p50"], strict=True))["TTFT"] == 250


def reached(client: httpx.Client, url: str) -> bool:
    try:
        return client.get(url).status_code == 405
    except httpx.TransportError:
        return False
