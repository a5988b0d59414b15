"""What HTTP costs the engine: the same requests through the door and in a run without one, in turns.

Every stream asks for as many tokens as every other, end of sequence ignored, so both ways have a stretch in which all streams decode.
Compared is how long a step of that stretch takes, from the end of one to the end of the next, so what is done for the door between steps
counts too. Turns are planned, door, door, planned, the door's engine staying up. The client reads raw bytes and is not part of the door, but
it computes on the same machine, as clients on a laptop do.

What the engine's own thread does for the door is measured apart, in its own processor time: that figure stands on a busy machine, too.

``python -m benchmarks.door [--streams 1,4,16,64] [--tokens 48] [--turns 2] [--model NAME]``
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from app.home import Home
from app.runs.process import worker_environment
from benchmarks.harness import ROOT, Report, arguments
from engine import door as engine_door
from engine.config import EMBEDDED_MODEL, ChunkedPrefill, EngineConfig, RequestSpec, RunSpec, Sampling
from engine.config.door import DOOR_SOCKET, STEP_STATES, STEP_SUMS
from engine.request import Request
from telemetry.folder import spool_path
from telemetry.spool import SpoolReader

PROMPT = 8  # tokens
BUDGET = 256  # tokens in one step, so that all prompts are computed soon
GOAL = 0.98  # of the planned run's throughput
GOAL_AT = 64  # streams
OWN_US = 100.0  # 2 % of a step of 5 ms


def prompts(count: int) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(10, 200) for _ in range(PROMPT)] for _ in range(count)]


def engine_config(model: str, places: int, tokens: int) -> EngineConfig:
    blocks = places * (-(-(PROMPT + tokens) // 16) + 1)
    return EngineConfig(
        model=model,
        device="cpu",
        max_num_seqs=places,
        kv_blocks=blocks,
        chunked_prefill=ChunkedPrefill(token_budget=BUDGET),
        sampling=Sampling(ignore_eos=True),
    )


def step_ms(rows: Sequence[dict[str, Any]], streams: int) -> float:
    """Mean time from the end of one step to the end of the next, while all streams decode, in ms."""
    ends = [r["end_ns"] for r in rows if r["decode_requests"] == streams and not r["prefill_requests"]]
    return (ends[-1] - ends[0]) / (len(ends) - 1) / 1e6


def iterations(run_dir: Path) -> list[dict[str, Any]]:
    parts = SpoolReader(spool_path(run_dir, "iteration")).read()
    return [row for part in parts for row in part.batch.to_pylist()]


def planned(folder: Path, config: EngineConfig, streams: int, tokens: int) -> float:
    """Step time of a run without a door, in a process of its own."""
    asked = tuple(
        RequestSpec(request_id=str(n), prompt_token_ids=tuple(ids), max_tokens=tokens)
        for n, ids in enumerate(prompts(streams))
    )
    folder.mkdir()
    spec = RunSpec(run_id=folder.name, scenario="benchmark", engine=config, requests=asked)
    (folder / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "engine.worker", str(folder)]
    subprocess.run(command, check=True, cwd=ROOT, env=worker_environment(), capture_output=True)
    return step_ms(iterations(folder), streams)


async def stream(host: str, port: int, ids: list[int], tokens: int) -> int:
    """One stream, read to its end; how many chunks it had."""
    body = json.dumps({"prompt": ids, "max_tokens": tokens, "stream": True}).encode()
    reader, writer = await asyncio.open_connection(host, port)
    head = f"POST /v1/completions HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n"
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    chunks = 0
    while data := await reader.read(65536):
        chunks += data.count(b"data: {")
    writer.close()
    return chunks


async def all_streams(host: str, port: int, streams: int, tokens: int) -> None:
    counts = await asyncio.gather(*(stream(host, port, ids, tokens) for ids in prompts(streams)))
    assert all(counts), f"every stream is answered: {counts}"


def own_work_us(streams: int, steps: int = 2000) -> float:
    """Processor time of a step's telling: what everybody was given and the step's figures, as a line into the socket."""
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        door = engine_door.Door(Path(folder))
        place = socket.socket(socket.AF_UNIX)
        place.connect(f"{folder}/{DOOR_SOCKET}")
        door.heard()
        requests = [Request(n, RequestSpec(request_id=str(n), prompt="-"), [1], Sampling(), 9) for n in range(streams)]
        figures = dict.fromkeys((*STEP_STATES, *STEP_SUMS), 123_456)
        spent = 0
        for step in range(steps):
            for request in requests:
                request.token_ids.append(step)
            begun = time.process_time_ns()
            for request in requests:
                door.emitted(request, 1)
            door.stepped(figures)
            door.heard()
            spent += time.process_time_ns() - begun
            place.recv(1 << 20)
        place.close()
        door.close()
    return spent / steps / 1e3


class Door:
    """A door in a process of its own."""

    def __init__(self, home: Home, config: EngineConfig) -> None:
        settings = {
            "model": config.model,
            "device": "cpu",
            "max_num_seqs": config.max_num_seqs,
            "kv_blocks": config.kv_blocks,
            "chunked_prefill.token_budget": BUDGET,
            "sampling.ignore_eos": "on",
        }
        given = [part for name, value in settings.items() for part in ("--set", f"{name}={value}")]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli", "serve", "--port", "0", "--json", *given],
            cwd=ROOT,
            env=worker_environment() | {"SERVESCOPE_HOME": str(home.root)},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            text += self.process.stdout.readline()
        about = json.loads(text)
        self.host, _, port = about["url"].removeprefix("http://").partition(":")
        self.port = int(port)
        self.run_dir = home.run_dir(about["run_id"])

    def step_ms(self, streams: int, tokens: int) -> float:
        seen = len(iterations(self.run_dir))
        asyncio.run(all_streams(self.host, self.port, streams, tokens))
        rows: list[dict[str, Any]] = []
        while sum(row["emitted_tokens"] for row in rows) < streams * tokens:  # the recorder writes a little later
            time.sleep(0.1)
            rows = iterations(self.run_dir)[seen:]
        return step_ms(rows, streams)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=120)


def main() -> int:
    parser = arguments(__doc__)
    parser.add_argument("--streams", default="1,4,16,64", help="How many at once, one measurement for each.")
    parser.add_argument("--tokens", type=int, default=48, help="Output tokens of each stream.")
    parser.add_argument("--turns", type=int, default=2, help="Rounds of planned, door, door, planned.")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="The model that is served.")
    parser.add_argument("--own-work", action="store_true", help="Measure only what the engine's thread does for it.")
    options = parser.parse_args()
    report = Report("door")
    report.note_load()
    counts = [int(text) for text in options.streams.split(",")]
    name = f"the engine's own work for the door, {GOAL_AT} streams"
    report.figure(name, own_work_us(GOAL_AT), "us a step", goal=OWN_US, better="lower")
    if not options.own_work:
        measure(report, counts, options)
    return report.finish(options)


def measure(report: Report, counts: Sequence[int], options: argparse.Namespace) -> None:
    """Take all turns and fill the report."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        home = Home(Path(folder)).prepare()
        config = engine_config(options.model, max(counts), options.tokens)
        door = Door(home, config)
        try:
            for streams in counts:
                door.step_ms(streams, options.tokens)  # for what is done once
                times: dict[str, list[float]] = {"planned": [], "door": []}
                for turn in range(options.turns):
                    for place, side in enumerate(("planned", "door", "door", "planned")):
                        if side == "door":
                            taken = door.step_ms(streams, options.tokens)
                        else:
                            name = f"planned-{streams}-{turn}-{place}"
                            taken = planned(home.runs / name, config, streams, options.tokens)
                        times[side].append(taken)
                without, with_door = (statistics.median(times[side]) for side in ("planned", "door"))
                rows.append([streams, f"{without:.2f}", f"{with_door:.2f}", f"{without / with_door:.3f}"])
                ratios = [a / b for a, b in zip(times["planned"], times["door"], strict=True)]
                report.figure(
                    f"throughput through the door over a planned run, {streams} streams",
                    without / with_door,
                    "x",
                    goal=GOAL if streams == GOAL_AT else None,
                    spread=(min(ratios), max(ratios)),
                )
                report.note_load()
        finally:
            door.close()
    columns = ["streams", "planned, ms a step", "door, ms a step", "throughput, door / planned"]
    report.table("What HTTP costs the engine", columns, rows)


if __name__ == "__main__":
    sys.exit(main())
