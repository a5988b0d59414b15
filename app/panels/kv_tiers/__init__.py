"""KV tiers: which prefix blocks came back from host memory and from disk, and what that took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.panels.panel import FinishedRun, Panel, Words

if TYPE_CHECKING:
    import duckdb

    from app.words.charts import ChartWords
    from app.words.table import Table


class KVTiersPanel(Panel):
    """See ``Panel``."""

    setting = "kv_tiers"
    words = Words(
        labels={
            "damaged tier files": "Files of the disk tier were gone or not what had been written, so what they held "
            "was computed again.",
            "disk tier not written": "The disk tier's folder could not be written or was full, so blocks that "
            "it should have taken were lost and computed again.",
            "lossy tier codec": "Blocks on disk were rounded by a tier codec, so what was loaded from there is not "
            "exactly what was computed, and tokens may differ.",
            "emulated disk link": "Loading from the disk tier took as long as over a link of the rate that was set, "
            "not as long as this machine takes.",
        },
    )

    def draw_charts(self, run: FinishedRun) -> None:
        from app.panels.kv_tiers.page import tiers_section

        tiers_section(run)

    def run_tables(self, con: duckdb.DuckDBPyConnection, run_id: str) -> Sequence[Table]:
        from app.panels.kv_tiers.tables import loss_table, stack_table, ttft_table, waits_table, work_table
        from store import tiers

        work = tiers.work_query(run_id).rows(con)
        if not work:
            return []
        loss = tiers.loss_query(run_id).rows(con)
        tables = [
            work_table(work),
            ttft_table(tiers.ttft_query(run_id).rows(con)),
            stack_table(tiers.stack_query(run_id).rows(con)),
            waits_table(tiers.waits_query(run_id).rows(con)),
        ]
        return [*tables, loss_table(loss)] if loss else tables

    def chart_words(self) -> Mapping[str, ChartWords]:
        from app.panels.kv_tiers.words import CHARTS

        return CHARTS
