"""A process that records steps as fast as it can: ``python spool_writer.py RUN_DIR``. Ends cleanly when standard input does."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from row_maker import record_step, request_values, set_status

from telemetry.recorder import Recorder


def main(run_dir: Path) -> None:
    set_status(run_dir, "running")
    done = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), done.set()), daemon=True).start()
    with Recorder(run_dir, drain_interval_s=0.005) as recorder:
        recorder.run("start", "running")
        print("recording", flush=True)
        iteration = 0
        while not done.is_set():
            record_step(recorder, iteration, batch=1 + iteration % 9)
            if iteration % 50 == 0:
                recorder.request(**request_values(iteration // 50))
            iteration += 1
            done.wait(0.0005)
        recorder.run("end", "finished")
    set_status(run_dir, "finished")


main(Path(sys.argv[1]))
