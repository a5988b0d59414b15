"""Preemption: who left the full KV pool, and what it cost to take them back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.panels.panel import FinishedRun, Panel, Words

if TYPE_CHECKING:
    import duckdb

    from app.words.charts import ChartWords
    from app.words.table import Table


class PreemptionPanel(Panel):
    """See ``Panel``."""

    setting = "preemption"
    words = Words(
        labels={
            "host memory full": "Some preempted requests found no room in host memory and were computed again.",
            "emulated link": "Copies of keys and values took as long as over a link of the rate that was set, not as "
            "long as this machine takes.",
        },
        reasons={
            "swapped_in": "there was room again",
            "host_full": "the KV pool was full, and host memory too",
        },
    )

    def decision_in_words(self, decision: Mapping[str, Any]) -> str | None:
        tokens = decision.get("tokens")
        if decision.get("action") == "admitted" and decision.get("reason") == "swapped_in":
            return f"Request {decision['request']} came back: keys and values of {tokens} tokens are copied in."
        if decision.get("action") != "preempted" or decision.get("value") is None:
            return None
        why = "a more important request had none" if decision.get("reason") == "priority" else "the KV pool was full"
        return (
            f"Request {decision['request']} gave up its place, because {why}; keys and values of its {tokens} tokens "
            "are kept in host memory."
        )

    def draw_charts(self, run: FinishedRun) -> None:
        from app.panels.preemption.page import preemption_section

        preemption_section(run)

    def run_tables(self, con: duckdb.DuckDBPyConnection, run_id: str) -> Sequence[Table]:
        from app.panels.preemption.tables import swaps_table
        from store import swaps

        rows = swaps.totals_query(run_id).rows(con)
        return [swaps_table(rows)] if rows else []

    def chart_words(self) -> Mapping[str, ChartWords]:
        from app.panels.preemption.words import CHARTS

        return CHARTS
