"""Every verdict of this machine as one HTML file, with dates, evidence, and the paper's figure beside ours."""

from __future__ import annotations

from collections.abc import Sequence

from app.charts.claims import claim_chart
from app.claims.judge import VERDICTS, Judgement
from app.claims.records import latest
from app.claims.words import ended, sentences
from app.experiments.measured import figure_rows
from app.exports import html
from app.theme import LIGHT
from scenarios import papers
from scenarios.papers import claim_file

TITLE = "What reproduces on this machine"
INTERVALS = (
    "Intervals of 95 % by Student's t over repeats. Magnitudes are not compared with the paper's: hardware, "
    "model and baseline differ."
)


def claims_page(judgements: Sequence[Judgement]) -> str:
    """The page. ``judgements``: verdicts of any number of experiments; each paper's latest is shown in full."""
    best = latest(judgements)
    rows = [
        (papers.card(name).system, one.verdict, "quick" if one.quick else "whole", ended(one), one.experiment_id)
        for name, one in sorted(best.items())
    ]
    without = [papers.card(name).system for name in claim_file.names() if name not in best]
    told = [f"{verdict}: {meaning}" for verdict, meaning in VERDICTS.items() if any(row[1] == verdict for row in rows)]
    parts = [
        html.story(
            TITLE, "", [], told or ["No claim has been run yet. Run one with: servescope papers run NAME --quick"]
        ),
        html.section("Verdicts", html.table_of(("paper", "verdict", "run", "ended", "experiment"), rows), INTERVALS),
        *(_paper(name, one) for name, one in sorted(best.items())),
    ]
    if without:
        parts.append(html.section("Not run yet", "", f"{', '.join(without)}."))
    return html.page(TITLE, [*parts, html.fine_print(f"{len(best)} papers, {len(judgements)} experiments.")])


def _paper(name: str, judgement: Judgement) -> str:
    """One paper's verdict: sentences, the picture, the figures."""
    told = html.story(
        f"{papers.card(name).system}: {judgement.verdict}",
        judgement.evidence.get("claim", ""),
        [],
        sentences(judgement),
    )
    rows = figure_rows(judgement.figures)
    if not rows:
        return told
    claim = claim_file.claim(name)
    axis = claim.sweep.axis if claim.sweep else ""
    plot = claim.plot
    drawing = claim_chart(plot.kind, plot.of, judgement.evidence["figures"], LIGHT, title=plot.title, axis=axis)
    table = html.table_of(("figure", "what it is", "at", "here"), rows)
    gates = "; ".join(f"{gate}: {said}" for gate, said in judgement.evidence["gates"].items())
    return (
        told + html.chart_section([(plot.title, drawing)], thinned=False) + html.section("Figures", table, f"{gates}.")
    )
