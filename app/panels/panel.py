"""The contract of a panel: what one technique shows of a run, adds to a report and to the words of the lab."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from engine.config import EngineConfig

if TYPE_CHECKING:
    import duckdb

    from app.lab import Lab
    from app.runs.facts import RunFacts
    from app.words.charts import ChartWords
    from app.words.table import Table


@dataclass(frozen=True)
class FinishedRun:
    """What a panel draws from: a run that is over, and a cursor for the length of the drawing."""

    lab: Lab
    con: duckdb.DuckDBPyConnection
    facts: RunFacts
    row: Mapping[str, Any]  # the run's row, JSON columns decoded
    until_s: float = 0.0  # where the charts' common time axis ends


@dataclass(frozen=True)
class Words:
    """What a technique adds to the words of the lab."""

    labels: Mapping[str, str] = field(default_factory=dict)
    """What the labels mean that only this technique gives runs."""
    reasons: Mapping[str, str] = field(default_factory=dict)
    """The scheduler's reasons that come from this technique alone, as they stand after *because*."""
    actions: Mapping[str, str] = field(default_factory=dict)
    """The scheduler's actions likewise, with places for ``{request}``, ``{tokens}`` and ``{count}`` (*no* for none)."""
    glossary: Mapping[str, str] = field(default_factory=dict)
    """Words of the field, in a sentence each, that ``app/words/glossary.yaml`` lacks."""


class Panel:
    """One technique's share of the lab, found by ``app.panels.PANELS`` alone. Every method does nothing unless it is
    overridden.

    Importing a panel is cheap: what draws (Streamlit, Plotly) is imported inside its methods.
    """

    setting: ClassVar[str]
    """The technique, as its field of ``EngineConfig`` is named."""
    words: ClassVar[Words] = Words()

    def is_on(self, engine: EngineConfig) -> bool:
        return getattr(engine, self.setting) is not None

    def draw_charts(self, run: FinishedRun) -> None:
        """Draw what the technique did, below the run's other charts. Called for runs that had it on."""

    def draw_cache(self, run: FinishedRun) -> None:
        """Draw in the tab *KV cache*. Called for every run, as a run without the technique is what it is set
        against.
        """

    def draw_iteration(self, run: FinishedRun, iteration: int) -> None:
        """Draw below the pictures of an iteration, and follow them while they play. Called for runs that had the
        technique on.
        """

    def draw_answer(self, run: FinishedRun, request: Mapping[str, Any]) -> None:
        """Draw below the answer of a request (a row of ``requests``). Called for runs that had the technique on."""

    def run_tables(self, con: duckdb.DuckDBPyConnection, run_id: str) -> Sequence[Table]:
        """Tables for the report of a run. Called for every run."""
        return ()

    def comparison_tables(
        self, con: duckdb.DuckDBPyConnection, run_ids: Sequence[str], workload_hash: str
    ) -> Sequence[Table]:
        """Tables for the report of a comparison; ``run_ids``: the first run of each variant."""
        return ()

    def chart_words(self) -> Mapping[str, ChartWords]:
        """Title, explanation and provenance of the charts it draws."""
        return {}

    def decision_in_words(self, decision: Mapping[str, Any]) -> str | None:
        """A decision of the scheduler as a whole sentence, where the common form does not fit; None where it does."""
        return None
