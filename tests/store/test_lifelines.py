"""What the pictures of requests draw, held against the rows and against the figures of the objective."""

from __future__ import annotations

import pytest

from store import lifelines, waits
from store.samples import objective_figures
from store.slo import PRESETS, Slo, parse_slo
from tests.row_maker import stored
from tests.store.crowded_run import CROWDED, ROOMY, SWAPPED, Served

both = pytest.mark.parametrize("run_id", [CROWDED, ROOMY])


@both
def test_every_request_is_a_line_from_arrival_to_end(served: Served, run_id: str) -> None:
    rows = {row["request"]: row for row in stored(served.con, run_id, "request")}
    lines = lifelines.lifelines(served.con, run_id, PRESETS["strict"]).requests.to_pylist()
    assert [line["request"] for line in lines] == sorted(rows, key=lambda r: (rows[r]["arrival_ns"], r))
    for line in lines:
        row = rows[line["request"]]
        for name, column in (
            ("arrival_ms", "arrival_ns"),
            ("scheduled_ms", "first_scheduled_ns"),
            ("first_ms", "first_token_ns"),
            ("end_ms", "end_ns"),
        ):
            assert line[name] == pytest.approx(row[column] / 1e6)
        assert line["arrival_ms"] <= line["scheduled_ms"] <= line["first_ms"] <= line["end_ms"]
        assert (line["group"], line["preemptions"]) == (row["group"], row["preemptions"])


@both
@pytest.mark.parametrize(
    "slo", [*PRESETS.values(), parse_slo("2x"), parse_slo("ttft=20,tpot=3")], ids=lambda slo: slo.name
)
def test_the_objective_is_missed_by_as_many_as_its_figure_says(served: Served, run_id: str, slo: Slo) -> None:
    missed = lifelines.lifelines(served.con, run_id, slo).requests["missed"].to_pylist()
    share = objective_figures(served.con, run_id, slo)["attainment"]
    assert share == pytest.approx(sum(m == lifelines.MET for m in missed) / len(missed))


def test_an_objective_of_one_bound_says_which_was_missed(served: Served) -> None:
    ttft = lifelines.lifelines(served.con, CROWDED, Slo("late", 0.001, 1e9)).requests["missed"].to_pylist()
    assert set(ttft) == {lifelines.TTFT_MISSED}
    tpot = lifelines.lifelines(served.con, CROWDED, Slo("slow", 1e9, 0.001)).requests["missed"].to_pylist()
    assert set(tpot) == {lifelines.TPOT_MISSED}


def test_the_time_out_of_the_pool_is_what_was_waited_after_preemptions(served: Served) -> None:
    thrown = lifelines.lifelines(served.con, CROWDED, PRESETS["strict"]).preempted.to_pylist()
    assert thrown
    for row in waits.waits(served.con, CROWDED).to_pylist():
        spells = [t["until_ms"] - t["since_ms"] for t in thrown if t["request"] == row["request"]]
        assert sum(spells) == pytest.approx(row["preempted_ms"], abs=1e-6)


def test_who_was_swapped_out_is_told_from_who_is_computed_again(served: Served) -> None:
    thrown = {
        run_id: lifelines.lifelines(served.con, run_id, PRESETS["strict"]).preempted for run_id in (CROWDED, SWAPPED)
    }
    assert set(thrown[CROWDED]["swapped"].to_pylist()) == {0}
    assert set(thrown[SWAPPED]["swapped"].to_pylist()) == {1}


@both
def test_one_request_has_every_step_and_every_token(served: Served, run_id: str) -> None:
    steps = {row["iteration"]: row for row in stored(served.con, run_id, "iteration")}
    slices = stored(served.con, run_id, "slice")
    for row in stored(served.con, run_id, "request")[::5]:
        request = row["request"]
        told = lifelines.waterfall(served.con, run_id, request)
        assert told is not None
        own = [s for s in slices if s["request"] == request]
        assert [p["iteration"] for p in told.parts] == [s["iteration"] for s in own]
        emitted = 0
        for part, own_slice in zip(told.parts, own, strict=True):
            step = steps[part["iteration"]]
            emitted += own_slice["emitted"]
            assert (part["start_ms"], part["end_ms"]) == (step["start_ns"] / 1e6, step["end_ns"] / 1e6)
            assert part["tokens_so_far"] == emitted
            others = [
                s
                for s in slices
                if s["iteration"] == part["iteration"] and s["request"] != request and s["kind"] == "prefill"
            ]
            assert part["prefill_beside"] == sum(s["tokens"] for s in others)
            assert part["prompts_beside"] == len(others)
            assert (part["most_beside"] is None) == (not others)
        assert emitted == row["output_tokens"]
        assert [g["iteration"] for g in told.gaps] == [s["iteration"] for s in own if s["itl_ns"] is not None]
        waited = sum(s["until_ms"] - s["since_ms"] for s in told.spells)
        assert 0 <= waited <= row["end_ns"] / 1e6 - row["arrival_ns"] / 1e6


def test_a_request_that_is_not_there_has_no_waterfall(served: Served) -> None:
    assert lifelines.waterfall(served.con, CROWDED, 10**6) is None
    assert lifelines.lifelines(served.con, "nobody", PRESETS["chat-13b"]).requests.num_rows == 0
