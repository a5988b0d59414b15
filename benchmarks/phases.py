"""Prefill and decode in one engine, in two, or in two with one pool: requests in time over the request rate, at equal threads and memory.

- *rates*: the same requests (Poisson arrivals, prompts of 48 to 96 tokens, 24 answered) at four rates, served by one engine with the
  policies stall-free and prefill-first, by two halves, and by two with one KV pool and one copy of the weights that lend idle cores. Each
  run is a real engine process, and in two halves two of them; placements take turns. SLO attainment with both bounds, TTFT alone and TPOT alone, counted over all submitted requests; bounds are so many times
  what a request alone sees in one engine with all threads.
- *scales*: the same rows with both bounds scaled.
- *lifetimes*: what two halves did with the mean request: prefill queue, prefill, decode queue, transfer, decode.

Two halves on one machine share its memory bandwidth and caches and have each a part of its cores, so this shows what keeping phases
apart costs and keeps, and not what a second device would give.

``python -m benchmarks.phases [--repeats N] [--threads N] [--model MODEL] [--json FILE] [--check]``
"""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import Report, arguments, as_a_worker, interleave, summarise, undisturbed
from engine.config import EngineConfig, Placement, RequestSpec, RunSpec, Sampling
from store.slo import STRICT_FACTOR, Alone, Slo, attainment, goodput
from telemetry.spool import SpoolReader, spool_path

BLOCK, BLOCKS = 16, 1024
REQUESTS = 16
OUTPUT = 24  # tokens
RATES = (0.4, 0.8, 1.2, 1.6)  # requests/s
SCALES = (0.4, 1.0, 2.0, 4.0)  # of both bounds
STEADIER = 1.0  # goal: p99 of the gaps between tokens, two halves over stall-free
PLACEMENTS: Mapping[str, Mapping[str, Any]] = {
    "stall-free": {},
    "prefill-first": {"chunked_prefill": None},
    "two halves": {"placement": Placement()},
    "one pool": {"placement": Placement(kind="partitioned", lend=True)},
}
APART = ("two halves", "one pool")


@dataclass(frozen=True)
class Served:
    """What one run's rows say, by request: NaN where a request got no such time."""

    ttft_ms: np.ndarray
    tpot_ms: np.ndarray
    prompt_tokens: np.ndarray
    gaps_ms: np.ndarray  # between tokens, of all requests
    tokens: list[list[int]]
    lifetimes_ms: dict[str, float]  # means; of two halves only
    others_percent: float

    def attained(self, slo: Slo, alone: Alone) -> float:
        reached = attainment(self.ttft_ms, self.tpot_ms, len(self.ttft_ms), slo, self.prompt_tokens, alone)
        assert reached is not None
        return reached


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=2, help="rounds of each placement")
    parser.add_argument("--threads", type=int, default=2, help="of one engine, or of both halves together")
    parser.add_argument("--model", default="random:smollm2-135m", help="what is served")
    options = parser.parse_args(words)
    report = Report("phases")
    report.note_load()
    base = EngineConfig(
        model=options.model,
        device="cpu",
        dtype="float32",
        threads=options.threads,
        block_size=BLOCK,
        kv_blocks=BLOCKS,
        sampling=Sampling(ignore_eos=True),
    )
    alone = seen_alone(base)
    report.figure("decode step of a request alone", alone.step_ms, "ms", better="lower")
    report.figure("prompt token of a request alone", alone.prompt_token_ms, "ms", better="lower")
    served = {rate: at_rate(base, rate, options.repeats) for rate in RATES}
    tell(report, served, alone)
    report.note_load()
    return report.finish(options)


def asked(rate: float, seed: int, requests: int = REQUESTS) -> tuple[RequestSpec, ...]:
    """Requests of one round, the same for every placement."""
    dice, at, found = random.Random(seed), 0.0, []
    for number in range(requests):
        prompt = tuple(dice.randrange(10, 250) for _ in range(dice.randint(48, 96)))
        found.append(
            RequestSpec(request_id=str(number), prompt_token_ids=prompt, max_tokens=OUTPUT, arrival_ns=int(at * 1e9))
        )
        at += dice.expovariate(rate)
    return tuple(found)


def at_rate(base: EngineConfig, rate: float, repeats: int) -> dict[str, list[Served]]:
    """Every placement, in turns; tokens must not differ."""
    rounds = {name: iter(range(repeats)) for name in PLACEMENTS}

    def side(name: str) -> Callable[[], Served]:
        config = base.model_copy(update=dict(PLACEMENTS[name]))
        return lambda: serve(config, asked(rate, seed=next(rounds[name])))

    served = interleave({name: side(name) for name in PLACEMENTS}, repeats)
    first, *others = served.values()
    for other in others:
        assert [run.tokens for run in other] == [run.tokens for run in first], "placements differ in their tokens"
    return served


def seen_alone(base: EngineConfig) -> Alone:
    """What a request with nobody beside it sees in one engine."""
    run = serve(base, asked(0.5, seed=99, requests=4))
    return Alone(float(np.median(run.gaps_ms)), float(np.median(run.ttft_ms / run.prompt_tokens)))


def serve(config: EngineConfig, requests: Sequence[RequestSpec]) -> Served:
    """A run in engine processes of its own, from its rows."""
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        spec = RunSpec(run_id="bench", scenario="benchmark", engine=config, requests=tuple(requests))
        (Path(folder) / "spec.json").write_text(spec.model_dump_json())

        def work() -> dict[str, Any]:
            command = [sys.executable, "-m", "engine.worker", folder]
            subprocess.run(command, check=True, capture_output=True, timeout=600)
            return {}

        others = float(undisturbed(work, 100.0, 1)["others_percent"])
        return read(Path(folder), others)


def read(run_dir: Path, others_percent: float) -> Served:
    rows = {
        row: [r for part in SpoolReader(spool_path(run_dir, row)).read() for r in part.batch.to_pylist()]
        for row in ("request", "slice", "handover")
    }
    requests = sorted(rows["request"], key=lambda r: r["request"])
    ttft = [_ms(r["arrival_ns"], r["first_token_ns"]) for r in requests]
    tpot = [_ms(r["first_token_ns"], r["end_ns"]) / max(1, r["output_tokens"] - 1) for r in requests]
    return Served(
        np.array(ttft),
        np.array(tpot),
        np.array([r["prompt_tokens"] for r in requests]),
        np.array([r["itl_ns"] / 1e6 for r in rows["slice"] if r["itl_ns"] is not None]),
        [r["output_token_ids"] for r in requests],
        lifetimes(requests, {row["request"]: row for row in rows["handover"]}),
        others_percent,
    )


def lifetimes(requests: Sequence[Mapping[str, Any]], handed: Mapping[int, Mapping[str, Any]]) -> dict[str, float]:
    """Means of the parts of a lifetime; empty where nobody was handed over."""
    pairs = [(r, handed[r["request"]]) for r in requests if r["request"] in handed]
    parts: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], float]] = {
        "prefill queue": lambda r, h: _ms(r["arrival_ns"], r["first_scheduled_ns"]),
        "prefill": lambda r, h: _ms(r["first_scheduled_ns"], r["first_token_ns"]),
        "decode queue": lambda r, h: _ms(h["prefilled_ns"], h["asked_ns"]) + _ms(h["end_ns"], h["joined_ns"]),
        "transfer": lambda r, h: _ms(h["asked_ns"], h["end_ns"]),
        "decode": lambda r, h: _ms(h["joined_ns"], r["end_ns"]),
    }
    return {name: statistics.fmean(part(r, h) for r, h in pairs) for name, part in parts.items()} if pairs else {}


def _ms(begin_ns: int | None, end_ns: int | None) -> float:
    return float("nan") if begin_ns is None or end_ns is None else (end_ns - begin_ns) / 1e6


def tell(report: Report, served: Mapping[float, Mapping[str, list[Served]]], alone: Alone) -> None:
    both, never = STRICT_FACTOR, float("inf")
    bounds = {
        "both": Slo("both", both, both, relative=True),
        "TTFT": Slo("ttft", both, never, relative=True),
        "TPOT": Slo("tpot", never, both, relative=True),
    }
    mean = {
        name: {
            (rate, word): statistics.fmean(run.attained(slo, alone) for run in of[name])
            for rate, of in served.items()
            for word, slo in bounds.items()
        }
        for name in PLACEMENTS
    }
    for word in bounds:
        rows = [[name, *(100 * mean[name][rate, word] for rate in RATES)] for name in PLACEMENTS]
        title = f"Requests in time, %: {word} within {both:g} x of a request alone, by rate (requests/s)"
        report.table(title, ["", *(f"{rate:g}" for rate in RATES)], rows)
    for name in PLACEMENTS:
        best = goodput(RATES, [mean[name][rate, "both"] for rate in RATES])
        report.figure(f"goodput, {name}", best or 0.0, "requests/s", note="highest rate measured with 90 % in time")
    middle = RATES[len(RATES) // 2]
    scales(report, served[middle], middle, alone)
    gaps(report, served)
    for name in APART:
        rows = [
            [f"{rate:g}", *(statistics.fmean(run.lifetimes_ms[part] for run in of[name]) for part in PARTS)]
            for rate, of in served.items()
        ]
        report.table(f"The mean request, {name}, ms, by rate", ["", *PARTS], rows)
    others = [run.others_percent for of in served.values() for runs in of.values() for run in runs]
    report.figure("others' work during the runs", max(others), "%", better="lower", note="the most of any run")
    report.busiest_percent = max(*others, report.busiest_percent or 0.0)


PARTS = ("prefill queue", "prefill", "decode queue", "transfer", "decode")


def scales(report: Report, served: Mapping[str, list[Served]], rate: float, alone: Alone) -> None:
    """Attainment over the SLO scale of DistServe's plots, at one rate."""
    slo = Slo("both", STRICT_FACTOR, STRICT_FACTOR, relative=True)
    rows = [
        [name, *(100 * statistics.fmean(run.attained(slo.scaled(scale), alone) for run in runs) for scale in SCALES)]
        for name, runs in served.items()
    ]
    title = f"Requests in time, %, at {rate:g} requests/s, by the scale of both bounds"
    report.table(title, ["", *(f"{scale:g}" for scale in SCALES)], rows)


def gaps(report: Report, served: Mapping[float, Mapping[str, list[Served]]]) -> None:
    """Gaps between tokens and first tokens at the highest rate."""
    rate = max(served)
    rows = []
    for name, runs in served[rate].items():
        p99, ttft = ([float(np.nanquantile(x, q)) for x in xs] for xs, q in (
            ([run.gaps_ms for run in runs], 0.99), ([run.ttft_ms for run in runs], 0.5),
        ))  # fmt: skip
        rows.append([name, statistics.median(p99), statistics.median(ttft)])
    report.table(f"At {rate:g} requests/s", ["", "p99 between tokens, ms", "median TTFT, ms"], rows)
    for name in APART:
        ratio = summarise(
            [
                float(np.quantile(apart.gaps_ms, 0.99) / np.quantile(one.gaps_ms, 0.99))
                for apart, one in zip(served[rate][name], served[rate]["stall-free"], strict=True)
            ]
        )
        goal = STEADIER if name == "two halves" else None
        report.figure(
            f"p99 between tokens, {name} / stall-free", ratio.median, "x", goal=goal, better="lower",
            spread=ratio.spread, note=f"at {rate:g} requests/s",
        )  # fmt: skip


if __name__ == "__main__":
    as_a_worker()
    sys.exit(main())
