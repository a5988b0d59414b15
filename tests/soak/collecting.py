"""A process that ingests until it is killed or standard input ends: ``python collecting.py RUNS_DIR DATABASE``."""

from __future__ import annotations

import sys
from pathlib import Path

from store.database import Database
from store.ingest import Collector


def main(runs: Path, path: Path) -> None:
    with Database(path) as database:
        collector = Collector(runs, database, poll_s=0.005, commit_s=0.01, discover_s=0.02).start()
        print("collecting", flush=True)
        sys.stdin.read()
        collector.stop()


main(Path(sys.argv[1]), Path(sys.argv[2]))
