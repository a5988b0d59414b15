"""Speculation: what guessing did, and where each token of an answer came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.panels.panel import FinishedRun, Panel, Words
from app.words.charts import ChartWords


class Speculation(Panel):
    """See ``Panel``."""

    setting = "speculation"
    words = Words(
        labels={"synthetic acceptance": "Drafts were accepted by a random draw, not by the model."},
        actions={"speculation": "{request} now guesses {count} tokens ahead"},
        reasons={
            "acceptance": "of how many drafts were accepted lately",
            "probe": "the guess had to be checked again",
            "predicted": "that promised the most tokens per second",
        },
    )

    def draw_charts(self, run: FinishedRun) -> None:
        from app.panels.speculation.page import speculation_section

        speculation_section(run)

    def draw_answer(self, run: FinishedRun, request: Mapping[str, Any]) -> None:
        from app.panels.speculation.answer import token_origins_section

        token_origins_section(run, request)

    def chart_words(self) -> Mapping[str, ChartWords]:
        from app.panels.speculation.words import CHARTS

        return CHARTS

    def decision_in_words(self, decision: Mapping[str, Any]) -> str | None:
        if decision.get("reason") != "predicted":
            return None
        expected = f"; the step was expected to take {decision['value'] / 1e6:,.1f} ms" if decision.get("value") else ""
        return f"This step verifies {decision.get('tokens') or 'no'} guesses in all{expected}."
