"""Reports of GuideLLM, AIPerf and ``vllm bench serve``, written here from their formats: taken in and set beside ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.errors import LabError
from app.exports.import_report import import_report
from app.exports.load_reports import read_reports
from app.home import Home
from app.runs.result import result_of
from tests.app.lab_process import asked_here, lab_here
from tests.app.pages.test_page_reports import page_of, said
from tests.examples import examples


def spread(middle: float, **more: Any) -> dict[str, Any]:
    shares = {"p25": middle * 0.8, "p50": middle, "p90": middle * 2, "p95": middle * 2.5, "p99": middle * 3}
    return {"successful": {"mean": middle * 1.1, "max": middle * 4, "count": 20, "percentiles": shares} | more,
            "errored": None}  # fmt: skip


GUIDELLM = {
    "metadata": {"version": 2, "guidellm_version": "0.8.1"},
    "config": {"backend": {"kind": "openai_http", "model": "the/model"}},
    "benchmarks": [
        {
            "type_": "generative_benchmark",
            "config": {"strategy": {"type_": "constant", "rate": rate}},
            "duration": 10.0,
            "metrics": {
                "request_totals": {"successful": 20, "incomplete": 1, "errored": 2, "total": 23},
                "request_latency": spread(0.5),
                "time_to_first_token_ms": spread(50.0),
                "inter_token_latency_ms": spread(5.0),
                "time_per_output_token_ms": spread(7.0),
                "output_token_count": spread(64, total_sum=1280.0),
                "prompt_token_count": spread(100, total_sum=2000.0),
            },
        }
        for rate in (2.0, 4.0)
    ],
}


def metric(unit: str, average: float, **more: float) -> dict[str, Any]:
    return {"unit": unit, "avg": average} | more


AIPERF = {
    "schema_version": "1.4",
    "aiperf_version": "0.13.0",
    "input_config": {"endpoint": {"model_names": ["the/model"]}},
    "request_latency": metric("ms", 400.0, p50=390.0, p90=500.0, p95=550.0, p99=600.0, max=700.0, count=50),
    "time_to_first_token": metric("ms", 40.0, p50=39.0, p99=60.0, count=50),
    "inter_token_latency": metric("ms", 6.0, p50=5.5, p99=9.0, count=50),
    "inter_chunk_latency": metric("ns", 6.1e6, p50=5.6e6, p99=19.0e6, count=3000),
    "output_token_throughput": metric("tokens/sec", 321.5),
    "request_count": metric("requests", 50.0),
    "total_osl": metric("tokens", 3200.0),
    "benchmark_duration": metric("sec", 9.95),
}
VLLM = {
    "date": "20261128-031500",
    "backend": "openai",
    "model_id": "the/model",
    "request_rate": "inf",
    "duration": 12.5,
    "completed": 3,
    "failed": 1,
    "total_input_tokens": 300,
    "total_output_tokens": 150,
    "request_throughput": 0.24,
    "output_throughput": 12.0,
    "mean_ttft_ms": 30.0,
    "median_ttft_ms": 28.0,
    "p99_ttft_ms": 44.0,
    "mean_tpot_ms": 9.0,
    "median_tpot_ms": 8.5,
    "p99_tpot_ms": 12.0,
    "mean_itl_ms": 9.2,
    "median_itl_ms": 8.8,
    "p99_itl_ms": 33.0,
}
RECORDED = Path(__file__).parent / "recorded"
KINDS = {"guidellm": GUIDELLM, "aiperf": AIPERF, "vllm": VLLM}


def written(folder: Path, told: Any, name: str = "report.json") -> Path:
    (folder / name).write_text(json.dumps(told))
    return folder / name


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


def test_guidellms_words_are_ours_by_meaning_and_each_rate_is_a_run(home: Home, tmp_path: Path) -> None:
    imported = import_report(home, written(tmp_path, GUIDELLM))
    assert len(imported.runs) == 2
    first, second = (result_of(home, run_id) for run_id in imported.runs)
    assert first["title"] == "Report of GuideLLM 0.8.1, the/model, constant 2 requests/s"
    assert second["title"].endswith("constant 4 requests/s")
    assert first["status"] == "finished"
    assert {"foreign", "client's clock"} <= set(first["labels"])
    assert first["ttft_ms"] == pytest.approx(
        {"p50": 50, "p90": 100, "p95": 125, "p99": 150, "mean": 55, "max": 200, "count": 20}
    )
    assert first["e2e_ms"]["p50"] == 500, "seconds become milliseconds"
    assert first["tpot_ms"]["p50"] == 5, "a mean over each request's tokens is TPOT here"
    assert first["itl_ms"]["p50"] is None
    assert first["output_tokens_per_s"] == 128
    assert first["requests"] == {"total": 22, "finished": 20, "failed": 2, "cancelled": 0}


def test_aiperfs_gaps_between_chunks_are_itl(home: Home, tmp_path: Path) -> None:
    (run_id,) = import_report(home, written(tmp_path, AIPERF)).runs
    result = result_of(home, run_id)
    assert (result["itl_ms"]["p99"], result["itl_ms"]["count"]) == (pytest.approx(19.0), 3000)
    assert result["tpot_ms"]["p50"] == 5.5
    assert result["ttft_ms"]["p90"] is None, "what a report does not say is not made up"
    assert (result["output_tokens_per_s"], result["output_tokens"]) == (321.5, 3200)


def test_vllms_report_is_read_with_and_without_its_samples(tmp_path: Path) -> None:
    (plain,) = read_reports(written(tmp_path, VLLM))
    assert plain.latencies["ttft_ms"] == {"p50": 28.0, "p99": 44.0, "mean": 30.0, "count": 3.0}
    assert plain.how == "inf requests/s"
    detailed = VLLM | {
        "ttfts": [0.1, 0.2, 0.3, 0.0],
        "itls": [[0.01, 0.03], [0.02], [], []],
        "errors": ["", "", "", "x"],
    }
    (whole,) = read_reports(written(tmp_path, detailed))
    assert whole.latencies["ttft_ms"]["p50"] == pytest.approx(200), "a request that failed is no sample"
    assert whole.latencies["ttft_ms"]["count"] == 3
    assert whole.latencies["itl_ms"]["p50"] == pytest.approx(20)
    assert whole.latencies["tpot_ms"]["p50"] == 8.5


def test_vllms_own_report_gives_its_samples_and_its_load() -> None:
    """As ``vllm bench serve --save-result --save-detailed --max-concurrency 2`` of vLLM 0.32 wrote it, without texts and paths."""
    (report,) = read_reports(RECORDED / "vllm_bench_0_32.json")
    told = json.loads((RECORDED / "vllm_bench_0_32.json").read_text())
    assert report.how == "inf requests/s, at most 2 at once"
    assert (report.requests, report.output_tokens, report.prompt_tokens) == ({"finished": 4, "failed": 0}, 24, 96)
    for ours, theirs in (("ttft_ms", "ttft"), ("itl_ms", "itl"), ("tpot_ms", "tpot"), ("e2e_ms", "e2el")):
        stats = report.latencies[ours]
        assert [stats[share] for share in ("p50", "p90", "p99", "mean")] == pytest.approx(
            [told[f"{share}_{theirs}_ms"] for share in ("p50", "p90", "p99", "mean")]
        )
    assert report.latencies["e2e_ms"]["max"] == pytest.approx(1e3 * max(told["latencies"])), "from the samples"
    assert report.latencies["e2e_ms"]["p95"] <= report.latencies["e2e_ms"]["max"]


def test_guidellms_own_report_names_the_model_that_it_asked() -> None:
    """As GuideLLM 0.8.1 wrote it of vLLM 0.32, one request after the other, shortened by whole metrics."""
    (report,) = read_reports(RECORDED / "guidellm_0_8.json")
    assert (report.version, report.model, report.how) == ("0.8.1", "smollm2", "synchronous 1 at once")
    assert (report.requests, report.output_tokens, report.prompt_tokens) == ({"finished": 3, "failed": 0}, 15, 162)
    ttft, e2e, tpot = (report.latencies[name] for name in ("ttft_ms", "e2e_ms", "tpot_ms"))
    assert ttft["mean"] + 4 * tpot["mean"] == pytest.approx(e2e["mean"], rel=1e-4), "five tokens a request"
    assert report.output_tokens_per_s == pytest.approx(15 / 33.0915, rel=1e-4)


def test_aiperfs_own_report_names_the_model_and_its_load() -> None:
    """As AIPerf 0.13.0 wrote it of llama.cpp's server b11434, two requests at once, shortened by whole metrics."""
    (report,) = read_reports(RECORDED / "aiperf_0_13.json")
    assert (report.version, report.model, report.how) == ("0.13.0", "smollm2", "concurrency 2 at once")
    assert (report.requests, report.output_tokens, report.prompt_tokens) == ({"finished": 4, "failed": 0}, 24, 96)
    ttft, itl, e2e = (report.latencies[name] for name in ("ttft_ms", "itl_ms", "e2e_ms"))
    assert (ttft["count"], itl["count"]) == (4, 4 * 5)
    assert ttft["mean"] + 5 * itl["mean"] == pytest.approx(e2e["mean"], rel=1e-4), "six tokens a request"


def test_a_report_is_taken_in_once_and_is_never_paired(home: Home, tmp_path: Path) -> None:
    first = asked_here(home, "import", str(written(tmp_path, AIPERF)), "--json")
    assert first.returncode == 0, first.stderr
    again = json.loads(asked_here(home, "import", str(written(tmp_path, AIPERF)), "--json").stdout)
    assert (again["new"], again["runs"]) == ([], json.loads(first.stdout)["runs"])
    (run_id,) = again["runs"]
    (other,) = import_report(home, written(tmp_path, VLLM)).runs
    beside = asked_here(home, "show", run_id, "--beside", other)
    assert beside.returncode == 1
    assert "tells figures, and not what was asked" in " ".join(beside.stderr.split())


def test_a_report_stands_on_the_pages_beside_runs(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    runs = [run for told in (AIPERF, VLLM) for run in import_report(home, written(tmp_path, told)).runs]
    with lab_here(tmp_path) as lab:
        for run_id in runs:
            lab.collector.ingest_once(run_id)
        page = page_of("live", run=runs[0])
        told = said(page)
        assert "by the clock of its client" in told
        assert "report.json, written by AIPerf 0.13.0: 50 requests finished" in told
        assert list(page.dataframe[0].value["samples"]) == [50, 3000, 50, 50]
        with lab.database.read() as con:
            from store import queries

            figures = queries.figures_of(con, runs)
        assert [figures[run]["ttft_ms"]["p50"] for run in runs] == [39.0, 28.0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "no JSON"),
        ("[" * 100_000, "no JSON"),
        ("[]", "no object"),
        ("{}", "none of these"),
        ('{"benchmarks": []}', "no latency"),
        ('{"benchmarks": [{"metrics": {"time_to_first_token_ms": 3}}, 7]}', "no latency"),
        ('{"aiperf_version": "1", "time_to_first_token": {"unit": "parsec", "avg": 1}}', "no latency"),
        ('{"mean_ttft_ms": 1e999, "request_throughput": 1}', "no latency"),
    ],
)
def test_what_is_no_report_is_refused_and_leaves_nothing(home: Home, tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(LabError) as refused:
        import_report(home, tmp_path / "x.json")
    assert (refused.value.kind, refused.value.field) == ("no-report", "file")
    assert words in refused.value.message
    assert home.run_ids() == []


JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["successful", "avg", "p50"]), inner),
    max_leaves=6,
)


@settings(max_examples=examples(90), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_value_in_any_place_is_read_or_refused(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    told = json.loads(json.dumps(KINDS[kind]))
    at: Any = told
    for _ in range(data.draw(st.integers(0, 4))):
        keys = sorted(at) if isinstance(at, dict) else list(range(len(at))) if isinstance(at, list) else []
        keys = [key for key in keys if isinstance(at[key], dict | list) and at[key]]
        if not keys:
            break
        at = at[data.draw(st.sampled_from(keys))]
    key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else list(range(len(at)))))
    at[key] = data.draw(JSON)
    try:
        reports = read_reports(written(tmp_path, told))
    except LabError:
        return
    for report in reports:
        for stats in report.latencies.values():
            assert all(value >= 0 for value in stats.values())
