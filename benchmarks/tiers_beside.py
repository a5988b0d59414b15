"""Tier copies beside the steps, and a codec that follows the link: parts ``copies`` and ``adaptive`` of ``benchmarks.tiers``.

``copies``: requests decode while documents come back from disk over an emulated link, with copies beside the steps and between them, in turns. What
others wait between two tokens, and TTFT of who comes back. ``adaptive``: documents come back over a link that changes between two rates, read at
each level of the tier codec and at the level that is chosen, in turns: how many have their first token within the bound, and what was read.
"""

from __future__ import annotations

import random
import statistics
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.harness import Report
from engine.config import EngineConfig, KVTiers, PrefixSharing, RequestSpec, RunSpec, Sampling
from engine.kv.tier_codecs import TIER_CODECS
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.sizing import block_bytes
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from telemetry.spool import SpoolReader, spool_path

BLOCK = 16
DOCUMENTS = 4
ANSWER = 32  # tokens of who decodes meanwhile
LOAD_S = 2.0  # a document over the link at full precision
BOUND_MS = 1500.0
TURN_S = 8.0
EVERY_S = 2.0  # a document comes back  # of the link's two rates
RATES = (4.0, 80.0)  # seconds of a document at full precision over the link


def decoding_beside(length: int, rounds: int) -> tuple[RequestSpec, ...]:
    """Documents one after another, again and again, while two requests decode all the time."""
    dice = random.Random(length)
    texts = [[dice.randrange(10, 250) for _ in range(length)] for _ in range(DOCUMENTS)]
    asked = []
    for number in range(DOCUMENTS * rounds):
        prompt = (*texts[number % DOCUMENTS], dice.randrange(10, 250))
        after = str(number - 1) if number else None
        asked.append(RequestSpec(request_id=str(number), prompt_token_ids=prompt, max_tokens=4, after=after))
    steady = [
        RequestSpec(
            request_id=f"decoding {line} {n}",
            prompt_token_ids=tuple(dice.choices(range(10, 250), k=8)),
            max_tokens=ANSWER,
            after=f"decoding {line} {n - 1}" if n else None,
            group="decoding",
        )
        for line in range(2)
        for n in range(4 * rounds)
    ]
    return (*steady, *asked)


def coming_back(length: int, rounds: int) -> tuple[RequestSpec, ...]:
    """Documents one after another, again and again, at a steady pace."""
    dice = random.Random(length)
    texts = [[dice.randrange(10, 250) for _ in range(length)] for _ in range(DOCUMENTS)]
    return tuple(
        RequestSpec(
            request_id=str(number),
            prompt_token_ids=(*texts[number % DOCUMENTS], dice.randrange(10, 250)),
            max_tokens=2,
            arrival_ns=round(number * EVERY_S * 1e9),
        )
        for number in range(DOCUMENTS * (rounds + 1))
    )


def serve(
    model: str, device: str, length: int, requests: tuple[RequestSpec, ...], kept: str, **tiers: Any
) -> dict[str, list[dict[str, Any]]]:
    """Serve requests from a pool with room for two documents, and host memory for a block; the run's rows by kind.

    Args:
        kept: row kinds to return, with spaces.
        tiers: settings; ``link_s`` and ``other_s`` are seconds of a document over the link.
    """
    blocks = length // BLOCK
    more = 0 if requests[0].group is None else 2 * (ANSWER // BLOCK + 2)
    config = EngineConfig(
        model=model,
        device=device,
        threads=1 if device == "cpu" else None,
        cuda_graphs=False,
        block_size=BLOCK,
        kv_blocks=2 * blocks + more + 4,
        prefix_sharing=PrefixSharing(copy_partial=False),
        sampling=Sampling(ignore_eos=True),
        keep_text=False,
    )
    spec = RunSpec(run_id="bench", scenario="benchmark", engine=config, requests=requests)
    nbytes = block_bytes(prepare(spec).model, BLOCK, None)
    for name, seconds in (("link_gb_per_s", tiers.pop("link_s")), ("link_other_gb_per_s", tiers.pop("other_s", None))):
        tiers[name] = None if seconds is None else nbytes * blocks / seconds / 1e9
    mib = 2**20
    asked = KVTiers(host_mib=1.01 * nbytes / mib, disk_mib=4 * DOCUMENTS * nbytes * blocks / mib, **tiers)
    prepared = prepare(spec.model_copy(update={"engine": config.model_copy(update={"kv_tiers": asked})}))
    with tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder:
        with Recorder(Path(folder), "full", clock := RunClock()) as recorder:
            build_engine(prepared, recorder, clock).run(prepared.requests)
        return {
            row: [r for part in SpoolReader(path).read() for r in part.batch.to_pylist()]
            for row in kept.split()
            if (path := spool_path(Path(folder), row)).exists()
        }


def copies(report: Report, model: str, device: str, length: int, rounds: int) -> None:
    """What others wait while a document is loaded, with copies beside the steps and between them."""
    gaps: dict[bool, list[float]] = {}
    first: dict[bool, list[float]] = defaultdict(list)
    worst: dict[bool, list[float]] = defaultdict(list)
    for number in range(rounds):
        for beside in (True, False) if number % 2 else (False, True):
            rows = serve(
                model, device, length, decoding_beside(length, 2), "request slice tier",
                load="always", asynchronous=beside, link_s=LOAD_S,
            )  # fmt: skip
            decoding = {row["request"] for row in rows["request"] if row["group"] == "decoding"}
            documents = sorted({row["request"] for row in rows["request"]} - decoding)
            began = max(row["iteration"] for row in rows["slice"] if row["request"] == documents[DOCUMENTS - 1])
            gaps[beside] = [  # once all documents were computed
                row["itl_ns"] / 1e6
                for row in rows["slice"]
                if row["request"] in decoding and row["itl_ns"] is not None and row["iteration"] > began
            ]
            worst[beside].append(statistics.quantiles(gaps[beside], n=100)[98])
            loaded = {row["request"] for row in rows["tier"] if row["action"] == "load"}
            first[beside] += [
                (row["first_token_ns"] - row["arrival_ns"]) / 1e6 for row in rows["request"] if row["request"] in loaded
            ]
    lines: list[list[Any]] = []
    for beside in (False, True):
        figures = (f"{statistics.median(values):,.1f}" for values in (worst[beside], first[beside]))
        lines.append(["beside the steps" if beside else "between the steps", *figures, len(first[beside])])
    columns = ["copies", "p99 between tokens of others, ms", "TTFT of who comes back, ms", "loads"]
    report.table(f"Documents of {length} tokens from disk, {LOAD_S} s over the link, while two decode", columns, lines)
    ratios = [a / b for a, b in zip(worst[True], worst[False], strict=True)]
    figure = "p99 between tokens of others, copies beside the steps / between them"
    report.figure(figure, statistics.median(ratios), "x", goal=0.5, better="lower", spread=(min(ratios), max(ratios)))


def adaptive(report: Report, model: str, device: str, length: int, rounds: int) -> None:
    """First tokens within the bound, by level, over a link that changes."""
    lines, shares = [], {}
    for level in (*TIER_CODECS, "adaptive"):
        rows = serve(
            model, device, length, coming_back(length, rounds), "request tier",
            load="always", codec=level, ttft_ms=BOUND_MS, link_s=RATES[0], other_s=RATES[1], link_turn_s=TURN_S,
        )  # fmt: skip
        back = [row for row in rows["request"] if row["request"] >= DOCUMENTS and row["first_token_ns"] is not None]
        ttft = [(row["first_token_ns"] - row["arrival_ns"]) / 1e6 for row in back]
        shares[level] = sum(ms <= BOUND_MS for ms in ttft) / len(ttft)
        read: dict[str, int] = defaultdict(int)
        for row in rows["tier"]:
            if row["tier"] == "disk" and row["action"] in ("load", "decline"):
                read[row["level"] or level] += row["blocks"]
        said = ", ".join(f"{name.removeprefix('delta-')} {blocks:,}" for name, blocks in read.items())
        lines.append([level, f"{shares[level]:.0%}", f"{statistics.median(ttft):,.0f}", f"{max(ttft):,.0f}", said])
    columns = ["level", f"TTFT within {BOUND_MS:,.0f} ms", "median, ms", "most, ms", "blocks read"]
    report.table(f"Documents of {length} tokens over a link that changes every {TURN_S:g} s", columns, lines)
    best = max(share for level, share in shares.items() if level != "adaptive")
    report.figure(
        "First tokens within the bound, adaptive less the best single level",
        shares["adaptive"] - best,
        "share",
        goal=0.0,
    )
