"""One file for measurements taken over several calls: what a later call measured takes the place of what an earlier one did."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.harness import Report

Results = dict[str, Any]

BY_ROW = {"parts"}  # tables that every call adds rows to
FAILED = "parts that gave no figures"


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The options of a benchmark that can be measured in several calls."""
    parser = harness.arguments(description)
    parser.add_argument("--merge", action="store_true", help="keep what the file has of earlier calls")
    return parser


def earlier_results(parser: argparse.ArgumentParser, options: argparse.Namespace) -> Results | None:
    """What the file has of earlier calls, where that is to be kept; a usage error where no file is named."""
    if not options.merge:
        return None
    if not options.json:
        parser.error("--merge needs --json FILE")
    return json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else None


def finish(report: Report, options: argparse.Namespace, path: Path | None, earlier: Results | None) -> int:
    """As ``Report.finish`` does it, the file with what earlier calls measured; returns the exit code."""
    options.json = None
    code = report.finish(options)
    if path:
        save(path, report, earlier)
    return code


def save(path: Path, report: Report, earlier: Results | None) -> None:
    """Write the results, with those of earlier calls that belong to them."""
    report.save(path)
    if earlier is not None:
        results = json.loads(path.read_text(encoding="utf-8"))
        if comparable(earlier, results):
            path.write_text(json.dumps(merged(earlier, results), indent=1) + "\n", encoding="utf-8")


def comparable(earlier: Results, later: Results) -> bool:
    """Whether both measured the same code on the same kind of device, with the same libraries."""
    return _what(earlier) == _what(later)


def merged(earlier: Results, later: Results) -> Results:
    """``later`` with what ``earlier`` has besides; ``details.calls`` lists every call with its limits of the device.

    Figures go by their names, tables by their titles. A share of a limit belongs to the limit of its own call.
    """
    names = {figure["name"] for figure in later["figures"]}
    figures = [figure for figure in earlier["figures"] if figure["name"] not in names] + later["figures"]
    details = {**earlier["details"], **later["details"]}
    details["tables"] = _tables(earlier["details"].get("tables", []), later["details"].get("tables", []))
    if "runs" in details:
        details["runs"] = {**earlier["details"].get("runs", {}), **later["details"].get("runs", {})}
    details["calls"] = [*_calls(earlier), *_calls(later)]
    busiest = max((r["busiest_percent"] for r in (earlier, later) if r["busiest_percent"] is not None), default=None)
    return {**later, "busiest_percent": busiest, "figures": figures, "details": details}


def _what(results: Results) -> tuple[Any, ...]:
    gpu = results["environment"].get("gpu") or {}
    return results["benchmark"], results["commit"], gpu.get("name"), results["environment"]["versions"]


def _calls(results: Results) -> list[Results]:
    if "calls" in results["details"]:
        return results["details"]["calls"]
    limits = next((t["rows"] for t in results["details"].get("tables", []) if t["title"] == "measured limits"), [])
    return [{"command": results["command"], "date": results["date"], "limits": limits}]


def _tables(earlier: list[Results], later: list[Results]) -> list[Results]:
    before, after = ({table["title"]: table for table in tables} for tables in (earlier, later))
    measured = {row[0] for row in after.get("parts", {"rows": []})["rows"]}
    failed = {row[0] for row in after.get(FAILED, {"rows": []})["rows"]}
    merged = []
    for title in [*before, *(t for t in after if t not in before)]:
        old, new = before.get(title), after.get(title)
        if title == FAILED:
            rows = [row for row in (old["rows"] if old else []) if row[0] not in measured | failed]
            rows += new["rows"] if new else []
            if rows:
                merged.append({**(new or old or {}), "rows": rows})
        elif title in BY_ROW and old and new:
            again = {row[0] for row in new["rows"]}
            merged.append({**new, "rows": [*(row for row in old["rows"] if row[0] not in again), *new["rows"]]})
        else:
            merged.append(new or old)
    return merged
