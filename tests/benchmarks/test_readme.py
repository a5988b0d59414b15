"""``benchmarks/README.md`` names every benchmark there is, and every command in it has the options it names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.harness import ROOT

FOLDER = Path(__file__).parents[2] / "benchmarks"
README = (FOLDER / "README.md").read_text(encoding="utf-8")


def test_every_benchmark_is_listed():
    modules = {path.stem for path in FOLDER.glob("*.py") if "def main(" in path.read_text(encoding="utf-8")}
    assert {f"| `{name}` |" for name in modules} <= set(re.findall(r"^\| `\w+` \|", README, re.MULTILINE))


@pytest.mark.parametrize("name", ["cpu_peers", "telemetry", "startup", "prefix", "compare", "report"])
@pytest.mark.sampled(4)
def test_every_benchmark_has_the_options_scripts_rely_on(name: str):
    shown = subprocess.run(
        [sys.executable, "-m", f"benchmarks.{name}", "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert "--check" in shown
    assert "--json" in shown or name == "report"
