"""A run's latencies as rows: of all requests, and of each group where there are groups; page, HTML and terminal render
them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from store.summary import LATENCY_FIGURES, latencies_of

ALL = "all requests"
NO_GROUP = "(no group)"
SHORT = {"ttft_ms": "TTFT", "itl_ms": "ITL", "itl_token_ms": "ITL per token", "tpot_ms": "TPOT", "e2e_ms": "E2E"}
COUNTED = (*LATENCY_FIGURES, "count")


@dataclass(frozen=True)
class LatencyRow:
    """One latency of one group. ``figures``: ``p50`` ... ``max`` in ms (None: the group has none), ``count`` of
    samples.
    """

    group: str
    metric: str
    title: str
    short: str
    figures: Mapping[str, Any]


def groups_of(summary: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The figures of all requests, then of each group by its name; of a run whose requests are one group, or none, only
    the first.
    """
    groups = summary.get("groups") or {}
    named = {group or NO_GROUP: figures for group, figures in groups.items()}
    return {ALL: summary} | (named if len(named) > 1 else {})


def latency_rows(summary: Mapping[str, Any]) -> list[LatencyRow]:
    """Of a run's summary, group by group."""
    titles = latencies_of(summary)
    short = SHORT | ({"itl_ms": "ITL per emission"} if "itl_token_ms" in titles else {})
    return [
        LatencyRow(group, metric, title, short[metric], figures.get(metric) or {})
        for group, figures in groups_of(summary).items()
        for metric, title in titles.items()
    ]
