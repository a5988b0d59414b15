"""TTFT of prompts whose prefix lies in the KV pool, in host memory, on disk, or nowhere, served in turns in one run.

One request at a time. Each round brings a new document (nothing is found: recomputation) and comes back to the last one (the pool), to one
some rounds ago (host memory) and to one many rounds ago (disk), each with a question of its own at its end. Where a prefix was found is read
from the run's rows; requests that found it in several places are left out. Everything found is loaded (``kv_tiers.load=always``).
The disk tier's files may be answered from the system's memory: what is measured then is reading, checking and copying, not the disk.

Part ``codec``: the tier codec's levels on a real model's keys and values of held text. Bytes before over bytes after, relative error by layer, time
for a block, and what follows: the blocks of the text's first half go through the codec, then the second half is read.

Parts ``copies`` and ``adaptive`` (``benchmarks/tiers_beside.py``): copies beside the steps against those between them, and a level that follows a
link that changes against each level alone. Both over an emulated link.

``python -m benchmarks.tiers [--parts ttft,codec,copies,adaptive] [--device cpu|cuda] [--lengths 128,512] [--rounds N] [--json FILE] [--check]``
"""

from __future__ import annotations

import random
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import tiers_beside
from benchmarks.harness import Report, arguments, as_a_worker, some_of
from engine.config import EMBEDDED_MODEL, EngineConfig, KVTiers, PrefixSharing, RequestSpec, RunSpec, Sampling
from engine.kv.tier_codecs import TIER_CODECS, BlockForm
from engine.model.device import resolve_device
from engine.model.load import load as load_model
from engine.model.load import resolve
from engine.quality.reading import Reader
from engine.quality.tier_codecs import measure_tier_codec
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.sizing import block_bytes
from engine.texts import prose
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from telemetry.spool import SpoolReader, spool_path

BLOCK = 16
PLACES = ("nothing", "pool", "host", "disk")
IN_HOST, ON_DISK = 3, 9  # rounds ago
POOL, HOST, DISK = 2, 8, 64  # documents that fit
FASTER = 1.0  # goal: TTFT over that of recomputation
QUESTION = 8  # tokens
PARTS = ("ttft", "codec", "copies", "adaptive")
SMALLER = 7.4  # goal of delta-medium: bytes of float32 over those of the stream; 3.7 of 16 bits
MOST_APART = 0.1  # share of the blocks found that may have come from elsewhere


@dataclass(frozen=True)
class Asked:
    """One request's place, TTFT and time to load, with what was predicted [ms]."""

    place: str
    ttft_ms: float
    load_ms: float
    load_predicted_ms: float
    recompute_predicted_ms: float


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"), help="where it is measured")
    parser.add_argument("--model", default="random:smollm2-135m", help="what is served")
    parser.add_argument("--lengths", default="128,512", help="tokens of a document, several with commas between")
    parser.add_argument("--rounds", type=int, default=16, help="new documents")
    parser.add_argument(
        "--parts", type=some_of(PARTS), default=list(PARTS), help=f"some of {', '.join(PARTS)}, with commas"
    )
    parser.add_argument("--tokens", type=int, default=512, help="of the text that is encoded, and read on")
    options = parser.parse_args(words)
    report = Report("tiers", device=options.device)
    report.note_load()
    for length in (int(part) for part in options.lengths.split(",") if "ttft" in options.parts):
        by_place = measure(options.model, options.device, length, options.rounds)
        tell(report, length, by_place)
    if "codec" in options.parts:
        levels(report, options.device, options.tokens)
    longest = max(int(part) for part in options.lengths.split(","))
    if "copies" in options.parts:
        tiers_beside.copies(report, options.model, options.device, longest, max(1, options.rounds // 4))
    if "adaptive" in options.parts:
        tiers_beside.adaptive(report, options.model, options.device, longest, options.rounds)
    report.note_load()
    return report.finish(options)


def documents(length: int, rounds: int) -> tuple[RequestSpec, ...]:
    """The requests of one run, each after the one before."""
    dice = random.Random(length)
    texts = [[dice.randrange(10, 250) for _ in range(length)] for _ in range(rounds)]
    order = [n for new in range(rounds) for n in (new, new, new - IN_HOST, new - ON_DISK) if n >= 0]
    return tuple(
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=(*texts[n], *(dice.randrange(10, 250) for _ in range(QUESTION))),
            max_tokens=2,
            after=str(i - 1) if i else None,
        )
        for i, n in enumerate(order)
    )


def measure(model: str, device: str, length: int, rounds: int) -> dict[str, list[Asked]]:
    """Serve the documents; the requests by where their prefix was found."""
    blocks = length // BLOCK
    config = EngineConfig(
        model=model,
        device=device,
        threads=1 if device == "cpu" else None,
        cuda_graphs=False,
        block_size=BLOCK,
        kv_blocks=POOL * blocks + 2,
        max_num_seqs=1,
        prefix_sharing=PrefixSharing(copy_partial=False),
        sampling=Sampling(ignore_eos=True),
        keep_text=False,
    )
    spec = RunSpec(run_id="bench", scenario="benchmark", engine=config, requests=documents(length, rounds))
    prepared = prepare(spec)
    mib = block_bytes(prepared.model, BLOCK, None) * blocks / 2**20
    asked = KVTiers(host_mib=HOST * mib, disk_mib=DISK * mib, load="always")
    spec = spec.model_copy(update={"engine": config.model_copy(update={"kv_tiers": asked})})
    prepared = prepare(spec)
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        with Recorder(Path(folder), "full", clock := RunClock()) as recorder:
            build_engine(prepared, recorder, clock).run(prepared.requests)
        requests, loads = (rows_of(Path(folder), row) for row in ("request", "tier"))
    return sorted_by_place(requests, [row for row in loads if row["action"] == "load"], blocks)


def rows_of(folder: Path, row: str) -> list[dict[str, Any]]:
    path = spool_path(folder, row)
    return [r for part in SpoolReader(path).read() for r in part.batch.to_pylist()] if path.exists() else []


def sorted_by_place(
    requests: Sequence[dict[str, Any]], loads: Sequence[dict[str, Any]], blocks: int
) -> dict[str, list[Asked]]:
    """Requests whose prefix was found in one place, or nowhere. ``blocks``: of a document."""
    by_request = defaultdict(list)
    for load in loads:
        by_request[load["request"]].append(load)
    found: dict[str, list[Asked]] = {place: [] for place in PLACES}
    for row in requests:
        mine = by_request[row["request"]]
        counts = {tier: sum(load["blocks"] for load in mine if load["tier"] == tier) for tier in ("host", "disk")}
        counts["pool"] = row["cached_tokens"] // BLOCK - sum(counts.values())
        place = max(counts, key=lambda name: counts[name]) if any(counts.values()) else "nothing"
        if place != "nothing" and counts[place] < (1 - MOST_APART) * blocks:
            continue
        ns = {key: sum(load[key] or 0 for load in mine) for key in ("duration_ns", "load_ns", "recompute_ns")}
        ttft_ns = row["first_token_ns"] - row["arrival_ns"]
        found[place].append(Asked(place, *(value / 1e6 for value in (ttft_ns, *ns.values()))))
    return found


def tell(report: Report, length: int, by_place: dict[str, list[Asked]]) -> None:
    """A table of the places, and TTFT from each over that of recomputation."""
    rows = []
    for place, asked in by_place.items():
        keys = ("ttft_ms", "load_ms", "load_predicted_ms", "recompute_predicted_ms")
        medians = [statistics.median([getattr(a, key) for a in asked]) if asked else float("nan") for key in keys]
        rows.append([place, len(asked), *(f"{value:,.2f}" for value in medians)])
    columns = ["prefix found in", "requests", "TTFT, ms", "loading, ms", "predicted", "recompute, predicted"]
    report.table(f"Documents of {length} tokens, medians", columns, rows)
    computed = statistics.median([a.ttft_ms for a in by_place["nothing"]])
    for place in PLACES[1:]:
        ratios = [a.ttft_ms / computed for a in by_place[place]]
        if ratios:
            spread = (min(ratios), max(ratios))
            figure = f"TTFT, {length} tokens, prefix in {place} / recomputed"
            report.figure(figure, statistics.median(ratios), "x", goal=FASTER, better="lower", spread=spread)


def levels(report: Report, device: str, tokens: int) -> None:
    """A table of the codec's levels, in float32; in 16 bits the ratios are half of it."""
    model = load_model(resolve(EMBEDDED_MODEL), resolve_device(device), torch.float32, seed=0)
    reader = Reader(model, BLOCK)
    ids = model.tokenizer.encode(prose("held")[: 8 * tokens])[:tokens]
    shape, rows = model.shape, []
    for name, make in TIER_CODECS.items():
        form = BlockForm(shape.layers, shape.kv_heads, BLOCK, shape.head_dim, model.dtype)
        cost = measure_tier_codec(reader, make(form), ids, tokens // 2)
        errors = [f"{100 * side[0]:.1f} to {100 * side[-1]:.1f}" for side in (cost.key_error, cost.value_error)]
        lost = [f"{cost.kl:.4f}", f"{cost.agreement:.1%}", f"{cost.perplexity / cost.perplexity_before - 1:+.1%}"]
        rows.append([name, f"{cost.ratio:.2f}", *errors, *lost, f"{cost.encode_ms:.0f}, {cost.decode_ms:.0f}"])
        goal = SMALLER if name == "delta-medium" else None
        report.figure(f"Bytes of float32 before / after, {name}", cost.ratio, "x", goal=goal)
        report.figure(f"KL divergence, {name}", cost.kl, "nats", better="lower")
    columns = ["level", "ratio", "keys, %", "values, %", "KL, nats", "same", "perplexity", "ms"]
    report.table(
        f"Tier codec, {tokens // 2} tokens encoded, {tokens - tokens // 2} read on: errors from the first layer to the "
        "last, same most likely token, encoding and decoding a block",
        columns,
        rows,
    )


if __name__ == "__main__":
    as_a_worker()
    sys.exit(main())
