"""Prefix sharing: what was spared, and the tree of prefixes."""

from __future__ import annotations

from collections.abc import Mapping

from app.panels.panel import FinishedRun, Panel, Words
from app.words.charts import ChartWords


class PrefixSharing(Panel):
    """See ``Panel``."""

    setting = "prefix_sharing"
    words = Words(
        reasons={
            "prefix": "another request computes the same tokens in this iteration",
            "recomputed": "they are needed again and computed a second time",
        },
    )

    def draw_charts(self, run: FinishedRun) -> None:
        from app.panels.prefix_sharing.page import prefix_section

        prefix_section(run)

    def draw_iteration(self, run: FinishedRun, iteration: int) -> None:
        from app.panels.prefix_sharing.played import played_tree

        played_tree(run, iteration)

    def chart_words(self) -> Mapping[str, ChartWords]:
        from app.panels.prefix_sharing.words import CHARTS

        return CHARTS
