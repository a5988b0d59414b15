"""A paper's claim on the page: buttons on its card, a running one, what came of it, and the page of all verdicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from app.claims.judge import VERDICTS, Judgement
from app.claims.report import TITLE
from app.experiments.file import read_experiment, write_experiment
from app.lab import Lab
from app.views import paper_claim, paper_report
from scenarios.papers import claim_file
from tests.app.lab_process import lab_here
from tests.app.pages.test_page_papers import page_at, said, shown

EVIDENCE = {
    "claim": "It is faster.",
    "paper": {"figure": "up to 7x", "setup": "a large machine"},
    "differs": ["<b>Everything</b> differs."],
    "reasons": ["a over b: 2.0 (1.9 to 2.1), >= 1.5 is claimed: reproduced."],
    "gates": {"tokens-equal (b)": "held"},
    "figures": {"a": {"title": "A", "x": [None], "values": [2.0], "intervals": [(1.9, 2.1)]}},
    "notes": ["3 % of a step passes outside the model."],
}


@pytest.fixture(autouse=True)
def lab(tmp_path: Path) -> Iterator[Lab]:
    with lab_here(tmp_path, serves_experiments=False) as opened:
        yield opened


def judged(paper: str, verdict: str, *, quick: bool = True) -> Judgement:
    evidence = EVIDENCE | {"figures": dict.fromkeys(claim_file.claim(paper).plot.of, EVIDENCE["figures"]["a"])}  # type: ignore[index]
    return Judgement(paper, verdict, "x-none", quick, 1_800_000_000_000_000_000, evidence)  # type: ignore[arg-type]


def keys(page: AppTest) -> set[str]:
    return {str(button.key) for button in page.button}


def test_only_cards_with_a_claim_can_be_run() -> None:
    assert {"claim-quick", "claim-whole"} <= keys(page_at(paper="hydragen"))
    assert not {"claim-quick", "claim-whole"} & keys(page_at(paper="h2o"))


def test_a_pressed_button_fixes_the_claim_and_begins_its_runs(lab: Lab) -> None:
    page = page_at(paper="batchllm")
    assert "It was not run on this machine yet." in said(page)
    page.button(key="claim-quick").click().run()
    assert not page.exception
    (experiment_id,) = lab.home.experiment_ids()
    experiment = read_experiment(lab.home, experiment_id)
    assert experiment.claim is not None
    assert (experiment.claim.paper, experiment.claim.quick) == ("batchllm", True)
    assert experiment.claim.hash == claim_file.claim_hash(claim_file.claim("batchllm"), quick=True)
    assert page.button(key="claim-quick").disabled
    write_experiment(lab.home, replace(experiment, state="failed", problem="The engine <b>fell</b>."))
    page.run()
    assert "fell" in said(page)
    assert not page.button(key="claim-quick").disabled


def test_a_verdict_stands_with_the_papers_figure_and_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        paper_claim,
        "_verdicts",
        lambda lab, name, experiments: paper_claim._judgement(name, judged(name, "reproduced")),
    )
    page = page_at(paper="hydragen")
    text = said(page)
    for words in ("up to 7x", "a large machine", "2.0 (1.9 to 2.1)", VERDICTS["reproduced"], "outside the model"):
        assert words in text
    assert "<b>" not in "".join(str(part.value).replace("\\<", "") for part in page.markdown)


def test_the_gallery_is_narrowed_to_a_verdict_and_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    from app.views import papers

    monkeypatch.setattr(papers, "verdicts_here", lambda lab: {"hydragen": "reproduced", "kivi": "not reproduced"})
    page = page_at(verdict="reproduced")
    assert shown(page) == {"hydragen"}
    assert ":green-badge[reproduced]" in said(page)


def test_the_page_of_verdicts_has_the_newest_of_each_paper_and_those_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    judgements = [
        judged("hydragen", "reproduced"),
        judged("kivi", "inconclusive"),
        judged("kivi", "not reproduced", quick=False),
    ]
    monkeypatch.setattr(paper_report, "judgements_here", lambda lab: judgements)
    page = page_at(report="yes")
    assert page.title[0].value == TITLE
    cells = [str(cell) for table in page.table for cell in table.value.to_numpy().flat]
    assert ":green-badge[reproduced]" in cells
    assert ":orange-badge[not reproduced]" in cells
    assert not any("inconclusive" in cell for cell in cells)
    assert shown(page) == set(claim_file.names()) - {"hydragen", "kivi"}
