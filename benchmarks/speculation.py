"""Speculative decoding on real weights: off, each proposer at its best fixed length, and the length that pays (SmartSpec).

Answers to copy-heavy prompts (edit this function, answer from this document) and to everyday questions (chat), 1, 4 and 16 requests at
once, on a GPU 64 too: where one ends the next begins, and tokens/s counts, prompts included, for as long as all places are taken (with a last few requests
in the end, one that is answered sooner would leave a place empty, and nothing would be won). All configurations serve the same prompts in one
process: proposer by proposer, each with plain decoding beside it, one after the other and back, each as a run is served, guesses tried out
before. ITL is the time between two iterations that gave a request tokens. A draft
model of the embedded model's vocabulary does not exist on its own, so the proposer draft-model is left out; layer-skip is the model
drafting for itself.

- *copy-heavy*: the best fixed choice against off at one request.
- *smart*: SmartSpec against the best fixed choice of its proposer (off among them), and against off, at every load.
- *accepted*: guesses the trained head gets accepted per verification at k = 3 on chat, the target's own token not counted.

``python -m benchmarks.speculation [--device cuda] [--repeats N] [--loads 1,4,16] [--workloads copy-heavy,chat] [--json FILE] [--check]``

The file is written after every load, so that one that is ended early leaves what it has; with ``--merge`` it keeps what it has of earlier
calls for the same commit on the same kind of machine, so that workloads can be measured in several calls.
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.harness import Report, as_a_worker, interleave, paired_ratio, summarise
from benchmarks.merging import arguments, earlier_results, finish, save
from engine.config import EMBEDDED_MODEL, ChunkedPrefill, EngineConfig, RequestSpec, RunSpec, Speculation
from engine.speculation.head import DEFAULT_HEAD
from engine.start.build import allocate, build_engine
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.requests import make_requests
from engine.start.speculation import load_guesser, make_speculator
from engine.start.trial import try_out
from engine.start.warmup import warm_up
from scenarios import texts
from scenarios.questions import ABOUT_A_TEXT, QUESTIONS
from telemetry.clock import RunClock
from telemetry.recorder import Recorder

REQUESTS = {1: 4, 4: 10, 16: 32, 64: 128}  # in all, by requests at once
TOKENS = {1: (96, 160), 4: (64, 128), 16: (64, 128)}  # of an answer, from .. to
COPY_GOAL, BEST_GOAL, OFF_GOAL, ACCEPTED_GOAL = 1.8, 0.9, 0.97, 1.5
FIXED = {"prompt-lookup": (3, 8), "trained-head": (1, 3), "layer-skip": (2,)}
SMART = {"prompt-lookup": 8, "trained-head": 4, "layer-skip": 4}


@dataclass(frozen=True)
class Served:
    """One run."""

    tokens_per_s: float
    itl_p50_ms: float
    itl_p99_ms: float
    tokens_per_pass: float  # emitted per request and iteration that gave it any
    accepted: float  # guesses per verification
    draft_share: float  # of the time
    answers: tuple[tuple[int, ...], ...]


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=2, help="measurements of each configuration")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="what is served; needs real weights")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--loads", help="requests at once: 1,4,16, on a GPU and 64")
    parser.add_argument("--workloads", default="copy-heavy,chat")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    options = parser.parse_args(words)
    path: Path | None = options.json
    earlier = earlier_results(parser, options)
    loads = [int(n) for n in (options.loads or ("1,4,16" if options.device == "cpu" else "1,4,16,64")).split(",")]
    report = Report("speculation", device=options.device)
    report.note_load()
    for workload in options.workloads.split(","):
        for load in loads:
            measure(report, options, workload, load)
            if path:
                save(path, report, earlier)
    report.note_load()
    return finish(report, options, path, earlier)


def variants(model: str) -> dict[str, Speculation | None]:
    """What is compared, by name; the head only where there is one for the model. Every proposer has plain decoding beside it."""
    choices: dict[str, Speculation | None] = {}
    for proposer, lengths in FIXED.items():
        if proposer == "trained-head" and (model != EMBEDDED_MODEL or not DEFAULT_HEAD.is_file()):
            continue
        choices[plain(proposer)] = None
        for k in lengths:
            choices[f"{proposer} k={k}"] = Speculation.model_validate(
                {"proposer": proposer, "control": "fixed", "k": k}
            )
        choices[f"{proposer} smart"] = Speculation.model_validate({"proposer": proposer, "k": SMART[proposer]})
    return choices


def plain(proposer: str) -> str:
    """What the proposer's runs are held against: no guesses, measured next to them, since a machine's speed changes by the minute."""
    return f"off, by {proposer}"


def proposer_of(name: str) -> str:
    return name.removeprefix("off, by ").partition(" ")[0]


def measure(report: Report, options: Any, workload: str, load: int) -> None:
    """All configurations at one load, and what the goals say of them."""
    prepared = prepare(asked(options.model, workload, load, options.threads, options.device))
    compared = variants(options.model)
    served: dict[str, list[Served]] = {}
    for _, group in groupby(compared, key=proposer_of):
        sides: dict[str, Callable[[], Served]] = {name: partial(serve, prepared, compared[name]) for name in group}
        served |= interleave(sides, options.repeats)
    at = f"{workload}, {load} at once"
    speed = {name: [run.tokens_per_s for run in runs] for name, runs in served.items()}
    rows = []
    for name, runs in served.items():
        off = plain(proposer_of(name))
        same = sum(a == b for a, b in zip(runs[0].answers, served[off][0].answers, strict=True))
        middle = {
            key: statistics.median(getattr(run, key) for run in runs)
            for key in ("tokens_per_s", "itl_p50_ms", "itl_p99_ms", "tokens_per_pass", "accepted", "draft_share")
        }
        rows.append(
            [name, *middle.values(), paired_ratio(speed[name], speed[off]).median, f"{same}/{len(runs[0].answers)}"]
        )
    columns = [
        "configuration",
        "tokens/s",
        "ITL p50, ms",
        "p99",
        "tokens per pass",
        "accepted",
        "drafting",
        "x off",
        "same",
    ]
    report.table(at, columns, rows)
    report.details.setdefault("runs", {})[at] = {
        name: [{k: v for k, v in asdict(run).items() if k != "answers"} for run in runs]
        for name, runs in served.items()
    }
    judge(report, workload, load, served)


def judge(report: Report, workload: str, load: int, served: dict[str, list[Served]]) -> None:
    """The goals' figures of one load."""
    at = f"{workload}, {load} at once"
    speed = {name: [run.tokens_per_s for run in runs] for name, runs in served.items()}
    fixed = [name for name in served if not name.endswith("smart")]
    if workload == "copy-heavy" and load == 1:
        best = max(fixed, key=lambda name: statistics.median(speed[name]))
        ratio = paired_ratio(speed[best], speed[plain(proposer_of(best))])
        report.figure(
            "copy-heavy at one request, best fixed / off",
            ratio.median,
            "x",
            goal=COPY_GOAL,
            spread=ratio.spread,
            note=best,
        )
    for smart in (name for name in served if name.endswith("smart")):
        proposer = smart.removesuffix(" smart")
        rivals = [name for name in fixed if proposer_of(name) == proposer]
        best = max(rivals, key=lambda name: statistics.median(speed[name]))
        for name, rival, goal in (("best fixed", best, BEST_GOAL), ("off", plain(proposer), OFF_GOAL)):
            ratio = paired_ratio(speed[smart], speed[rival])
            note = f"best fixed: {best}" if name == "best fixed" else None
            report.figure(f"{smart} / {name}, {at}", ratio.median, "x", goal=goal, spread=ratio.spread, note=note)
    if workload == "chat" and "trained-head k=3" in served:
        accepted = summarise([run.accepted for run in served["trained-head k=3"]])
        report.figure(
            f"accepted of 3 guesses, trained head, {at}",
            accepted.median,
            "tokens",
            goal=ACCEPTED_GOAL,
            spread=accepted.spread,
            note=f"{accepted.median + 1:.2f} with the target's own token, which some count in",
        )


def asked(model: str, workload: str, load: int, threads: int | None, device: str = "cpu") -> RunSpec:
    """Prompts of one workload, all at once."""
    requests = []
    fewest, most = TOKENS.get(load, (64, 128))
    for index in range(REQUESTS.get(load, 2 * load)):
        rng = random.Random(f"{workload} {index}")
        if workload == "chat":
            what: dict[str, Any] = {"prompt": QUESTIONS[index % len(QUESTIONS)], "chat": True}
        elif index % 2 == 0:
            function = texts.short_function(20, rng)
            note = "with nothing changed but this comment"
            parts = ("# version 1", function, f"\n\n# version 2, {note}", function, f"\n\n# version 3, {note}", "")
            what = {"prompt": "\n".join(parts)}
        else:
            question = rng.choice(ABOUT_A_TEXT)
            what = {"prompt": f"{texts.prose(120, rng)}\n\n{question}", "chat": True}
        requests.append(RequestSpec(request_id=str(index), max_tokens=rng.randint(fewest, most), **what))
    config = EngineConfig(
        model=model,
        device=device,
        threads=threads if device == "cpu" else None,
        kv_blocks=load * 64,
        max_num_seqs=load,
        chunked_prefill=ChunkedPrefill(token_budget=256),  # guesses are not to be short of budget
        recording="off",
        keep_text=False,
    )
    return RunSpec(run_id="bench", scenario="benchmark", engine=config, requests=tuple(requests))


def serve(prepared: Prepared, speculation: Speculation | None) -> Served:
    """Serve the prompts with the model at hand."""
    spec = prepared.spec.model_copy(
        update={"engine": prepared.spec.engine.model_copy(update={"speculation": speculation})}
    )
    requests = make_requests(spec, prepared.model, prepared.device, prepared.max_model_len)
    guesser = load_guesser(spec.engine, prepared.model)
    prepared = replace(prepared, spec=spec, requests=requests, guesser=guesser)
    warm_up(prepared)
    executor = allocate(prepared)
    drafter = make_speculator(prepared, executor.cache)
    if drafter is not None:
        try_out(prepared, executor, drafter)
    load = spec.engine.max_num_seqs
    emitted: dict[int, list[float]] = {request.index: [] for request in requests}
    counts = {"passes": 0, "tokens": 0, "verifies": 0, "accepted": 0, "draft_ns": 0}
    full = [0, 0]  # tokens and ns on the run's clock, as long as all places were taken
    folder = tempfile.TemporaryDirectory(prefix="servescope-bench-")
    with folder, Recorder(Path(folder.name), "off", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock, executor, drafter)
        finish = engine.finish

        def noted(plan: Any, batch: Any, tokens: Any, times: Any) -> None:
            finish(plan, batch, tokens, times)
            counts["draft_ns"] += plan.draft_ns
            for part in batch.sampled:
                emitted[part.request.index].append(times.end / 1e6)
                counts["passes"] += part.emitted > 0
                counts["tokens"] += part.emitted
                counts["verifies"] += part.drafted > 0
                counts["accepted"] += part.accepted
            if engine.scheduler.waiting or len(engine.scheduler.running) == load:
                full[:] = counts["tokens"], times.end - began

        engine.finish = noted  # type: ignore[method-assign]
        began = clock.now_ns()
        engine.run(requests)
        took = clock.now_ns() - began
    gaps = np.concatenate([np.diff(times) for times in emitted.values()])
    return Served(
        tokens_per_s=full[0] / full[1] * 1e9,
        itl_p50_ms=float(np.percentile(gaps, 50)),
        itl_p99_ms=float(np.percentile(gaps, 99)),
        tokens_per_pass=counts["tokens"] / counts["passes"],
        accepted=counts["accepted"] / max(1, counts["verifies"]),
        draft_share=counts["draft_ns"] / took,
        answers=tuple(tuple(request.output_token_ids) for request in requests),
    )


if __name__ == "__main__":
    as_a_worker()
    sys.exit(main())
