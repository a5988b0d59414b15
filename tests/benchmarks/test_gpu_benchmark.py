"""The GPU measurements where there is no GPU: several calls make one file, and the script says what it was asked wrongly."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import gpu
from benchmarks.gpu_parts import bench
from benchmarks.harness import ROOT, ChildFailed, Report, commit, in_child
from benchmarks.merging import comparable, merged, save
from engine.model import load

SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def results(figures: dict[str, float], tables: dict[str, list[list[Any]]], **more: Any) -> dict[str, Any]:
    return {
        "benchmark": "gpu",
        "command": "python -m benchmarks.gpu",
        "commit": {"id": "a", "dirty": False},
        "date": "2026-01-01",
        "busiest_percent": 3.0,
        "environment": {"gpu": {"name": "A"}, "versions": {"torch": "2"}},
        "figures": [{"name": name, "value": value} for name, value in figures.items()],
        "details": {"tables": [{"title": title, "columns": [], "rows": rows} for title, rows in tables.items()]},
        **more,
    }


def test_a_later_call_adds_its_parts_and_replaces_what_it_measured_again():
    first = results(
        {"x": 1, "y": 2},
        {
            "measured limits": [["copy", 3]],
            "parts": [["common", 9], ["steps", 8]],
            "parts that gave no figures": [["steps", "lost"], ["shared", "not started"]],
            "forward passes": [[1]],
        },
    )
    second = results(
        {"y": 5, "z": 6},
        {"measured limits": [["copy", 4]], "parts": [["steps", 7]], "forward passes": [[2]]},
        busiest_percent=9.0,
    )
    first["details"]["runs"] = {"copying": 1, "chat": 1}
    second["details"]["runs"] = {"chat": 2}
    both = merged(first, second)
    assert both["details"]["runs"] == {"copying": 1, "chat": 2}
    assert [(f["name"], f["value"]) for f in both["figures"]] == [("x", 1), ("y", 5), ("z", 6)]
    tables = {table["title"]: table["rows"] for table in both["details"]["tables"]}
    assert tables["parts"] == [["common", 9], ["steps", 7]]
    assert tables["parts that gave no figures"] == [["shared", "not started"]]
    assert tables["forward passes"] == [[2]]
    assert [call["limits"] for call in both["details"]["calls"]] == [[["copy", 3]], [["copy", 4]]]
    assert both["busiest_percent"] == 9.0
    assert len(merged(both, second)["details"]["calls"]) == 3


@pytest.mark.parametrize(
    "other",
    [
        {"commit": {"id": "b", "dirty": False}},
        {"environment": {"gpu": {"name": "B"}, "versions": {"torch": "2"}}},
        {"environment": {"gpu": {"name": "A"}, "versions": {"torch": "3"}}},
    ],
    ids=["commit", "device", "library"],
)
def test_what_another_commit_or_device_measured_is_not_kept(other: dict[str, Any], tmp_path: Path):
    first = results({"x": 1}, {})
    assert comparable(first, first)
    assert not comparable(first, first | other)
    report = Report("gpu")
    report.figure("y", 2.0, "s")
    save(tmp_path / "gpu.json", report, first)
    assert [f["name"] for f in json.loads((tmp_path / "gpu.json").read_text())["figures"]] == ["y"]


def test_what_was_measured_is_on_disk_before_the_next_part_and_stays_with_the_next_call(tmp_path: Path):
    path = tmp_path / "gpu.json"
    report = Report("gpu")
    report.figure("x", 1.0, "s")
    save(path, report, None)
    again = Report("gpu")
    again.figure("y", 2.0, "s")
    save(path, again, json.loads(path.read_text()))
    assert [f["name"] for f in json.loads(path.read_text())["figures"]] == ["x", "y"]


def test_a_child_that_takes_too_long_is_one_that_failed():
    with pytest.raises(ChildFailed, match=r"did not end within 0\.05 s"):
        in_child("timeit", "-n", "1", "import time; time.sleep(9)", timeout_s=0.05)


def test_files_without_their_history_say_which_commit_they_are_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert commit()["id"]
    monkeypatch.setattr("benchmarks.harness.ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("SERVESCOPE_COMMIT", "abc")
    assert commit() == {"id": "abc", "dirty": None}
    monkeypatch.delenv("SERVESCOPE_COMMIT")
    assert commit() == {"id": None, "dirty": None}
    monkeypatch.setenv("PATH", str(tmp_path))  # nor is there a git
    assert commit() == {"id": None, "dirty": None}


def test_telling_weights_are_larger_inside_only():
    usual = load._INITIAL_SCALE
    with bench.telling_weights("random:smollm2-135m"):
        inside = load._INITIAL_SCALE
    assert inside == pytest.approx(0.05)
    assert usual == load._INITIAL_SCALE


def test_the_script_is_whole_and_refuses_steps_it_does_not_know():
    subprocess.run(["bash", "-n", str(SCRIPT)], check=True)
    refused = subprocess.run(["bash", str(SCRIPT), "--only", "nothing"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "tests, measurements, speculation or run" in refused.stderr


@pytest.mark.parametrize("parts", ["common", pytest.param(",".join(gpu.PARTS), marks=pytest.mark.rare)])
def test_the_measurements_are_rehearsed_without_a_gpu(parts: str):
    """Every part goes through its code, with tiny shapes and interpreted kernels; one that fails is named."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--dry-run", "--parts", parts],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "parts that gave no figures" not in done.stdout


def test_tests_that_run_out_of_time_are_said_to_and_do_not_keep_the_measurements_from_running(tmp_path: Path):
    python = tmp_path / "python"
    python.write_text(
        f"""#!/usr/bin/env bash
case "$*" in
  *get_device_capability*) echo 90 ;;
  "-m pytest"*) echo "1 passed so far"; exec sleep 30 ;;
  *) echo "$*" >>{tmp_path}/called ;;
esac
"""
    )
    python.chmod(0o755)
    settings = {"PATH": os.environ["PATH"], "PYTHON": str(python), "TEST_SECONDS": "1", "GPU_OPTIONS": "--parts steps"}
    done = subprocess.run(["bash", str(SCRIPT), str(tmp_path / "out")], env=settings, capture_output=True, text=True)
    assert done.returncode == 1
    assert "the tests did not end within 1 s" in done.stdout
    assert "1 passed so far" in done.stdout
    called = (tmp_path / "called").read_text()
    assert "--minutes 4.5" in called
    assert called.rstrip().endswith("--merge --parts steps")
    assert "benchmarks.compile_kernels --capability 90 --set models" in called
