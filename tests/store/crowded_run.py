"""A run of the real engine in which requests wait for everything there is to wait for, with the engine's own pool beside its rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import pytest

from engine.config import ChunkedPrefill, EngineConfig, Preemption, PrefixSharing, RequestSpec, Sampling
from engine.step_rows import StepRecorder
from store.database import Database
from store.ingest import Collector
from tests.engine.serving import make_spec, serve
from tests.row_maker import make_run, set_status

CROWDED, ROOMY, SWAPPED = "crowded", "roomy", "swapped"
BLOCK_SIZE = 4


@dataclass(frozen=True)
class Pool:
    """What the engine's books said when a step was recorded."""

    held: dict[int, set[tuple[int, int]]]  # block -> requests that hold it, with its place in their tables
    cached: set[int]


@dataclass
class Served:
    """The database of the runs, and the pool after each step of each run."""

    con: duckdb.DuckDBPyConnection
    pools: dict[str, list[Pool]] = field(default_factory=dict)


def _requests(count: int) -> tuple[RequestSpec, ...]:
    """Two groups of which one shares its beginning; they come in two waves."""
    shared = tuple(range(1, 18))
    return tuple(
        RequestSpec(
            request_id=f"r{n}",
            group="together" if n % 2 else "apart",
            arrival_ns=(n // (count // 2)) * 8_000_000 + n * 100_000,
            prompt_token_ids=(*shared, n % 5 + 20) if n % 2 else tuple(range(30 + n, 50 + 2 * n)),
            max_tokens=10 + 3 * (n % 4),
            sampling=Sampling(ignore_eos=True),
        )
        for n in range(count)
    )


def _engine(**settings: object) -> EngineConfig:
    common = {"model": "random:tiny", "device": "cpu", "threads": 1, "block_size": BLOCK_SIZE, "check_integrity": True}
    return EngineConfig.model_validate(common | settings)


RUNS = {
    CROWDED: _engine(
        kv_blocks=44,
        max_num_seqs=6,
        prefix_sharing=PrefixSharing(),
        chunked_prefill=ChunkedPrefill(token_budget=16),
    ),
    SWAPPED: _engine(
        kv_blocks=44, max_num_seqs=6, preemption=Preemption(), chunked_prefill=ChunkedPrefill(token_budget=16)
    ),
    ROOMY: _engine(kv_blocks=400, max_num_seqs=3, policy="prefill-first", chunked_prefill=None),
}


@contextmanager
def served_runs(folder: Path) -> Iterator[Served]:
    """The runs, served and in a database, for the length of the block."""
    with Database(folder / "db.duckdb") as database, database.read() as con:
        served = Served(con)
        collector = Collector(folder / "runs", database)
        step = StepRecorder.step

        def watched(self: StepRecorder, *args: object, **named: object) -> None:
            step(self, *args, **named)  # type: ignore[arg-type]
            pool, held = self.scheduler.pool, dict[int, set[tuple[int, int]]]()
            for request in self.scheduler.running:
                for place, block in enumerate(request.block_table):
                    held.setdefault(block, set()).add((request.index, place))
            pools.append(Pool(held, set(pool._cached)))

        with pytest.MonkeyPatch.context() as patch:  # other tests serve while the block lasts
            patch.setattr(StepRecorder, "step", watched)
            for run_id, engine in RUNS.items():
                pools = served.pools[run_id] = []
                run_dir = make_run(folder / "runs", run_id)
                serve(make_spec(engine, _requests(24)), run_dir)
                set_status(run_dir, "finished")
                collector.ingest_once(run_id)
        yield served
