"""Every metric against numbers worked out by hand."""

from __future__ import annotations

import re
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from row_maker import iteration_values, make_run, request_values, set_status

from store import queries
from store.database import Database
from store.ingest import Collector
from store.metrics import METRICS, STALL_MS, carries, percentile, request_latencies, too_few, too_few_in_words
from store.summary import latencies_of
from telemetry.recorder import Recorder
from telemetry.rows import END_REASONS

MS = 1_000_000

# four requests on paper: arrival, first scheduled, first token, end (ms), output tokens, end reason
PAPER = [
    (0, 5, 20, 120, 11, "length"),  # delay 5, ttft 20, tpot 100/10 = 10, e2e 120, 120/11 per token
    (10, 40, 50, 50, 1, "stop"),  # delay 30, ttft 40, one token: no tpot, e2e 40, 40 per token
    (20, 30, 60, 160, 3, "stop_string"),  # delay 10, ttft 40, tpot 100/2 = 50, e2e 140, 140/3 per token
    (30, 50, 80, 90, 2, "cancelled"),  # delay 20, ttft 50, gave up: no tpot, no e2e
    (40, None, None, 45, 0, "failed"),  # never got anywhere
]


@pytest.fixture
def summary_and_requests(tmp_path: Path):
    run_dir = make_run(tmp_path / "runs", "paper")
    with Recorder(run_dir) as recorder:
        for k, (arrival, scheduled, first, end, tokens, reason) in enumerate(PAPER):
            times = {"arrival_ns": arrival * MS, "end_ns": end * MS}
            times["first_scheduled_ns"] = None if scheduled is None else scheduled * MS
            times["first_token_ns"] = None if first is None else first * MS
            recorder.request(**request_values(k, output_tokens=tokens, end_reason=reason, **times))
        for i in range(16):  # steps of 10 ms from 0 to 160 ms, 17 tokens in all, the peak in the middle
            emitted = 2 if i == 3 else 1
            recorder.iteration(
                **iteration_values(i, emitted_tokens=emitted, kv_tokens=100 + i if i < 9 else 50, preempted=i == 4)
            )
        recorder.slices(
            0,
            request=range(5),
            kind="decode",
            tokens=1,
            context_len=0,
            emitted=1,
            itl_ns=[None, 10 * MS, 20 * MS, 30 * MS, 40 * MS],
        )
    set_status(run_dir, "finished")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        Collector(tmp_path / "runs", database).ingest_once("paper")
        yield queries.summary(con, "paper"), queries.requests(con, "paper").to_pylist()


def test_request_metrics(summary_and_requests) -> None:
    _, rows = summary_and_requests
    assert [r["scheduling_delay_ms"] for r in rows] == [5, 30, 10, 20, None]
    assert [r["ttft_ms"] for r in rows] == [20, 40, 40, 50, None]
    assert [r["tpot_ms"] for r in rows] == [10, None, 50, None, None]
    assert [r["e2e_ms"] for r in rows] == [120, 40, 140, None, None]
    assert [r["normalized_latency_ms"] for r in rows] == [
        pytest.approx(120 / 11),
        40,
        pytest.approx(140 / 3),
        None,
        None,
    ]


def test_summary_figures(summary_and_requests) -> None:
    summary, _ = summary_and_requests
    # ttft 20 40 40 50: rank 0.9 * 3 = 2.7 lies 0.7 of the way from 40 to 50
    assert summary["ttft_ms"] == {
        **{"p50": 40, "p90": pytest.approx(47), "p95": pytest.approx(48.5), "p99": pytest.approx(49.7)},
        **{"mean": 37.5, "max": 50, "count": 4},
    }
    assert summary["itl_ms"] == {
        **{"p50": 25, "p90": pytest.approx(37), "p95": pytest.approx(38.5), "p99": pytest.approx(39.7)},
        **{"mean": 25, "max": 40, "count": 4},
    }
    assert summary["stalls"] == 0
    assert summary["tpot_ms"]["p50"] == summary["tpot_ms"]["mean"] == 30
    assert summary["e2e_ms"]["p50"] == 120
    assert summary["output_tokens"] == 17
    assert summary["output_tokens_per_s"] == pytest.approx(17 / 0.160)  # first arrival at 0, last emission at 160 ms
    assert summary["requests"] == {"total": 5, "finished": 3, "failed": 1, "cancelled": 1}
    assert summary["iterations"] == 16
    assert summary["preemptions"] == 1
    assert summary["peak_kv_tokens"] == 108


def test_summary_has_exactly_the_keys_scripts_rely_on(summary_and_requests) -> None:
    summary, _ = summary_and_requests
    assert list(summary) == [
        *("run_id", "status", "labels", "requests", "iterations", "output_tokens", "output_tokens_per_s"),
        "output_tokens_per_s_steady",
        *(
            "ttft_ms",
            "itl_ms",
            "tpot_ms",
            "e2e_ms",
            "itl_token_ms",
            "stalls",
            "prefix_hit_tokens",
            "preempted_hit_tokens",
            "draft_tokens",
        ),
        *("accepted_tokens", "preemptions", "kv_capacity_tokens", "kv_could_hold_tokens", "peak_kv_tokens", "refused"),
        *("output_digest", "workload_hash", "groups", "disturbances"),
    ]


def test_percentiles_interpolate_linearly_and_skip_nulls() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0], 0.5) == 2.5
    assert percentile([1.0, float("nan"), 3.0], 0.5) == 2.0
    assert percentile([], 0.5) is None


def test_the_database_and_numpy_agree_on_percentiles(tmp_path: Path) -> None:
    values = np.random.default_rng(1).lognormal(3, 1, 999)
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        for share in (0.5, 0.9, 0.99):
            query = "SELECT quantile_cont(v, ?) FROM (SELECT unnest(?::DOUBLE[]) AS v)"
            ((quantile,),) = con.execute(query, [share, values.tolist()]).fetchall()
            assert quantile == pytest.approx(percentile(values, share), rel=1e-12)


def test_a_stall_is_a_gap_above_the_one_bound_and_a_run_of_slow_gaps_is_all_stalls(tmp_path: Path) -> None:
    bound = int(STALL_MS * MS)
    runs = {"quick": [5 * MS] * 98 + [bound, bound + 1], "slow": [bound + MS] * 100}
    for name, gaps in runs.items():
        with Recorder(make_run(tmp_path / "runs", name)) as recorder:
            recorder.slices(0, request=range(100), kind="decode", tokens=1, context_len=0, emitted=1, itl_ns=gaps)
        set_status(tmp_path / "runs" / name, "finished")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        for name, stalls in (("quick", 1), ("slow", 100)):
            Collector(tmp_path / "runs", database).ingest_once(name)
            assert queries.summary(con, name)["stalls"] == stalls


@pytest.mark.parametrize(
    ("count", "names"),
    [
        (0, []),
        (3, ["p50", "p90", "p95", "p99"]),
        (12, ["p90", "p95", "p99"]),
        (50, ["p95", "p99"]),
        (100, ["p99"]),
        (499, ["p99"]),
        (500, []),
    ],
)
def test_a_percentile_needs_five_samples_beyond_it(count: int, names: list[str]) -> None:
    assert too_few(count) == names
    assert [carries(count, share) for share in (0.5, 0.99)] == [count >= 10, count >= 500]
    said = too_few_in_words("TTFT", count)
    assert bool(said) == bool(names)
    assert all(name in said for name in names)


def test_what_is_said_of_a_small_sample() -> None:
    assert (
        too_few_in_words("TTFT", 12)
        == "TTFT: p90, p95 and p99 rest on too few of 12 samples: p99 is close to the largest."
    )
    assert too_few_in_words("TTFT", 200) == "TTFT: p99 rests on too few of 200 samples: p99 is close to the largest."


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_says_what_it_is(name: str) -> None:
    metric = METRICS[name]
    assert metric.name == name
    assert metric.title
    assert metric.formula.endswith(".")
    assert metric.source in ("requests", "slices", "iterations", "programs", "run")
    assert (metric.expression is None) == (metric.source == "run")


TIMES = st.none() | st.integers(0, 10**15)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "arrival_ns": st.integers(0, 10**15),
            "first_token_ns": TIMES,
            "end_ns": st.integers(0, 10**15),
            "output_tokens": st.integers(0, 10**6),
            "end_reason": st.sampled_from(END_REASONS),
        }
    ),
    min_size=1,
    max_size=8,
)


@given(rows=ROWS)
@settings(deadline=None)
def test_a_live_run_has_the_latencies_that_its_summary_will_have(rows: list[dict]) -> None:
    """Rows in memory and rows in the database go by the same definitions."""
    names = ("ttft_ms", "tpot_ms", "e2e_ms")
    columns = {
        name: np.array([np.nan if r[name] is None else r[name] for r in rows], float)
        for name in rows[0]
        if name != "end_reason"
    }
    live = request_latencies(columns, [r["end_reason"] for r in rows])
    kept = pa.Table.from_pylist(
        rows, schema=pa.schema({n: pa.string() if n == "end_reason" else pa.int64() for n in rows[0]})
    )
    expressions = ", ".join(f"{METRICS[name].expression}::DOUBLE AS {name}" for name in names)
    with duckdb.connect() as con:
        con.register("kept", kept)
        stored = con.sql(f"SELECT {expressions} FROM kept").fetchnumpy()
    for name in names:
        np.testing.assert_allclose(live[name], np.ma.filled(stored[name], np.nan), rtol=1e-9, err_msg=name)


SECOND_DEFINITIONS = (
    r"(first_token(_ns)?|end(_ns)?|\bfirst)\s*-\s*(\w+\.)?arrival",  # TTFT, E2E
    r"(output_tokens|tokens)\s*-\s*1\b",  # TPOT
    r"itl_ns\)?\s*/",  # ITL
    r"reason\w*\s+(IN|in)\s+(COMPLETED|[({])",  # completed
)
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("definition", SECOND_DEFINITIONS)
def test_a_metric_is_defined_in_one_module(definition: str) -> None:
    """TTFT, ITL, TPOT, E2E and completed: live figures, ``/metrics``, summaries and reports take them from store.metrics."""
    home = ROOT / "store" / "metrics.py"
    files = [
        path for room in ("app", "store") for kind in ("*.py", "*.js", "*.sql") for path in (ROOT / room).rglob(kind)
    ]
    elsewhere = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        if path != home
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(definition, line)
    ]
    assert re.search(definition, home.read_text()), "the pattern finds the definition itself"
    assert not elsewhere, "\n".join(elsewhere)


STEADY = {
    # running and tokens of each 10 ms step; arrivals in ms; tokens/s of the steady state
    "a batch that fills and empties": ([1, 2, *[10] * 12, 3, 1], [0] * 10, 1000.0),
    "arrivals that go on after the most were there": ([1, 2, 10, *[5] * 15, 1, 1], [0, 178], (10 + 15 * 5) / 0.16),
    "nine of ten places count as full": ([1, 9, *[5] * 12, 10, 1], [0], (9 + 60 + 10) / 0.14),
    "too few steps": ([1, 10, 10, 10, 1], [0], None),
    "nothing ever ran": ([0] * 12, [0], None),
}


@pytest.mark.parametrize("name", STEADY)
def test_steady_throughput_leaves_out_how_the_batch_fills_and_empties(tmp_path: Path, name: str) -> None:
    running, arrivals, expected = STEADY[name]
    run_dir = make_run(tmp_path / "runs", "steady")
    with Recorder(run_dir) as recorder:
        for i, count in enumerate(running):
            recorder.iteration(**iteration_values(i, running=count, emitted_tokens=count))
        for k, arrival in enumerate(arrivals):
            recorder.request(**request_values(k, arrival_ns=arrival * MS, end_ns=200 * MS))
    set_status(run_dir, "finished")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        Collector(tmp_path / "runs", database).ingest_once("steady")
        steady = queries.summary(con, "steady")["output_tokens_per_s_steady"]
    assert steady == (expected if expected is None else pytest.approx(expected))


def test_a_group_has_its_own_figures_and_an_emission_of_several_tokens_counts_once_or_by_token(tmp_path: Path) -> None:
    """Two groups: one emission of 3 tokens after 30 ms beside gaps of 10 ms; a stall of 250 ms in the other."""
    run_dir = make_run(tmp_path / "runs", "grouped")
    with Recorder(run_dir) as recorder:
        for request, group, first in ((0, "chat", 20), (1, "chat", 40), (2, "long", 100)):
            times = {"arrival_ns": 0, "first_scheduled_ns": 0, "first_token_ns": first * MS, "end_ns": 400 * MS}
            recorder.request(**request_values(request, group=group, output_tokens=4, end_reason="length", **times))
        recorder.iteration(**iteration_values(0, emitted_tokens=6))
        recorder.slices(
            0,
            request=range(3),
            kind="decode",
            tokens=1,
            context_len=0,
            emitted=[3, 1, 1],
            itl_ns=[30 * MS, 10 * MS, 250 * MS],
        )
    set_status(run_dir, "finished")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        Collector(tmp_path / "runs", database).ingest_once("grouped")
        summary = queries.summary(con, "grouped")
    assert summary is not None
    chat, long = summary["groups"]["chat"], summary["groups"]["long"]
    assert list(summary["groups"]) == ["chat", "long"]
    assert (chat["ttft_ms"]["p50"], long["ttft_ms"]["p50"], chat["ttft_ms"]["count"]) == (30, 100, 2)
    assert (chat["itl_ms"]["p50"], chat["itl_ms"]["count"]) == (20, 2)
    assert (chat["itl_token_ms"]["p50"], chat["itl_token_ms"]["max"], chat["itl_token_ms"]["count"]) == (10, 10, 4)
    assert (chat["stalls"], long["stalls"], summary["stalls"]) == (0, 1, 1)
    assert (chat["output_tokens"], chat["requests"]) == (8, {"total": 2, "finished": 2})
    assert latencies_of(summary)["itl_ms"] == "ITL, per emission"
    assert "itl_token_ms" not in latencies_of({"itl_ms": {"count": 5}, "itl_token_ms": {"count": 5}})


def test_a_run_beside_which_others_worked_is_labelled_disturbed_wherever_its_labels_stand(tmp_path: Path) -> None:
    run_dir = make_run(tmp_path / "runs", "beside-others")
    with Recorder(run_dir) as recorder:
        recorder.run("start", "running", environment={"cpu": {"cores": 2}})
        recorder.iteration(**iteration_values(0, emitted_tokens=1))
        for second in range(5):
            recorder.device(time_ns=second * 1000 * MS, device="cpu", host_cpu_percent=95.0, cpu_percent=10.0)
    set_status(run_dir, "finished")
    with Database(tmp_path / "db.duckdb") as database, database.read() as con:
        Collector(tmp_path / "runs", database).ingest_once("beside-others")
        summary, row = queries.summary(con, "beside-others"), queries.run(con, "beside-others")
        known = queries.labels(con, "beside-others")
    assert summary is not None
    assert row is not None
    assert "disturbed" in summary["labels"]
    assert summary["labels"] == row["labels"] == known["labels"]
    assert known["disturbances"] == summary["disturbances"]
    assert "other processes used" in summary["disturbances"][0]
