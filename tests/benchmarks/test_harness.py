"""The harness: goals decide the exit code, results say where they come from, repetition is fair."""

from __future__ import annotations

import argparse
import json
import re
import socket
import subprocess
import sys
import time
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from benchmarks import harness, report
from benchmarks.harness import ChildFailed, Figure, Report, interleave, number, paired_ratio, some_of, summarise


def quiet() -> Console:
    return Console(file=StringIO(), width=200)


def written(console: Console) -> str:
    return console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("value", "goal", "better", "met"),
    [(2.0, 1.6, "higher", True), (1.6, 1.6, "higher", True), (1.5, 1.6, "higher", False), (3.0, 3.0, "lower", True),
     (3.1, 3.0, "lower", False), (1.0, None, "higher", None)],
)  # fmt: skip
def test_a_figure_knows_whether_its_goal_is_met(value, goal, better, met):
    assert Figure("f", value, "x", better, goal).met is met


def test_a_measurement_beside_a_busy_process_is_made_again_and_says_how_busy():
    made = []

    def measure() -> dict[str, float]:
        time.sleep(0.3)
        made.append(len(made))
        return {"number": made[-1]}

    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            time.sleep(0.2)
            chosen = harness.undisturbed(measure, most_percent=1.0, tries=3)
        finally:
            busy.kill()
    assert len(made) == 3
    assert chosen["others_percent"] > 1.0
    assert chosen["number"] in made


def test_one_missed_goal_fails_the_check():
    measured = Report("demo", console=quiet())
    measured.figure("good", 2, "x", goal=1)
    measured.figure("free", 0, "x")
    assert measured.check() == 0
    measured.figure("bad", 2, "ms", goal=1, better="lower")
    assert measured.check() == 1
    assert [figure.name for figure in measured.missed] == ["bad"]


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--check"], 1)])
def test_a_missed_goal_is_an_exit_code_only_when_asked(words: list[str], code: int):
    measured = Report("demo", console=quiet())
    measured.figure("bad", 2, "ms", goal=1, better="lower")
    assert measured.finish(harness.arguments("demo").parse_args(words)) == code


def test_results_say_where_they_come_from_but_not_from_whose_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "x.py"), "--repeats", "3", "--json", str(tmp_path / "r.json")])
    measured = Report("demo", console=quiet())
    measured.figure("speed", 10, "tokens/s", goal=5, spread=(9, 11), note="why")
    measured.table("parts", ["part", "time"], [("a", 1.5)])
    measured.save(tmp_path / "r.json")
    text = (tmp_path / "r.json").read_text()
    result = json.loads(text)
    assert result["command"] == "python -m benchmarks.demo --repeats 3"
    assert len(result["commit"]["id"]) == 40
    assert isinstance(result["commit"]["dirty"], bool)
    assert result["environment"]["cpu"]["cores"] >= 1
    assert result["environment"]["versions"]["torch"]
    assert result["figures"][0] == {
        "name": "speed", "value": 10.0, "unit": "tokens/s", "better": "higher", "goal": 5, "spread": [9, 11],
        "note": "why", "met": True,
    }  # fmt: skip
    assert result["details"]["tables"][0]["rows"] == [["a", "1.500"]]
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)
    assert str(tmp_path) not in text


def test_repeats_alternate_so_that_drift_hits_all_alike():
    order: list[str] = []
    before: list[int] = []
    results = interleave(
        {name: lambda name=name: order.append(name) or len(order) for name in "abc"}, 3, before=lambda: before.append(1)
    )
    assert "".join(order) == "abc" + "cba" + "abc"
    assert results == {"a": [1, 6, 7], "b": [2, 5, 8], "c": [3, 4, 9]}
    assert len(before) == 9


def test_ratios_are_taken_within_rounds():
    ratio = paired_ratio([10, 40, 30], [5, 10, 10])
    assert (ratio.median, ratio.spread) == (3, (2, 4))
    assert summarise([3, 1, 2]).spread == (1, 3)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.0"), (0.03456, "0.0346"), (1.2345, "1.234"), (12.345, "12.35"), (123.45, "123.5"), (12345.6, "12,346")],
)
def test_numbers_keep_about_four_digits(value: float, text: str):
    assert number(value) == text


def test_a_measurement_comes_back_from_a_process_of_its_own():
    assert harness.in_child("tests.benchmarks.child", "7") == {"value": 7}


def test_a_failed_measurement_says_what_happened():
    with pytest.raises(ChildFailed, match="no number given"):
        harness.in_child("tests.benchmarks.child")


def result_file(folder: Path, name: str, value: float) -> None:
    measured = Report(name, console=quiet())
    measured.figure("speed", value, "x", goal=2, spread=(1, 3))
    measured.save(folder / f"{name}.json")


def test_the_report_counts_goals_met_and_missed(tmp_path: Path):
    result_file(tmp_path, "good", 3)
    console = quiet()
    assert report.main(["--check"], tmp_path, console) == 0
    result_file(tmp_path, "bad", 1)
    assert report.main(["--check"], tmp_path, console) == 1
    assert report.main([], tmp_path, console) == 0
    assert "2 results: 1 goals met, 1 missed" in written(console)


def test_the_report_trusts_no_verdict_written_by_hand(tmp_path: Path):
    result_file(tmp_path, "bad", 1)
    path = tmp_path / "bad.json"
    path.write_text(path.read_text().replace('"met": false', '"met": true'))
    assert report.main(["--check"], tmp_path, quiet()) == 1


def test_no_results_are_no_success(tmp_path: Path):
    assert report.main(["--check"], tmp_path, quiet()) == 1


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"figures": [{"name": "x"}]}', '{"figures": [], "benchmark": "x"}'])
def test_a_file_that_is_no_result_is_named(tmp_path: Path, text: str):
    (tmp_path / "odd.json").write_text(text)
    with pytest.raises(report.BadResult, match=r"odd\.json"):
        report.main([], tmp_path, quiet())


def test_an_option_takes_some_of_its_names_and_refuses_others():
    read = some_of(["one", "two"])
    assert read("two, one") == ["two", "one"]
    with pytest.raises(argparse.ArgumentTypeError, match="'three' is none of one, two"):
        read("one,three")
