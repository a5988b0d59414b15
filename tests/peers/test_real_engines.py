"""vLLM's CPU build and llama.cpp's server, watched and asked while they serve the embedded model (``make peers``, then ``make test-peers``).

What ``servescope attach`` records is held against what each answer's usage says, and the same requests are asked by ``--endpoint``.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import zmq.asyncio

from app.attach.messages import KvEvents, Told
from app.attach.replay import Replay
from app.home import Home
from app.runs.process import worker_environment
from benchmarks.peers.elsewhere import PEERS, missing, vllm_environment
from benchmarks.peers.with_llama_cpp import server
from benchmarks.peers.work import model_folder
from telemetry.status import read_status
from tests.app.lab_process import free_port, servescope
from tests.app.small_runs import wait_for

pytestmark = [
    pytest.mark.skipif("SERVESCOPE_PEERS" not in os.environ, reason="make test-peers runs it"),
    pytest.mark.timeout(1800),
]
PATIENCE_S = 900.0  # until an engine serves, and until a request is over
VLLM_SETTINGS = ("--dtype", "float32", "--max-model-len", "1024", "--max-num-seqs", "4", "--enforce-eager")
VLLM_SETTINGS += ("--block-size", "32", "--num-gpu-blocks-override", "40", "--enable-prompt-tokens-details")
LLAMA_SETTINGS = ["--parallel", "4", "--ctx-size", "4096", "--threads", "1", "--metrics", "--alias", "smollm2"]


@dataclass
class Engine:
    name: str
    url: str
    kv_events: str = ""
    kv_replay: str = ""
    spans: int | None = None


@pytest.fixture(scope="module", params=["vllm", "llama.cpp"])
def engine(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    name = str(request.param)
    if missing(name):
        pytest.skip(f"{name} is not installed: make peers")
    with ExitStack() as stack:
        if name == "vllm":
            yield stack.enter_context(vllm(tmp_path_factory.mktemp("vllm")))
        else:
            client = stack.enter_context(server(PEERS / name / "float32.gguf", LLAMA_SETTINGS))
            yield Engine(name, str(client.base_url).rstrip("/"))


@contextmanager
def vllm(folder: Path) -> Iterator[Engine]:
    """Its OpenAI server, which publishes KV events on a Unix socket, and sends its spans to a port where somebody may listen."""
    port, spans, events, log = free_port(), free_port(), f"ipc://{folder}/events", folder / "log"
    replay = f"ipc://{folder}/replay"
    publish = json.dumps(
        {"enable_kv_cache_events": True, "publisher": "zmq", "endpoint": events, "replay_endpoint": replay}
    )
    words = ["--host", "127.0.0.1", "--port", str(port), "--model", str(model_folder())]
    words += ["--served-model-name", "smollm2", "--kv-events-config", publish]
    words += ["--otlp-traces-endpoint", f"http://127.0.0.1:{spans}/v1/traces"]
    tracing = {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_BSP_SCHEDULE_DELAY": "200"}
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as said:
        process = subprocess.Popen(
            [PEERS / "vllm" / "bin" / "python", "-m", "vllm.entrypoints.openai.api_server", *words, *VLLM_SETTINGS],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            env=inherited | vllm_environment(PEERS / "vllm", 1) | tracing | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        )
    try:
        until = time.monotonic() + PATIENCE_S
        while not answers(f"http://127.0.0.1:{port}/health"):
            assert process.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < until, log.read_text()[-3000:]
            time.sleep(0.5)
        yield Engine("vllm", f"http://127.0.0.1:{port}", events, replay, spans)
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False


def ask(engine: Engine) -> list[dict[str, Any]]:
    """The usage of each answer: a prompt, the same once more, one that begins alike, and others at once."""
    draw = random.Random(7)
    first, *others = ([draw.randrange(10, 49000) for _ in range(100)] for _ in range(4))
    usage = []
    with httpx.Client(base_url=engine.url, timeout=PATIENCE_S, trust_env=False) as client:
        for prompt, tokens in [
            (first, 3),
            (first, 5),
            (first[:70] + others[0][:40], 4),
            *((each, 6) for each in others),
        ]:
            body = {"model": "smollm2", "prompt": prompt, "max_tokens": tokens, "temperature": 0, "ignore_eos": True}
            usage.append(client.post("/v1/completions", json=body).raise_for_status().json()["usage"])
    return usage


def test_what_is_recorded_is_what_the_engine_told_its_clients(engine: Engine, tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    options = ["--every", "0.3", "--json", *(("--kv-events", engine.kv_events) if engine.kv_events else ())]
    options += ["--kv-replay", engine.kv_replay] if engine.kv_replay else []
    options += ["--spans", str(engine.spans)] if engine.spans else []
    process = subprocess.Popen(
        [sys.executable, "-m", "app.cli", "attach", engine.url, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)},
    )

    def readings() -> int:
        progress = [read_status(home.run_dir(run_id)).get("progress") for run_id in home.run_ids()]
        return int(progress[0].get("readings", 0)) if progress and progress[0] else 0

    wait_for(lambda: readings() > 1)
    time.sleep(1.0)  # a subscription takes a moment to reach its publisher
    usage = ask(engine)
    seen = readings()
    wait_for(lambda: readings() > seen + 2)
    process.send_signal(signal.SIGTERM)
    result = json.loads(process.communicate(timeout=60)[0])
    assert (process.returncode, result["status"], result["model"]) == (0, "finished", "smollm2")
    told = {figure["name"]: figure for figure in result["foreign"]["figures"]}
    print(engine.name, result["title"], {name: figure["value"] for name, figure in told.items()})
    assert told["prompt_tokens"]["value"] == sum(each["prompt_tokens"] for each in usage)
    assert told["output_tokens"]["value"] == sum(each["completion_tokens"] for each in usage)
    cached = [(each.get("prompt_tokens_details") or {}).get("cached_tokens") or 0 for each in usage]
    assert told["cached_tokens"]["value"] == sum(cached) > 0
    assert (told["running"]["last"], told["waiting"]["last"]) == (0, 0)
    if engine.name == "vllm":
        assert told["requests_done"]["value"] == told["ttft"]["value"] == told["e2e"]["value"] == len(usage)
        assert told["step_tokens"]["mean"] * told["step_tokens"]["value"] == pytest.approx(
            told["prompt_tokens"]["value"] - sum(cached) + told["output_tokens"]["value"]
        )
        assert told["blocks_stored"]["value"] == 3 + 1 + 3 * len(usage[3:]), "full blocks of 32, found ones not again"
        assert told["blocks_held"]["last"] == told["blocks_stored"]["value"] - told["blocks_removed"]["value"]
        assert {peer["lost"] for peer in result["foreign"]["peers"]} == {0}
        assert result["requests"]["finished"] == result["ttft_ms"]["count"] == len(usage), "by their spans"
        assert result["output_tokens"] == sum(each["completion_tokens"] for each in usage)
        assert 1e3 * told["ttft"]["mean"] == pytest.approx(result["ttft_ms"]["mean"], rel=0.02)
        assert 1e3 * told["e2e"]["mean"] == pytest.approx(result["e2e_ms"]["mean"], rel=0.02)
        kept = asyncio.run(batches_kept(engine.kv_replay))
        assert (
            sum(value for each in kept for name, value, _ in each.figures if name == "blocks_stored")
            == (told["blocks_stored"]["value"])
        )


async def batches_kept(address: str) -> list[Told]:
    """All that its publisher keeps, as a listener would get it again that heard the batch 10,000 alone."""
    replay, events = Replay(address), KvEvents()
    with zmq.asyncio.Context() as context:
        await replay.before(context, [b"", (-1).to_bytes(8, "big", signed=True), b""])
        rest = await replay.before(context, [b"", (10_000).to_bytes(8, "big"), b""])
    return [events.take(frames) for frames in rest]


SCENARIO = """
title: A crowd
summary: Requests of one length.
question: Does the engine answer all of them?
engine: {device: cpu}
workload:
  groups:
    crowd:
      requests: 4
      arrivals: {kind: closed-loop, clients: 2}
      prompt: {kind: prose}
      prompt_tokens: {kind: fixed, tokens: 20}
      output_tokens: {kind: fixed, tokens: 4}
      ignore_eos: true
"""
TALKS = """
    talks:
      requests: 4
      arrivals: {kind: sessions, turns: {kind: fixed, tokens: 2}, pause: 0.01}
      prompt: {kind: dialogue, system_words: 8}
      output_tokens: {kind: fixed, tokens: 3}
      ignore_eos: true
"""


def test_a_scenario_is_asked_of_it(engine: Engine, tmp_path: Path) -> None:
    talks = engine.name == "vllm"  # llama.cpp tells no token ids with completions, so no talk can be continued there
    (tmp_path / "few.yaml").write_text(SCENARIO + (TALKS if talks else ""))
    home = Home(tmp_path / "home").prepare()
    done = servescope(home, "run", str(tmp_path / "few.yaml"), "--endpoint", engine.url, "--json")
    assert done.returncode == 0, done.stderr
    result, count = json.loads(done.stdout), 8 if talks else 4
    assert result["requests"] == {"total": count, "finished": count, "failed": 0, "cancelled": 0}
    assert result["output_tokens"] == 4 * 4 + (4 * 3 if talks else 0)
    assert result["ttft_ms"]["count"] == count
