"""One run, one answer: the page, the board's last figures, the metrics, the lists and the reports say what the command line says."""

from __future__ import annotations

import asyncio
import json
import re
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.exports.report import run_report
from app.lab import Lab
from app.runs.listing import entry
from app.runs.result import result_of
from app.server.live_view import LiveView, Message, SharedView, Told
from app.server.openmetrics import metrics_page
from app.server.serve import PAGE
from app.words.plain import milliseconds
from app.words.text import number
from store import queries
from store.samples import read_samples
from store.summary import LATENCIES, latencies_of
from telemetry.status import read_status
from tests.apart import apart
from tests.app.lab_process import lab_here
from tests.app.small_runs import endless_spec, small_spec, spooled, wait_for, wait_for_state

LAB = str(PAGE)
RUNS = ("shared", "cut-short")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with a finished run and a cancelled one."""
    with lab_here(tmp_path_factory.mktemp("answers")) as opened:
        opened.submit(
            small_spec(
                "shared",
                requests=12,
                tokens=30,
                prefix_sharing={},
                speculation={"proposer": "prompt-lookup"},
                attention_backend="gathered",
            )
        )
        wait_for_state(opened.home, "shared", "finished")
        opened.submit(endless_spec("cut-short"))
        wait_for_state(opened.home, "cut-short", "running")
        wait_for(lambda: spooled(opened.home.run_dir("cut-short")) > 0)
        opened.queue.cancel("cut-short")
        wait_for_state(opened.home, "cut-short", "cancelled")
        wait_for(lambda: all(opened.figures(run, read_status(opened.home.run_dir(run)))["final"] for run in RUNS))
        yield opened


@pytest.fixture(scope="module", params=RUNS)
def run(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def answer(lab: Lab, run: str) -> dict[str, Any]:
    """What ``servescope show RUN --json`` prints."""
    return result_of(lab.home, run)


def shown(run: str, tab: str = "Charts") -> AppTest:
    page = AppTest.from_file(LAB, default_timeout=60)
    page.query_params["run"] = run
    page.query_params["tab"] = tab
    page.run()
    assert not page.exception
    return page


def test_the_answer_is_whole(answer: dict[str, Any]) -> None:
    for name in LATENCIES:
        assert {"p50", "p90", "p95", "p99", "mean", "max", "count"} == set(answer[name])
    for name in ("ttft_ms", "itl_ms"):
        figures = answer[name]
        assert figures["p50"] <= figures["p90"] <= figures["p95"] <= figures["p99"] <= figures["max"]
    counts = answer["requests"]
    assert counts["finished"] + counts["failed"] + counts["cancelled"] == counts["total"]


def test_every_figure_of_the_page_is_the_command_lines(lab: Lab, run: str, answer: dict[str, Any]) -> None:
    page = shown(run)
    tiles = {metric.label: metric.value for metric in page.metric}
    assert tiles["Output tok/s"] == f"{answer['output_tokens_per_s']:,.1f}"
    for label, name in (("TTFT", "ttft_ms"), ("ITL", "itl_ms")):
        for share in ("p50", "p99"):
            assert tiles[f"{label} {share}"] == milliseconds(answer[name][share])
    counts = answer["requests"]
    assert tiles["Requests done"] == f"{counts['finished']} of {counts['total']}"
    table = next(frame.value for frame in shown(run, "Latency").dataframe if "p99" in frame.value.columns)
    for row, name in zip(table.to_dict("records"), latencies_of(answer), strict=True):
        for share, value in answer[name].items():
            column = "samples" if share == "count" else share
            expected = float("nan") if value is None else round(value, 1)
            assert row[column] == pytest.approx(expected, nan_ok=True), (name, share)
    assert f"{answer['stalls']:,} stall" in "\n".join(str(caption.value) for caption in page.caption).replace("\\", "")


def test_the_boards_last_figures_are_the_command_lines(lab: Lab, run: str, answer: dict[str, Any]) -> None:
    view, client = LiveView(lab, run), Told()
    told = [json.loads(message) for _ in range(3) for message in view.news([client])[0] if isinstance(message, str)]
    figures = [message for message in told if message["type"] == "figures"][-1]
    assert figures["final"]
    assert client.at_rest
    assert figures["tokens_per_s"] == answer["output_tokens_per_s"]
    for name in ("ttft_ms", "itl_ms", "stalls", "requests"):
        assert figures[name] == answer[name]
    assert figures["capacity"]["tokens"] == answer["kv_capacity_tokens"]
    status = next(message for message in told if message["type"] == "status")
    assert "in_flight" not in status
    assert status["summary"]["requests"] == answer["requests"]


def test_a_rooms_viewers_are_told_the_same_and_one_that_was_away_what_it_missed(lab: Lab, run: str) -> None:
    early, late = Told(), Told({"token": 3})

    async def rounds() -> tuple[list[list[Message]], list[list[Message]], bool]:
        room = SharedView(lab, run, 0.01)
        first = await asyncio.gather(room.news(early), room.news(Told()), room.news(late))
        for _ in range(100):
            if early.at_rest:
                break
            await room.news(early)
        second = await asyncio.gather(room.news(early), room.news(late))
        return first, second, room.in_use

    first, second, in_use = apart(lambda: asyncio.run(rounds()))
    assert first[0] == first[1]
    assert {id(m) for m in first[0]} == {id(m) for m in first[1]}, "encoded once"
    whole, part = (
        next(m for m in one if b'"token"' in m[:40]) for one in ([*map(as_bytes, first[0])], [*map(as_bytes, first[2])])
    )
    (size,) = struct.unpack("<I", part[:4])
    header = json.loads(part[4 : 4 + size])
    assert header["first"] == 3
    assert len(part) < len(whole)
    assert early.cursor == late.cursor
    assert second[0] == []
    assert in_use


def as_bytes(message: Message) -> bytes:
    return message if isinstance(message, bytes) else b""


def test_a_board_that_followed_to_the_end_had_the_same_run_before_it(
    lab: Lab, run: str, answer: dict[str, Any]
) -> None:
    figures = lab.live(run).figures()
    for name in ("ttft_ms", "itl_ms"):
        assert figures[name]["count"] == answer[name]["count"]
        assert figures[name]["max"] == pytest.approx(answer[name]["max"])
        assert figures[name]["p50"] == pytest.approx(answer[name]["p50"], rel=0.3)
        assert figures[name]["p99"] <= figures[name]["max"]
    assert figures["stalls"] == answer["stalls"]


def test_the_metrics_page_counts_the_same(lab: Lab, answer: dict[str, Any], run: str, monkeypatch: Any) -> None:
    monkeypatch.setattr("app.server.openmetrics._newest", lambda lab: run)
    samples = {name: float(value) for name, value in re.findall(r"^([\w:]+)\{[^}]*\} (\S+)$", metrics_page(lab), re.M)}
    for name, value in (
        ("servescope_iterations_total", answer["iterations"]),
        ("vllm:generation_tokens_total", answer["output_tokens"]),
        ("vllm:num_preemptions_total", answer["preemptions"]),
        ("vllm:prefix_cache_hits_total", answer["prefix_hit_tokens"]),
        ("vllm:spec_decode_num_draft_tokens_total", answer["draft_tokens"]),
        ("vllm:spec_decode_num_accepted_tokens_total", answer["accepted_tokens"]),
        ("vllm:time_to_first_token_seconds_count", answer["ttft_ms"]["count"]),
        ("vllm:inter_token_latency_seconds_count", answer["itl_ms"]["count"]),
        ("vllm:e2e_request_latency_seconds_count", answer["e2e_ms"]["count"]),
    ):
        assert samples[name] == value, name
    for name, key in (("time_to_first_token", "ttft_ms"), ("inter_token_latency", "itl_ms")):
        mean_ms = 1e3 * samples[f"vllm:{name}_seconds_sum"] / samples[f"vllm:{name}_seconds_count"]
        assert mean_ms == pytest.approx(answer[key]["mean"], rel=1e-6)


def test_the_metrics_page_has_what_a_rate_needs(lab: Lab, run: str, answer: dict[str, Any], monkeypatch: Any) -> None:
    monkeypatch.setattr("app.server.openmetrics._newest", lambda lab: run)
    lines = re.findall(r"^vllm:([\w]+?)_total\{[^}]*\} (\S+)$", metrics_page(lab), re.M)
    samples = {name: [float(value) for key, value in lines if key == name] for name, _ in lines}
    with lab.cursor() as con:
        asked = con.execute(
            "SELECT sum(prompt_tokens) FILTER (first_token_ns IS NOT NULL), sum(prompt_tokens) FILTER (first_scheduled_ns IS NOT NULL) "
            "FROM requests WHERE run_id = ?",
            [run],
        ).fetchall()[0]
        drafts = con.execute("SELECT count(*) FROM slices WHERE run_id = ? AND drafted > 0", [run]).fetchall()[0][0]
    assert samples["prompt_tokens"] == [asked[0]], "cached tokens are prompt tokens too"
    assert samples["prefix_cache_queries"] == [asked[1] if run == "shared" else 0]
    assert samples["prefix_cache_hits"][0] < max(1, samples["prefix_cache_queries"][0])
    assert samples["spec_decode_num_drafts"] == [drafts]
    accepted = samples.get("spec_decode_num_accepted_tokens_per_pos", [])
    assert sum(accepted) == answer["accepted_tokens"]
    assert accepted == sorted(accepted, reverse=True), "a guess is accepted only after those before it"
    assert bool(accepted) == bool(drafts) == (run == "shared")


def test_lists_reports_and_comparisons_say_it_too(lab: Lab, run: str, answer: dict[str, Any]) -> None:
    assert entry(lab.home, run)["requests_done"] == answer["requests_done"] == answer["requests"]["finished"]
    with lab.cursor() as con:
        assert queries.summary(con, run) == {key: answer[key] for key in queries.summary(con, run) or {}}
        totals = read_samples(con, run).totals
        text = run_report(con, run)
    assert totals["itl_ms"] == answer["itl_ms"]["p50"]
    assert totals["itl_ms_p99"] == answer["itl_ms"]["p99"]
    assert totals["stalls"] == answer["stalls"]
    assert totals["output_tokens_per_s"] == pytest.approx(answer["output_tokens_per_s"])
    assert f"{answer['requests']['finished']} of {answer['requests']['total']} requests finished" in text
    for name in LATENCIES:
        for share in ("p50", "p99", "max"):
            assert f">{number(answer[name][share])}<" in text, (name, share)


def test_a_cancelled_run_counts_what_was_finished_everywhere(lab: Lab) -> None:
    answer, status = result_of(lab.home, "cut-short"), read_status(lab.home.run_dir("cut-short"))
    counts = answer["requests"]
    assert counts["cancelled"] == counts["total"] - counts["finished"] > 0
    assert status["progress"]["requests_done"] == counts["finished"]
    assert status["progress"]["requests_ended"] == counts["total"]
    assert status["in_flight"] is None


def test_a_run_has_as_many_stalls_beside_another_as_on_its_own_page(lab: Lab) -> None:
    lab.submit(small_spec("flipped", requests=12, tokens=30, prefix_sharing={}))
    wait_for_state(lab.home, "flipped", "finished")
    wait_for(lambda: lab.figures("flipped", read_status(lab.home.run_dir("flipped")))["final"])
    own = result_of(lab.home, "shared")
    said = "\n".join(str(caption.value) for caption in shown("flipped").caption).replace("\\", "")
    before = re.search(r"Before \([^)]*\): (\d[\d,]*) stalls?, longest gap ([^.]+\.?\d* \S+)\.", said)
    assert before is not None, said
    assert (before[1], before[2]) == (f"{own['stalls']:,}", milliseconds(own["itl_ms"]["max"]))
