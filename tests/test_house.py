"""The house rules that tools can check: imports point one way, types hold, lint and format are clean."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import Counter
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


LONGEST_FILE = 350  # lines
LONGEST_FUNCTION = 60
LONGEST_LINE = 120  # characters
FITTING_ROOMS = ("app", "engine")
KERNELS = ("engine/gpu/kernels", "engine/gpu/attention/kernels.py")  # a kernel is one function, and reads in one piece
LISTS = ("engine/training/topics.py",)  # a line for each entry, however long


@pytest.mark.parametrize("room", FITTING_ROOMS)
def test_every_file_and_function_fits_into_a_head(room: str) -> None:
    """A file is one subject, a function fits on a screen."""
    too_long = []
    for path in sorted((ROOT / room).rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if name.startswith(KERNELS):
            continue
        text = path.read_text()
        if (lines := text.count("\n")) > LONGEST_FILE:
            too_long.append(f"{name}: {lines} lines")
        wide = [number for number, line in enumerate(text.splitlines(), 1) if len(line) > LONGEST_LINE]
        if wide and name not in LISTS:
            too_long.append(f"{name}: wide lines {wide}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                if (lines := node.end_lineno - node.lineno + 1) > LONGEST_FUNCTION:
                    too_long.append(f"{name}: {node.name} has {lines} lines")
    assert not too_long, "\n".join(too_long)


def test_styles_and_scripts_have_no_wide_lines() -> None:
    listed = subprocess.run(["git", "ls-files", "*.js", "*.css", "*.html"], cwd=ROOT, capture_output=True, text=True)
    files = [ROOT / name for name in listed.stdout.split()] if listed.returncode == 0 else []
    files = files or [path for kind in ("js", "css", "html") for path in (ROOT / "app").rglob(f"*.{kind}")]
    wide = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in files
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if len(line) > LONGEST_LINE
    ]
    assert not wide, "\n".join(wide)


def test_every_test_file_has_a_name_of_its_own() -> None:
    """Of two with one name pytest collects only the first, and only a run of the whole suite says so."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, files in names.items() if files > 1] == []


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
