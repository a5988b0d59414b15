"""KV quantization: room and quality per codec, and runs of the same requests with different codecs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from app.panels.panel import FinishedRun, Panel, Words
from app.words.charts import ChartWords
from app.words.table import Table

if TYPE_CHECKING:
    import duckdb


class KVQuantizationPanel(Panel):
    """See ``Panel``."""

    setting = "kv_quantization"
    words = Words(
        labels={
            "fp8 emulated": "This device has no 8-bit floating point: the text is what it would be, the speed is not.",
        },
        reasons={"tails": "the memory for exact windows beside the packed cache was taken"},
    )

    def draw_cache(self, run: FinishedRun) -> None:
        from app.panels.kv_quantization.quality_page import quality_section

        quality_section(run)

    def run_tables(self, con: duckdb.DuckDBPyConnection, run_id: str) -> Sequence[Table]:
        from app.panels.kv_quantization.tables import quality_table
        from store.quality import quality

        rows = quality(con, run_id)
        return [quality_table(rows)] if rows else []

    def comparison_tables(
        self, con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], workload_hash: str
    ) -> Sequence[Table]:
        from app.panels.kv_quantization.codec_runs import of_runs
        from app.panels.kv_quantization.tables import codec_table

        sides = of_runs(con, run_ids, workload_hash)
        return [codec_table(sides)] if len(sides.sides) > 1 else []

    def chart_words(self) -> Mapping[str, ChartWords]:
        from app.panels.kv_quantization.words import CHARTS

        return CHARTS
