"""Time to live: which turns' KV blocks were pinned while tools worked, and when whole programs were done."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.panels.panel import FinishedRun, Panel

if TYPE_CHECKING:
    import duckdb

    from app.words.charts import ChartWords
    from app.words.table import Table


class TimeToLivePanel(Panel):
    """See ``Panel``."""

    setting = "time_to_live"

    def draw_charts(self, run: FinishedRun) -> None:
        from app.panels.time_to_live.page import time_to_live_section

        time_to_live_section(run)

    def run_tables(self, con: duckdb.DuckDBPyConnection, run_id: str) -> Sequence[Table]:
        from app.panels.time_to_live.tables import pins_table
        from store import programs

        pins = programs.pins_query(run_id).rows(con)
        return [*_programs(con, [run_id]), pins_table(pins)] if pins else []

    def comparison_tables(
        self, con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], workload_hash: str
    ) -> Sequence[Table]:
        return _programs(con, run_ids)

    def chart_words(self) -> Mapping[str, ChartWords]:
        from app.panels.time_to_live.words import CHARTS

        return CHARTS


def _programs(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> Sequence[Table]:
    """A row for each run, those without pins included, where any has some."""
    from app.panels.time_to_live.tables import programs_table
    from store import programs

    if not run_ids or not programs.has_pins_query(run_ids).rows(con)[0]["pins"]:
        return []
    rows = programs.summary_query(run_ids).rows(con)
    return [programs_table(rows)] if rows else []
