"""The engine process, as the lab starts it: spec in, rows and status out, and a readable end whatever happens."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from engine.config import EngineConfig, RequestSpec, RunSpec, Sampling
from telemetry.spool import SpoolReader, spool_path

TINY = EngineConfig(
    model="random:tiny", device="cpu", dtype="float32", threads=1, kv_blocks=64, sampling=Sampling(ignore_eos=True)
)


def request(index: int, **values: Any) -> RequestSpec:
    defaults = {"request_id": f"r{index}", "prompt_token_ids": tuple(range(8, 24)), "max_tokens": 12}
    return RequestSpec(**(defaults | values))


def write_spec(run_dir: Path, requests: list[RequestSpec], config: EngineConfig = TINY, **values: Any) -> Path:
    run_dir.mkdir(parents=True)
    spec = RunSpec(run_id=run_dir.name, scenario="test", engine=config, requests=tuple(requests), **values)
    (run_dir / "spec.json").write_text(spec.model_dump_json())
    return run_dir


def start(run_dir: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "engine.worker", str(run_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def status(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "status.json").read_text())


def rows(run_dir: Path, row: str) -> list[dict[str, Any]]:
    return pa.Table.from_batches([part.batch for part in SpoolReader(spool_path(run_dir, row)).read()]).to_pylist()


def wait_for(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "did not happen in time"
        time.sleep(0.02)


def test_a_run_leaves_its_rows_and_a_final_status(tmp_path: Path):
    run_dir = write_spec(tmp_path / "whole", [request(i, arrival_ns=i * 1_000_000) for i in range(5)])
    worker = start(run_dir)
    output, _ = worker.communicate(timeout=120)
    assert worker.returncode == 0, output
    final = status(run_dir)
    assert final["state"] == "finished"
    assert final["error"] is None
    assert final["labels"] == ["random weights"]
    assert final["summary"]["requests"] == {"total": 5, "finished": 5, "cancelled": 0, "failed": 0}
    assert final["summary"]["output_tokens"] == 60
    iterations = rows(run_dir, "iteration")
    slices = rows(run_dir, "slice")
    requests = rows(run_dir, "request")
    assert len(iterations) == final["summary"]["iterations"]
    assert sum(i["emitted_tokens"] for i in iterations) == sum(s["emitted"] for s in slices) == 60
    assert (
        sum(s["tokens"] for s in slices)
        == sum(i["prefill_tokens"] + i["decode_tokens"] for i in iterations)
        == 5 * (16 + 11)
    )
    assert [len(r["output_token_ids"]) for r in requests] == [12] * 5
    assert {r["event"] for r in rows(run_dir, "run")} == {"start", "end"}
    assert rows(run_dir, "device")


def test_a_refused_request_leaves_a_row_that_says_why_and_the_run_finishes(tmp_path: Path, monkeypatch):
    """In this process: how it is started makes no difference."""
    from engine import worker

    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    run_dir = write_spec(tmp_path / "mixed", [request(0), request(1, prompt_token_ids=(7, 10**6)), request(2)])
    assert worker.run(run_dir) == 0
    final = status(run_dir)
    assert (final["state"], final["error"]) == ("finished", None)
    assert final["labels"] == ["random weights", "1 of 3 requests refused"]
    assert final["summary"]["requests"] == {"total": 3, "finished": 2, "cancelled": 0, "failed": 1}
    assert (final["progress"]["requests_done"], final["progress"]["requests_ended"]) == (2, 3)
    said = "requests[r1].prompt_token_ids = 1000000: this token id is not in the model's vocabulary"
    assert [about["request_id"] for about in final["summary"]["refused"]] == ["r1"]
    assert said in final["summary"]["refused"][0]["error"]
    failed = [row for row in rows(run_dir, "request") if row["end_reason"] == "failed"]
    assert [row["request"] for row in failed] == [1]
    assert said in failed[0]["error"]


def test_times_in_the_rows_agree_with_each_other(tmp_path: Path):
    run_dir = write_spec(tmp_path / "times", [request(i, arrival_ns=i * 2_000_000) for i in range(4)])
    start(run_dir).communicate(timeout=120)
    iterations = rows(run_dir, "iteration")
    parts = ("schedule_ns", "prepare_ns", "forward_ns", "sample_ns", "finish_ns")
    for before, after in itertools.pairwise(iterations):
        assert before["end_ns"] <= after["start_ns"]
    for row in iterations:
        assert sum(row[p] for p in parts) == row["end_ns"] - row["start_ns"]
    ends = {row["iteration"]: row["end_ns"] for row in iterations}
    for req in rows(run_dir, "request"):
        assert req["arrival_ns"] <= req["first_scheduled_ns"] < req["first_token_ns"] <= req["end_ns"]
        emitted = [s for s in rows(run_dir, "slice") if s["request"] == req["request"] and s["emitted"]]
        assert ends[emitted[0]["iteration"]] == req["first_token_ns"]
        assert emitted[0]["itl_ns"] is None
        times = [ends[s["iteration"]] for s in emitted]
        assert [s["itl_ns"] for s in emitted[1:]] == [b - a for a, b in itertools.pairwise(times)]


def test_sigterm_ends_the_run_cleanly_and_keeps_what_was_done(tmp_path: Path):
    run_dir = write_spec(tmp_path / "cancelled", [request(0, max_tokens=900), request(1, arrival_ns=3600 * 10**9)])
    worker = start(run_dir)
    wait_for(
        lambda: (run_dir / "status.json").exists() and status(run_dir).get("progress", {}).get("output_tokens", 0) > 3
    )
    worker.send_signal(signal.SIGTERM)
    output, _ = worker.communicate(timeout=60)
    assert worker.returncode == 0, output
    final = status(run_dir)
    assert final["state"] == "cancelled"
    assert "unfinished" in final["labels"]
    assert final["summary"]["requests"]["cancelled"] == 2
    ended = {r["request_id"]: r for r in rows(run_dir, "request")}
    assert ended["r0"]["end_reason"] == ended["r1"]["end_reason"] == "cancelled"
    assert len(ended["r0"]["output_token_ids"]) == final["summary"]["output_tokens"] > 3
    assert ended["r1"]["first_token_ns"] is None


def test_time_limit_stops_the_run(tmp_path: Path):
    run_dir = write_spec(tmp_path / "limited", [request(0), request(1, arrival_ns=3600 * 10**9)], time_limit_s=0.3)
    start(run_dir).communicate(timeout=60)
    final = status(run_dir)
    assert (final["state"], final["error"]["kind"]) == ("cancelled", "time limit")


def test_spare_worker_waits_and_then_serves(tmp_path: Path):
    spare = subprocess.Popen(
        [sys.executable, "-m", "engine.worker", "--spare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert spare.stdin is not None
    assert spare.stdout is not None
    assert spare.stdout.readline() == "ready\n"
    run_dir = write_spec(tmp_path / "spared", [request(0)])
    spare.stdin.write(f"{run_dir}\n")
    spare.stdin.flush()
    assert spare.wait(timeout=60) == 0
    assert status(run_dir)["state"] == "finished"


def test_spare_worker_that_is_not_needed_goes(tmp_path: Path):
    spare = subprocess.Popen(
        [sys.executable, "-m", "engine.worker", "--spare"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert spare.communicate(timeout=60)[0] == "ready\n"
    assert spare.returncode == 0


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"requests": []}, "requests", "at least 1 item"),
        ({"engine": {"chunked_prefill": {"token_budget": 0}}}, "engine.chunked_prefill.token_budget", "greater than or equal to 1"),
        ({"engine": {"block_size": "many"}}, "engine.block_size", "valid integer"),
        ({"engine": {"speed": "fast"}}, "engine.speed", "not permitted"),
        ({"engine": {"model": "random:enormous"}}, "model", "random:enormous"),
        ({"engine": {"model": "no/such-directory-here"}}, "model", "no/such-directory-here"),
        ({"engine": {"model": "random:tiny", "device": "cuda"}}, "device", "GPU"),
        ({"engine": {"model": "random:tiny", "kv_blocks": 1}}, "kv_blocks", "2 blocks"),
        ({"engine": {"model": "random:tiny", "max_model_len": 10**6}}, "max_model_len", "at most"),
        ({"requests": [{"request_id": "long", "prompt_token_ids": [9] * 5000}]}, "requests[long].prompt", "leaves no room"),
        ({"requests": [{"request_id": "odd", "prompt_token_ids": [10**9]}]}, "requests[odd].prompt_token_ids", "vocabulary"),
        ({"requests": [{"request_id": "a", "prompt": "x", "after": "nobody"}]}, "after", "does not exist"),
        ({"requests": [{"request_id": "a", "prompt": "x"}] * 2}, "request_id", "two requests"),
    ],
)  # fmt: skip
def test_bad_spec_fails_with_field_value_and_mend(change, field, words, tmp_path: Path, monkeypatch):
    from engine import worker

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = json.loads(RunSpec(run_id="bad", scenario="test", engine=TINY, requests=(request(0),)).model_dump_json())
    spec |= {k: v for k, v in change.items() if k != "engine"}
    spec["engine"] |= change.get("engine", {})
    run_dir = tmp_path / "bad"
    run_dir.mkdir()
    (run_dir / "spec.json").write_text(json.dumps(spec))
    assert worker.run(run_dir) == 1
    final = status(run_dir)
    assert final["state"] == "failed"
    assert final["error"]["field"] == field
    assert words in final["error"]["message"] + str(final["error"]["value"])
    assert final["error"]["mend"]


def test_a_spec_that_is_not_json_fails_readably(tmp_path: Path):
    run_dir = tmp_path / "torn"
    run_dir.mkdir()
    (run_dir / "spec.json").write_text('{"spec_version": 1, "run')
    worker = start(run_dir)
    worker.communicate(timeout=60)
    assert worker.returncode == 1
    assert status(run_dir)["error"]["kind"] == "bad-spec"


def test_starting_a_run_does_not_import_transformers():
    code = "import engine.worker, sys; print([m for m in sys.modules if m.split('.')[0] in ('transformers', 'streamlit', 'duckdb')])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
