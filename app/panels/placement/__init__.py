"""Disaggregation: where requests' lifetimes went, what handing them over took, and how busy each half was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.panels.panel import FinishedRun, Panel

if TYPE_CHECKING:
    import duckdb

    from app.words.charts import ChartWords
    from app.words.table import Table


class PlacementPanel(Panel):
    """See ``Panel``."""

    setting = "placement"

    def draw_charts(self, run: FinishedRun) -> None:
        from app.panels.placement.page import placement_section

        placement_section(run)

    def run_tables(self, con: duckdb.DuckDBPyConnection, run_id: str) -> Sequence[Table]:
        from app.panels.placement.tables import halves_table
        from store import handovers

        rows = handovers.halves_query(run_id).rows(con)
        return [*_lifetimes(con, [run_id]), halves_table(rows)] if rows else []

    def comparison_tables(
        self, con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], workload_hash: str
    ) -> Sequence[Table]:
        return _lifetimes(con, run_ids)

    def chart_words(self) -> Mapping[str, ChartWords]:
        from app.panels.placement.words import CHARTS

        return CHARTS


def _lifetimes(con: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> Sequence[Table]:
    """A row for each run, those in one engine included, where any handed requests over."""
    from app.panels.placement.tables import lifetimes_table
    from store import handovers

    rows = handovers.parts_query(run_ids).rows(con)
    return [lifetimes_table(rows)] if any(row["handed_over"] for row in rows) else []
