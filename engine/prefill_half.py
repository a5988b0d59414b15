"""The prefill half of a run in two processes: ``python -m engine.prefill_half RUN_DIR LINE FILE``.

The decode half (``engine.worker``) starts it. LINE and FILE are descriptors that it inherits: a socket to talk on, and
memory for its KV pool. It ends when the socket is closed, however that comes about.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from engine.config import RunSpec, load_plugins
from engine.halves.child import answer_for, live_under
from engine.halves.line import Line
from engine.start.halves import half_of, serve_prefills
from engine.start.prepare import prepare
from engine.start.warmup import warm_up
from telemetry.folder import SPEC
from telemetry.json_file import read_as
from telemetry.limits import MOST_SPEC_BYTES


def main(arguments: list[str]) -> int:
    run_dir, number, file = Path(arguments[0]), int(arguments[1]), int(arguments[2])
    live_under(os.getppid())
    line = Line(socket.socket(fileno=number), "decode")

    def work() -> None:
        load_plugins()
        spec = read_as(RunSpec, run_dir / SPEC, MOST_SPEC_BYTES)
        prepared = prepare(half_of(spec, "prefill"))
        warm_up(prepared)
        serve_prefills(prepared, line, file, run_dir)

    return answer_for(line, work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
