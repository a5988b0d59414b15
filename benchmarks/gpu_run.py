"""Whole runs as a user starts them: chunked prefill on and off under the starter's load, with NVML's counters, ingest and an export.

``servescope run starter`` once each way, in turns, in a home of its own; their rows are ingested into DuckDB and read back with the
queries that the page asks, and each run is exported as a ``.servescope`` file that another machine can import.

``python -m benchmarks.gpu_run [--model MODEL] [--repeats N] [--device D] [--export FOLDER] [--json FILE] [--check]``
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb

from benchmarks.harness import ROOT, Report, arguments, interleave, paired_ratio, summarise
from store.aside import rows_aside
from store.schema import TABLES
from telemetry.gpm import GpmSampler
from telemetry.rows import ROW_TYPES

HOST_COLUMNS = {"time_ns", "device", "cpu_percent", "process_memory", "host_cpu_percent", "host_memory_available"}
TIMES = (("ITL p99", "itl_ms", "p99"), ("ITL p50", "itl_ms", "p50"), ("TTFT p50", "ttft_ms", "p50"))
TIMEOUT_S = 150


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--model", default="random:llama-3.1-8b", help="what is served")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--repeats", type=int, default=1, help="runs each way")
    parser.add_argument("--set", action="append", default=[], help="a further KEY=VALUE for every run")
    parser.add_argument("--export", type=Path, help="keep one exported run of each way in this folder")
    options = parser.parse_args(words)
    report = Report("gpu_run", device="cuda:0" if options.device == "cuda" else options.device)
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        home = Path(folder)

        def run(way: str) -> dict[str, Any]:
            settings = [f"chunked_prefill={way}", f"model={options.model}", f"device={options.device}", *options.set]
            return servescope(home, "run", "starter", *(w for s in settings for w in ("--set", s)), "--json")

        by_way = interleave({way: lambda way=way: run(way) for way in ("on", "off")}, options.repeats)
        runs = [result["run_id"] for way in by_way.values() for result in way]
        compare(report, by_way)
        with rows_aside(home / "runs", runs) as rows:
            report.details["problems"] = dict(rows.problems)
            counters(report, rows.con, runs)
        for way, results in by_way.items():
            file = (options.export or home) / f"starter-chunked-{way}.servescope"
            file.parent.mkdir(parents=True, exist_ok=True)
            size = servescope(home, "export", results[0]["run_id"], "-o", str(file.resolve()), "--json")["bytes"]
            report.figure(f"exported run, chunked prefill {way}", size / 1e6, "MB", better="lower")
    report.details["results"] = by_way
    return report.finish(options)


def servescope(home: Path, *words: str) -> dict[str, Any]:
    """Run a ``servescope`` command in its own process and return what it says of the result.

    Raises:
        RuntimeError: it failed; the message ends with what it last said.
    """
    done = subprocess.run(
        [sys.executable, "-m", "app.cli", *words],
        cwd=ROOT,
        env=os.environ | {"SERVESCOPE_HOME": str(home)},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    if done.returncode:
        raise RuntimeError(f"servescope {' '.join(words)}:\n" + "\n".join(done.stderr.splitlines()[-12:]))
    return json.loads(done.stdout)


def compare(report: Report, by_way: dict[str, list[dict[str, Any]]]) -> None:
    """What chunking changed, by the figures a run's result has."""
    rows = []
    for name, key, part in TIMES:
        on, off = ([result[key][part] for result in by_way[way]] for way in ("on", "off"))
        rows.append((f"{name}, ms", summarise(on).median, summarise(off).median))
        ratio = paired_ratio(off, on)
        report.figure(f"starter, {name}: off / on", ratio.median, "x", spread=ratio.spread)
    speeds = [summarise([r["output_tokens_per_s"] for r in by_way[way]]).median for way in ("on", "off")]
    rows.append(("output tokens/s", *speeds))
    report.table("chunked prefill under the starter's load", ["figure", "on", "off"], rows)


def counters(report: Report, con: duckdb.DuckDBPyConnection, runs: Sequence[str]) -> None:
    """Which of the device's counters came, and how many rows of each kind lie in the database."""
    names = [f for f in ROW_TYPES["device"].__dataclass_fields__ if f not in HOST_COLUMNS]
    asked = ", ".join(f"count({n}), min({n}), median({n}), max({n})" for n in names)
    where = "run_id IN (SELECT unnest(?))"
    values = con.execute(f"SELECT count(*), {asked} FROM {TABLES['device']} WHERE {where}", [list(runs)]).fetchone()
    assert values is not None
    rows = [(name, *values[1 + 4 * i : 5 + 4 * i]) for i, name in enumerate(names)]
    report.table("counters of the device", ["counter", "samples", "least", "median", "most"], rows)
    present = sum(row[1] > 0 for row in rows)
    report.figure("counters present", present, f"of {len(rows)}", note=f"{values[0]} samples")
    gpm = sum(row[1] > 0 for row in rows if row[0] in GpmSampler.COLUMNS)
    report.figure("GPM counters present", gpm, f"of {len(GpmSampler.COLUMNS)}")
    counts = [
        (kind, con.execute(f"SELECT count(*) FROM {table} WHERE {where}", [list(runs)]).fetchone()[0])  # type: ignore[index]
        for kind, table in TABLES.items()
    ]
    report.table("rows in DuckDB", ["kind", "rows"], counts)


if __name__ == "__main__":
    sys.exit(main())
