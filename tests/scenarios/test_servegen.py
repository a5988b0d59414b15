"""ServeGen's clients: windows become requests at the recorded rates, and what cannot be read is named."""

from __future__ import annotations

import json
import statistics
from itertools import pairwise
from pathlib import Path

import pytest

import scenarios
from engine.config import ConfigError
from scenarios import ScenarioError
from scenarios.streams import stream
from scenarios.traces import servegen

BUSY = "0,2.0,1.0,Gamma,1.0,0.5\n600,4.0,3.0,Weibull,0.4,0.1\n1200,0,0,,0,0\n"
CALM = "0,0.5,0.5,Gamma,4.0,0.5\n600,0,0,,0,0\n1200,0,0,,0,0\n"
LENGTHS = {
    "0": {"input_tokens": "{100: 0.5, 300: 0.5}", "output_tokens": "{7: 0.5, 9: 0.5}", "reason_ratio": "{0.5: 1.0}"},
    "1200": {"input_tokens": "{}", "output_tokens": "{}"},
}
OTHER = {"0": {"input_tokens": "{5: 1.0}", "output_tokens": "{1: 1.0}"}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "m-small"
    folder.mkdir()
    for number, windows, lengths in ((0, BUSY, LENGTHS), (12, CALM, OTHER)):
        (folder / f"chunk-{number}-trace.csv").write_text(windows, encoding="utf-8")
        (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(lengths), encoding="utf-8")
    return folder


def drawn(folder: Path, count: int = 100_000, **keys):
    return servegen.draw(folder, count, stream(0, "clients"), **keys).rows


def test_every_window_has_the_recorded_rates_and_lengths(folder: Path):
    rows = drawn(folder)
    first = [row for row in rows if row.arrival_s < 600]
    busy = [row for row in first if row.prompt_tokens != 5]
    assert (len(busy), len(first) - len(busy)) == (1200, 300)
    assert len(rows) - len(first) == 2400
    assert max(row.arrival_s for row in rows) < 1200
    assert {(row.prompt_tokens, row.output_tokens) for row in busy} == {(100, 7), (300, 9)}
    assert statistics.fmean(row.prompt_tokens == 100 for row in busy) == pytest.approx(0.5, abs=0.05)
    assert [row.arrival_s for row in rows] == sorted(row.arrival_s for row in rows)


def test_gaps_have_the_distribution_of_their_window(folder: Path):
    rows = drawn(folder, clients=1)
    for at, cv in ((0, 1.0), (600, 3.14)):  # of the exponential; of Weibull's distribution with shape 0.4
        times = [row.arrival_s for row in rows if at <= row.arrival_s < at + 600]
        gaps = [b - a for a, b in pairwise(times)]
        assert statistics.stdev(gaps) / statistics.fmean(gaps) == pytest.approx(cv, rel=0.2)


def test_a_rate_for_all_is_shared_out_as_recorded_and_the_busiest_are_chosen(folder: Path):
    slow = [row for row in drawn(folder, rate=1.0) if row.arrival_s < 600]
    assert len(slow) == 600
    assert sum(row.prompt_tokens == 5 for row in slow) == 120
    assert {row.prompt_tokens for row in drawn(folder, clients=1)} == {100, 300}
    assert drawn(folder, 3, from_s=700)[0].arrival_s >= 700


def test_a_scenario_draws_the_same_requests_from_the_same_seed(folder: Path):
    path = folder.parent / "mine.yaml"
    path.write_text(
        """
title: A
summary: B
question: C?
workload:
  groups:
    users:
      requests: 20
      arrivals: {kind: servegen, path: m-small, rate: 4, speed: 2}
      prompt: {kind: tokens}
      prompt_tokens: {kind: trace, scale: 0.1}
      output_tokens: {kind: trace}
""",
        encoding="utf-8",
    )
    spec, again = scenarios.build(path), scenarios.build(path)
    assert spec.workload_hash == again.workload_hash
    assert scenarios.build(path, {"seed": "1"}).workload_hash != spec.workload_hash
    assert {len(r.prompt_token_ids) for r in spec.requests} <= {1, 10, 30}
    assert 1e9 < spec.requests[-1].arrival_ns < 6e9  # 20 requests at 8 a second
    assert spec.licences == {"m-small": servegen.LICENCE}
    with pytest.raises(ScenarioError, match="has 3900 usable rows, 4000 are needed"):
        scenarios.build(path, {"workload.users.requests": "4000", "workload.users.arrivals.rate": "none"})


MEDIA = {"0": {"text_tokens": "{1: 1.0}", "output_tokens": "{1: 1.0}", "image_count": "{1: 1.0}"}}


@pytest.mark.parametrize(
    ("file", "text", "named"),
    [
        ("chunk-0-trace.csv", "0,2.0,1.0,Gamma,1.0\n600,0,0,,0,0\n", "a window has 6 values"),
        ("chunk-0-trace.csv", "0,2.0,1.0,Pareto,1.0,0.5\n600,0,0,,0,0\n", "Gamma, Weibull"),
        ("chunk-0-trace.csv", "0,-2,1.0,Gamma,1.0,0.5\n600,0,0,,0,0\n", "rate is missing"),
        ("chunk-0-trace.csv", "0,2,1.0,Gamma,0,0.5\n600,0,0,,0,0\n", "must be above 0"),
        ("chunk-0-trace.csv", "0,2,1.0,Gamma,1,0.5\n", "only one"),
        ("chunk-12-trace.csv", "300,2,1.0,Gamma,1,0.5\n", "no window that begins at 0 s"),
        ("chunk-0-trace.csv", "version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("chunk-0-dataset.json", "version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
        ("chunk-0-dataset.json", "[1]", "not a JSON object"),
        ("chunk-0-dataset.json", '{"0": {"output_tokens": "{1: 1.0}"}}', "input_tokens gives no lengths"),
        ("chunk-0-dataset.json", '{"0": {"input_tokens": "{x: 1}"}}', "length is missing or not a number"),
        ("chunk-0-dataset.json", json.dumps(MEDIA), "other media than text (image_count"),
    ],
)
def test_what_cannot_be_read_is_refused_by_file_and_name(folder: Path, file: str, text: str, named: str):
    (folder / file).write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        drawn(folder)
    assert named in caught.value.message
    assert file in str(caught.value.value) or file in caught.value.field
    assert caught.value.mend


def test_a_folder_without_clients_says_what_would_be_one(tmp_path: Path):
    with pytest.raises(ConfigError, match="no folder of ServeGen's clients") as caught:
        drawn(tmp_path)
    assert "m-small" in caught.value.mend
