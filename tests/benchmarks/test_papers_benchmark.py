"""The benchmark of papers' claims: what it has come to is on disk, whatever happens to the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from app.claims.judge import Judgement
from app.errors import LabError
from app.home import Home
from benchmarks import papers

DRAWN = {"title": "Ours", "x": [None], "values": [1.0], "intervals": [(0.9, 1.1)]}


def judgement(name: str) -> Judgement:
    return Judgement(name, "reproduced", f"x-{name}", True, 0, {"reasons": ["So."], "figures": {"ours": DRAWN}})


def test_a_run_that_is_cut_off_keeps_the_claims_it_has_come_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def run(home: Home, name: str, *, quick: bool) -> tuple[Judgement, float]:
        if name == "c":
            raise KeyboardInterrupt
        if name == "b":
            raise LabError("unfinished", field="experiment", value=name, message="1 of 3 repeats is there.")
        return judgement(name), 60.0

    monkeypatch.setattr(papers, "run", run)
    monkeypatch.setattr(papers.claim_file, "names", lambda: ("a", "b", "c"))
    monkeypatch.setattr(papers.Report, "note_load", lambda self: 0.0)
    file = tmp_path / "papers.json"
    with pytest.raises(KeyboardInterrupt):
        papers.main(["--quick", "--only", "a,b,c", "--json", str(file)])
    written = json.loads(file.read_text())
    assert list(written["details"]["judgements"]) == ["a"]
    assert {figure["name"]: figure["value"] for figure in written["figures"]}["claims without a verdict"] == 2
    assert written["details"]["seconds"] == {"a": 60.0}
    assert [table["title"] for table in written["details"]["tables"]] == ["a: figures"]


def test_a_claim_that_was_not_judged_by_its_figures_has_a_line_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    broken = Judgement("a", "invalid", "x-a", True, 0, {"reasons": ["The books do not balance."]})
    monkeypatch.setattr(papers, "run", lambda *_, **__: (broken, 60.0))
    monkeypatch.setattr(papers.claim_file, "names", lambda: ("a",))
    monkeypatch.setattr(papers.Report, "note_load", lambda self: 0.0)
    file = tmp_path / "papers.json"
    papers.main(["--quick", "--json", str(file)])
    assert json.loads(file.read_text())["details"]["judgements"]["a"]["verdict"] == "invalid"
