"""Figures of runs side by side: as columns of the list, and for a few runs that were chosen from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.runs.facts import RunFacts
from app.settings import controls as book
from app.settings.given import shown

LATENCIES = {"ttft_ms": "TTFT", "itl_ms": "ITL", "tpot_ms": "TPOT", "e2e_ms": "E2E"}
SHARES = ("p50", "p95", "p99", "max")
COLUMNS: dict[str, str] = {
    "output_tokens_per_s": "output tokens/s",
    **{f"{name}.{share}": f"{title} {share}, ms" for name, title in LATENCIES.items() for share in SHARES},
    "preemptions": "preemptions",
    "prefix_hit_tokens": "prefix-cache hits, tokens",
    "draft_tokens": "draft tokens",
    "accepted_tokens": "accepted tokens",
    "peak_kv_tokens": "most tokens in the KV pool",
}
"""By a dotted path into a run's summary: what a column is called."""
USUAL = ("output_tokens_per_s", "ttft_ms.p50", "itl_ms.p99")
ONE_RUN = (
    "Single runs: what differs between them may be the machine's doing. Compare serves each several times, in turns, "
    "and says how sure it is."
)


def figure(figures: Mapping[str, Any] | None, column: str) -> float | None:
    """A figure of a run's summary, as a list shows it; None where it has none."""
    value = value_at(figures, column)
    return None if value is None else round(value, 3)


def value_at(figures: Mapping[str, Any] | None, column: str) -> float | None:
    """The figure itself."""
    value: Any = figures or {}
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def side_by_side(runs: Sequence[tuple[str, Mapping[str, Any] | None]]) -> list[dict[str, Any]]:
    """A row for each figure that any of the runs has, a column for each run. ``runs``: title and summary."""
    rows = []
    for column, title in COLUMNS.items():
        values = [figure(figures, column) for _, figures in runs]
        if any(value is not None for value in values):
            rows.append({"figure": title} | dict(zip(_apart([title for title, _ in runs]), values, strict=True)))
    return rows


def settings_apart(runs: Sequence[tuple[str, RunFacts]]) -> list[dict[str, str]]:
    """A row for each setting in which any of the runs differs from the others."""
    rows = []
    names = _apart([title for title, _ in runs])
    for control in book.controls():
        technique = control.path.rpartition(".")[0]
        engines = [facts.spec.engine for _, facts in runs]
        off = [bool(technique) and getattr(engine, technique) is None for engine in engines]
        values = [
            "–" if gone else shown(control, book.value_of(engine, control.path))
            for engine, gone in zip(engines, off, strict=True)
        ]
        if len(set(values)) > 1:
            rows.append({"setting": control.title} | dict(zip(names, values, strict=True)))
    return rows


def _apart(titles: Sequence[str]) -> list[str]:
    """The titles, numbered where two are alike."""
    return [f"{n + 1}: {title}" if list(titles).count(title) > 1 else title for n, title in enumerate(titles)]
