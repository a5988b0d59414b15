"""Load generators and a harness of others, from PyPI in environments of their own, before an open door (``make test-clients``).

They finish without an error, their token counts equal ours, and what they measure agrees with the run's rows within what they add: their
own process, their HTTP client and this machine's load, so times are held loosely and written out.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config.models import embedded_dir
from tests.app.door.door_process import DoorProcess
from tests.app.small_runs import wait_for

CLIENTS = os.environ.get("SERVESCOPE_CLIENTS", "")
pytestmark = pytest.mark.skipif(not CLIENTS, reason="make test-clients runs it")
ADDED_MS = 500.0  # what a client may add to a time to first token, on a machine that serves and asks at once
SETTINGS = ("device=cpu", "dtype=float32", "kv_blocks=600", "max_num_seqs=4")
QUESTIONS = (
    {"q": "The capital of France is", "choices": [" Paris", " Berlin", " Rome", " Madrid"], "gold": 0},
    {"q": "Two plus two equals", "choices": [" five", " four", " nine", " one"], "gold": 1},
    {"q": "Water freezes at zero degrees", "choices": [" Celsius", " Kelvin", " Newton", " Joule"], "gold": 0},
)
TASK = """
task: few_questions
dataset_path: json
dataset_kwargs:
  data_files: {data}
output_type: multiple_choice
test_split: train
doc_to_text: "{{{{q}}}}"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
target_delimiter: ""
metric_list:
  - metric: acc
"""


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory, embedded_model_dir: Path) -> Iterator[DoorProcess]:
    opened = DoorProcess.open(tmp_path_factory.mktemp("door"), settings=SETTINGS)
    yield opened
    opened.close()


def run(client: str, *arguments: str, **environment: str) -> str:
    """A client's program; what it said. It asks nobody but the door."""
    program, *rest = arguments
    done = subprocess.run(
        [str(Path(CLIENTS).resolve() / client / "bin" / program), *rest],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment | {"NO_PROXY": "127.0.0.1"},
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def served_after(door: DoorProcess, before: int, count: int) -> list[dict[str, Any]]:
    """The rows of ``count`` requests more than ``before``, in order of arrival."""
    wait_for(lambda: len(door.rows("request")) >= before + count)
    return sorted(door.rows("request"), key=lambda row: row["request"])[before:]


def ttft_ms(row: dict[str, Any]) -> float:
    return (row["first_token_ns"] - row["arrival_ns"]) / 1e6


def test_lm_eval_reads_the_log_probabilities_that_transformers_gives(door: DoorProcess, tmp_path: Path) -> None:
    (tmp_path / "questions.jsonl").write_text("\n".join(map(json.dumps, QUESTIONS)))
    (tmp_path / "few_questions.yaml").write_text(TASK.format(data=tmp_path / "questions.jsonl"))
    usual = ("--tasks", "few_questions", "--include_path", str(tmp_path), "--log_samples")
    models = {
        "local-completions": f"base_url={door.url}/v1/completions,model={door.model},tokenizer={embedded_dir()}",
        "hf": f"pretrained={embedded_dir()},dtype=float32",
    }
    told = {}
    for model, arguments in models.items():
        where = tmp_path / model
        given = ("--model", model, "--model_args", arguments, "--device", "cpu", "--output_path", str(where))
        run("lm-eval", "lm_eval", *given, *usual, HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1")
        (samples,) = where.rglob("samples_*.jsonl")
        answers = [json.loads(line) for line in samples.read_text().splitlines()]
        told[model] = [(float(value), greedy) for each in answers for value, greedy in each["filtered_resps"]]
    ours, theirs = told.values()
    assert len(ours) == 12
    assert [value for value, _ in ours] == pytest.approx([value for value, _ in theirs], abs=1e-3)
    assert [greedy for _, greedy in ours] == [greedy for _, greedy in theirs]


def test_aiperf_measures_what_the_rows_say(door: DoorProcess, tmp_path: Path) -> None:
    before = len(door.rows("request"))
    options = ("--endpoint-type", "chat", "--streaming", "--concurrency", "2", "--request-count", "6", "--ui", "none")
    options += ("--isl", "40", "--osl", "12", "--extra-inputs", "ignore_eos:true", "--artifact-dir", str(tmp_path))
    run("aiperf", "aiperf", "profile", "-m", door.model, "-u", door.url, "--tokenizer", str(embedded_dir()), *options)
    told = [json.loads(line) for line in (tmp_path / "profile_export.jsonl").read_text().splitlines()]
    told.sort(key=lambda each: each["metadata"]["request_start_ns"])
    rows = [row for row in served_after(door, before, 6) if row["output_tokens"] == 12]
    assert [each["metrics"]["usage_completion_tokens"]["value"] for each in told] == [12] * 6
    pairs = zip(
        sorted(each["metrics"]["time_to_first_token"]["value"] for each in told),
        sorted(map(ttft_ms, rows)),
        strict=True,
    )
    agree(pairs)


def test_guidellm_measures_what_the_rows_say(door: DoorProcess, tmp_path: Path) -> None:
    before = len(door.rows("request"))
    options = ("--backend", f"kind=openai_http,target={door.url}", "--profile", "kind=synchronous")
    options += ("--constraint", "kind=max_requests,count=4", "--tokenizer", f"kind=hf_auto,model={embedded_dir()}")
    options += ("--data", "kind=synthetic_text,prompt_tokens=32,output_tokens=12", "--disable-console-interactive")
    run("guidellm", "guidellm", "run", *options, "--output", f"kind=json,path={tmp_path / 'report.json'}")
    report = json.loads((tmp_path / "report.json").read_text())["benchmarks"][0]
    told = report["requests"]["successful"]
    rows = [row for row in served_after(door, before, 4) if row["output_tokens"] == 12]
    assert len(told) == 4
    assert {each["output_tokens"] for each in told} == {12}
    agree(zip(sorted(each["time_to_first_token_ms"] for each in told), sorted(map(ttft_ms, rows)), strict=True))


def agree(pairs: Iterator[tuple[float, float]]) -> None:
    """Times to first token of a client and of the rows, each in order."""
    for theirs, ours in pairs:
        print(f"TTFT: client {theirs:.1f} ms, rows {ours:.1f} ms")
        assert ours <= theirs <= ours + ADDED_MS
