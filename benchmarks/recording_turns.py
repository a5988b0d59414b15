"""What recording takes from the engine, measured within one run: blocks of decode steps with it and without it, in turns.

Two whole runs of ten seconds differ by more than a tenth on a machine that shares its cores, so a cost of one percent does not show
between them. Here one engine decodes on and on, and its recorder is exchanged every few steps, in the order on, off, off, on: what drifts (the
growing context, the clock of the cores) meets both alike. The writer thread may finish rows of one block in the next, a tenth of a block at
most. ``python -m benchmarks.recording_turns`` is the process that ``benchmarks.telemetry`` starts.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.harness import hand_back
from engine.arrivals import Arrivals
from engine.config import EngineConfig, RequestSpec, RunSpec, Sampling
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.requests import make_requests
from engine.start.warmup import warm_up
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

REQUESTS = 16
PROMPT = 32
ORDER = ("full", "off", "off", "full")


def time_ratios(turns: int, steps: int) -> list[float]:
    """Per turn of four blocks, the time of the two with recording over that of the two without."""
    tokens = (turns * len(ORDER) + 1) * steps + PROMPT
    rng = random.Random(0)
    asked = tuple(
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=tuple(rng.randrange(10, 48_000) for _ in range(PROMPT)),
            max_tokens=tokens,
        )
        for i in range(REQUESTS)
    )
    config = EngineConfig(
        device="cpu",
        max_num_seqs=REQUESTS,
        kv_blocks=REQUESTS * (-(-(PROMPT + tokens) // 16) + 1),
        sampling=Sampling(ignore_eos=True),
    )
    prepared = prepare(RunSpec(run_id="turns", scenario="benchmark", engine=config, requests=asked))
    warm_up(prepared)
    requests = make_requests(prepared.spec, prepared.model, prepared.device, prepared.max_model_len)
    clock = RunClock()
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        recorders = {level: Recorder(Path(folder) / level, level, clock) for level in ("full", "off")}
        engine = build_engine(prepared, recorders["full"], clock)
        engine.arrivals = Arrivals(requests)
        engine.admit_arrivals()

        def block(level: str) -> float:
            engine.recorder = engine.rows.recorder = recorders[level]
            engine.scheduler.pool.journal = [] if level == "full" else None
            start = time.perf_counter()
            for _ in range(steps):
                engine.step()
            return time.perf_counter() - start

        with torch.inference_mode():
            while len(engine.scheduler.running) < REQUESTS or any(not r.num_output_tokens for r in requests):
                engine.step()
            block("full")
            ratios = []
            for _ in range(turns):
                spent = {"full": 0.0, "off": 0.0}
                for level in ORDER:
                    spent[level] += block(level)
                ratios.append(spent["full"] / spent["off"])
            engine.cancel_everything()
        for recorder in recorders.values():
            recorder.close()
            if recorder.problem:
                raise RuntimeError(recorder.problem)
    return ratios


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=20)
    parser.add_argument("--steps", type=int, default=16, help="in a block")
    options = parser.parse_args()
    hand_back({"ratios": time_ratios(options.turns, options.steps)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
