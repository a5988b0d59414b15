"""All committed results on one page: which goals are met, which are missed.

``python -m benchmarks.report [--check]`` reads ``benchmarks/results/*.json``; with ``--check`` a missed goal, or a folder
without results, is exit code 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.harness import RESULTS, Figure, print_figures


class BadResult(ValueError):
    """A file in the results folder that is not one of ours."""


def read(path: Path) -> tuple[dict[str, Any], list[Figure]]:
    """A result file and its figures; whether a goal is met is worked out anew.

    Raises:
        BadResult: naming the file and what is wrong with it.
    """
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        fields = [{k: v for k, v in figure.items() if k != "met"} for figure in result["figures"]]
        figures = [Figure(**f | {"spread": tuple(f["spread"]) if f.get("spread") else None}) for f in fields]
        for key in ("benchmark", "command", "commit", "date", "environment"):
            result[key]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise BadResult(f"{path.name} is not a benchmark result ({error!r}): measure it again with --json.") from None
    return result, figures


def main(words: list[str] | None = None, results: Path = RESULTS, console: Console | None = None) -> int:
    """Print every result; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit with 1 where a goal is missed")
    options = parser.parse_args(words)
    console = console or Console()
    paths = sorted(results.glob("*.json"))
    met = missed = 0
    for path in paths:
        result, figures = read(path)
        print_figures(console, path.stem, figures)
        console.print(describe(result), markup=False, style="dim")
        met += sum(figure.met is True for figure in figures)
        missed += sum(figure.met is False for figure in figures)
    console.print(f"{len(paths)} results: {met} goals met, {missed} missed." if paths else "There are no results yet.")
    return 1 if options.check and (missed or not paths) else 0


def describe(result: dict[str, Any]) -> str:
    """Where a result comes from, in a line."""
    machine = result["environment"]
    gpu = (machine.get("gpu") or {}).get("name")
    commit = result["commit"]
    code = f"{str(commit['id'])[:10]}{' with changes' if commit['dirty'] else ''}"
    return f"{result['date']}, {gpu or machine['cpu']['model']}, commit {code}: {result['command']}"


if __name__ == "__main__":
    sys.exit(main())
