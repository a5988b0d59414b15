"""Contiguous KV: what the pool's memory was used for, and what was mapped and given back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.panels.panel import FinishedRun, Panel

if TYPE_CHECKING:
    import duckdb

    from app.words.charts import ChartWords
    from app.words.table import Table


class KVLayoutPanel(Panel):
    """See ``Panel``."""

    setting = "kv_layout"

    def draw_charts(self, run: FinishedRun) -> None:
        from app.panels.kv_layout.page import layout_section

        layout_section(run)

    def run_tables(self, con: duckdb.DuckDBPyConnection, run_id: str) -> Sequence[Table]:
        return _tables(con, [run_id], 1)

    def comparison_tables(
        self, con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], workload_hash: str
    ) -> Sequence[Table]:
        return _tables(con, run_ids, 2)

    def chart_words(self) -> Mapping[str, ChartWords]:
        from app.panels.kv_layout.words import CHARTS

        return CHARTS


def _tables(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], least: int) -> Sequence[Table]:
    """A row for each run that recorded its layout, where there are so many."""
    from app.panels.kv_layout.tables import memory_table
    from store import layouts

    rows = layouts.totals_query(run_ids).rows(con)
    return [memory_table(rows)] if len(rows) >= least else []
