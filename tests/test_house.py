"""The house rules that tools can check: imports point one way, types hold, lint and format are clean."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

TOOLS = {
    "imports point one way": [str(Path(sys.executable).parent / "lint-imports")],
    "ruff finds nothing": [sys.executable, "-m", "ruff", "check", "--no-cache", "."],
    "everything is formatted": [sys.executable, "-m", "ruff", "format", "--no-cache", "--check", "."],
    "types hold": [sys.executable, "-m", "mypy"],
}


@pytest.mark.timeout(900)
@pytest.mark.parametrize("claim", TOOLS)
def test_house_rule(claim: str) -> None:
    done = subprocess.run(TOOLS[claim], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{claim}: {done.stdout[-4000:]}{done.stderr[-2000:]}"


def test_no_unpickling_and_no_remote_code_anywhere() -> None:
    """Weights, spools and snapshots are read by formats that cannot run code."""
    forbidden = (
        "pickle.load",
        "torch.load(",
        "trust_remote_code=True",
        "allow_pickle=True",
        "yaml.unsafe_load",
        "shell=True",
    )
    for room in ("app", "engine", "telemetry", "scenarios", "store", "benchmarks"):
        for path in (ROOT / room).rglob("*.py"):
            text = path.read_text()
            for word in forbidden:
                assert word not in text, f"{path.relative_to(ROOT)} uses {word}"
