"""Every workload that shares prefixes, served end to end by the embedded model: prefixes are found, answers do not change."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.home import Home
from tests.app.lab_process import servescope

pytestmark = pytest.mark.slow
SMALLER = {
    "shared-prompt": ("workload.requests=4", "workload.prompt.words=120", "workload.arrivals.rate=50"),
    "documents": ("workload.requests=8", "workload.prompt.words=60", "workload.prompt.documents=3", "kv_blocks=200"),
    "few-shot": ("workload.requests=5", "workload.prompt.examples=6", "workload.arrivals.rate=50"),
    "multi-turn": (
        "workload.requests=6",
        "workload.prompt.people=3",
        "workload.prompt.words=30",
        "workload.arrivals.clients=3",
        "workload.arrivals.think_s=0",
        "workload.arrivals.stagger_s=0",
    ),
}
MOONCAKE = """
title: A recorded service
summary: Arrivals, lengths and shared prefixes of a trace.
question: How much of what people ask was asked before?
workload:
  groups:
    users:
      requests: 5
      arrivals: {kind: trace, path: trace.jsonl, speed: 20}
      prompt: {kind: trace-blocks}
      prompt_tokens: {kind: trace, scale: 0.0625}
      output_tokens: {kind: trace, scale: 0.1, high: 4}
      ignore_eos: true
"""


def served(home: Home, scenario: str, sharing: str, settings: tuple[str, ...]) -> dict:
    words = [word for setting in (f"prefix_sharing={sharing}", *settings) for word in ("--set", setting)]
    done = servescope(home, "run", scenario, *words, "--set", "threads=1", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["requests"]["finished"] == result["requests"]["total"] > 0
    assert "random weights" not in result["labels"]
    return result


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=() if name in ("shared-prompt", "multi-turn") else pytest.mark.rare) for name in SMALLER],
)
@pytest.mark.rare
def test_a_built_in_workload_finds_its_prefixes(name: str, tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    settings = (*SMALLER[name], "workload.output_tokens=4", "dtype=float32")
    on, off = (served(home, name, sharing, settings) for sharing in ("on", "off"))
    assert on["prefix_hit_tokens"] > 0
    assert off["prefix_hit_tokens"] == 0
    assert on["workload_hash"] == off["workload_hash"]
    if name != "multi-turn":  # there, each turn holds the answers drawn beforehand, and who comes first may differ
        assert on["output_digest"] == off["output_digest"]


def test_a_recorded_trace_is_replayed_with_its_sharing(tmp_path: Path) -> None:
    home = Home(tmp_path / "home").prepare()
    lines = [
        {"timestamp": 500 * n, "input_length": 1500, "output_length": 40, "hash_ids": [0, 1, 10 + n]} for n in range(5)
    ]
    (tmp_path / "trace.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (tmp_path / "replay.yaml").write_text(MOONCAKE)
    result = served(home, str(tmp_path / "replay.yaml"), "on", ())
    assert result["prefix_hit_tokens"] == 4 * 64, "of four requests the two blocks that the first had"
