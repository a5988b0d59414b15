"""Far KV pool: where each request's keys and values lay, and what attention in the far pool took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.panels.panel import FinishedRun, Panel

if TYPE_CHECKING:
    import duckdb

    from app.words.charts import ChartWords
    from app.words.table import Table


class FarPoolPanel(Panel):
    """See ``Panel``."""

    setting = "far_pool"

    def draw_charts(self, run: FinishedRun) -> None:
        from app.panels.far_pool.page import far_pool_section

        far_pool_section(run)

    def run_tables(self, con: duckdb.DuckDBPyConnection, run_id: str) -> Sequence[Table]:
        return self.comparison_tables(con, [run_id], "")

    def comparison_tables(
        self, con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], workload_hash: str
    ) -> Sequence[Table]:
        from app.panels.far_pool.tables import far_table
        from store import lending

        rows = lending.summary_query(run_ids).rows(con) if run_ids else []
        return [far_table(rows)] if rows else []

    def chart_words(self) -> Mapping[str, ChartWords]:
        from app.panels.far_pool.words import CHARTS

        return CHARTS
