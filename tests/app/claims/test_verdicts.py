"""Verdicts from rows: planted faults make them invalid, a changed file stale, a missing regime says what would reach it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import duckdb
import pytest

from app.claims import judge as judging
from app.claims.judge import VERDICTS, judge_claim
from app.claims.plan import planned
from app.claims.records import claim_experiments, judgements, latest, rows_of
from app.claims.report import claims_page
from app.claims.words import heading, sentences
from app.errors import LabError
from app.experiments.file import read_experiment
from app.home import Home
from engine.config.errors import IntegrityError
from engine.failures import describe
from scenarios import papers
from scenarios.papers import claim_file
from scenarios.papers.claim import Claim
from store.plan import ClaimMark, Experiment
from tests.app.small_runs import served_experiment

CLAIM = """
says: Looking guesses up changes no token, and mistakes that batched speculation is known for do.
paper: {figure: 95 % of outputs are equal, setup: not this one}
differs: [A model of random weights.]
scenario: shared-prompt
set:
  model: "random:tiny"
  device: cpu
  threads: 1
  dtype: float32
  max_num_seqs: 4
  kv_blocks: 200
  sampling.temperature: 0.2
  workload.questions.requests: 6
  workload.questions.arrivals: {kind: at-once}
  workload.questions.prompt: {kind: tokens, low: 1, high: 60}
  workload.questions.prompt_tokens: 24
  workload.questions.output_tokens: 48
  workload.questions.ignore_eos: true
varies: [speculation]
variants:
  plain: {speculation: false}
  guesses: {speculation.control: fixed, speculation.k: 4, speculation.ngram_min: 1}
  no-rollback: {speculation.control: fixed, speculation.k: 4, speculation.ngram_min: 1, speculation.inject_bug: no-rollback}
  padding: {speculation.control: fixed, speculation.k: 4, speculation.ngram_min: 1, speculation.inject_bug: padding-in-text}
repeats: 2
quick: {repeats: 2}
figures:
  plain: {metric: computed_prompt_tokens, of: plain}
  guesses: {metric: computed_prompt_tokens, of: guesses}
  same: {metric: same_tokens, of: guesses}
predicates:
  - {kind: ratio, of: [plain, guesses], comparator: ">=", threshold: 1}
  - {kind: level, of: same, comparator: ">=", threshold: 1}
gates:
  - {kind: tokens-equal, of: [guesses]}
  - {kind: prefilled-once, of: [plain, guesses]}
plot: {kind: bars, of: [plain, guesses], title: Prompt tokens computed}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A store in which the claim above was run."""
    home = Home(tmp_path_factory.mktemp("claims") / "home").prepare()
    path = home.root / "eqspec.yaml"
    path.write_text(CLAIM, encoding="utf-8")
    experiment, specs = planned(claim_file.read_claim(path), path, quick=True)
    served_experiment(home, experiment, specs)
    return home


@pytest.fixture(scope="module")
def served(home: Home) -> Experiment:
    return claim_experiments(home)[0]


@pytest.fixture(scope="module")
def con(home: Home, served: Experiment) -> Iterator[duckdb.DuckDBPyConnection]:
    with rows_of(home, [served]) as con:
        yield con


def verdict_under(
    con: duckdb.DuckDBPyConnection,
    served: Experiment,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    text: str = CLAIM,
) -> judging.Judgement:
    """The verdict on the very same rows, had the claim been fixed as ``text`` before they were made."""
    claim = _use(monkeypatch, tmp_path, text)
    assert served.claim is not None
    mark = replace(served.claim, hash=claim_file.claim_hash(claim, quick=True))
    return judge_claim(con, replace(served, claim=mark))


def _use(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str) -> Claim:
    path = tmp_path / "eqspec.yaml"
    path.write_text(text, encoding="utf-8")
    claim = claim_file.read_claim(path)
    monkeypatch.setattr(claim_file, "claim", lambda name: claim)
    monkeypatch.setattr(claim_file, "names", lambda: ["eqspec"])
    return claim


def test_sound_outputs_and_figures_that_satisfy_the_claim_reproduce_it(con, served, monkeypatch, tmp_path):
    judgement = verdict_under(con, served, monkeypatch, tmp_path)
    assert judgement.verdict == "reproduced", judgement.evidence["reasons"]
    assert set(judgement.evidence["gates"].values()) == {"held"}
    assert judgement.evidence["figures"]["plain"]["values"] == [6 * 24]


@pytest.mark.parametrize("bug", ["no-rollback", "padding"])
def test_a_known_bug_makes_the_verdict_invalid_whatever_the_figures(con, served, monkeypatch, tmp_path, bug):
    text = CLAIM.replace("tokens-equal, of: [guesses]", f"tokens-equal, of: [guesses, {bug}]")
    judgement = verdict_under(con, served, monkeypatch, tmp_path, text)
    assert judgement.verdict == "invalid"
    assert any("the tokens of" in reason for reason in judgement.evidence["reasons"])
    assert all(predicate["outcome"] == "reproduced" for predicate in judgement.evidence["predicates"])


def test_a_quality_bound_is_a_gate_too(con, served, monkeypatch, tmp_path):
    lossy = "{kind: matched, of: [padding], least: 0.99}"
    text = CLAIM.replace("{kind: tokens-equal, of: [guesses]}", lossy)
    judgement = verdict_under(con, served, monkeypatch, tmp_path, text)
    assert judgement.verdict == "invalid"
    loose = text.replace("of: [padding], least: 0.99", "of: [guesses], least: 0.99")
    assert verdict_under(con, served, monkeypatch, tmp_path, loose).verdict == "reproduced"


def test_equal_tokens_in_another_number_format_are_no_gate(con, served, monkeypatch, tmp_path):
    from store import gates
    from store.claim_figures import RunFigures

    run = RunFigures("r", None, {"model": {"dtype": "bfloat16"}})  # type: ignore[arg-type]
    assert "float32" in gates.tokens_equal([(run, run)])
    lossy = RunFigures("r", None, {"model": {"dtype": "float32"}, "labels": ["lossy tier codec"]})  # type: ignore[arg-type]
    assert "lossy tier codec" in gates.tokens_equal([(lossy, lossy)])


@pytest.mark.parametrize(
    ("kind", "verdict"), [("integrity", "invalid"), ("not-finite", "invalid"), ("out-of-memory", None)]
)
def test_a_run_that_the_engines_own_checks_ended_makes_it_invalid(
    con, served, monkeypatch, tmp_path, kind: str, verdict: str | None
):
    claim = _use(monkeypatch, tmp_path, CLAIM)
    last = replace(served.turns[-1], done=False)
    mark = ClaimMark("eqspec", claim_file.claim_hash(claim, quick=True), quick=True)
    failed = replace(served, claim=mark, state="failed", turns=(*served.turns[:-1], last))
    error = {"kind": kind, "message": "request 0: ended, and still holds a place"}
    monkeypatch.setattr(judging.queries, "run", lambda con, run_id: {"error": error if run_id == last.run_id else None})
    if verdict is None:
        with pytest.raises(LabError, match="repeats are there"):
            judge_claim(con, failed)
    else:
        judgement = judge_claim(con, failed)
        assert (judgement.verdict, "holds a place" in judgement.evidence["reasons"][0]) == (verdict, True)


def test_a_run_says_that_its_own_checks_ended_it():
    assert describe(IntegrityError("request 0: ended, and still holds a place"))["kind"] in judging.BROKEN


def test_a_claim_changed_after_the_run_is_stale(con, served, monkeypatch, tmp_path):
    _use(monkeypatch, tmp_path, CLAIM.replace("threshold: 1}", "threshold: 0.9}", 1))
    assert judge_claim(con, served).verdict == "stale"
    _use(monkeypatch, tmp_path, CLAIM.replace("Looking guesses up", "To look guesses up"))
    assert judge_claim(con, served).verdict == "reproduced"


def test_a_regime_that_is_not_there_names_the_knob_and_the_size(con, served, monkeypatch, tmp_path):
    regime = "regimes:\n  - {kind: pool-full, of: plain, least: 0.99, knob: KV blocks (kv_blocks)}\nplot:"
    judgement = verdict_under(con, served, monkeypatch, tmp_path, CLAIM.replace("plot:", regime))
    assert judgement.verdict == "regime not reached"
    assert re.search(
        r"KV blocks \(kv_blocks\) would have to be \d+ blocks or fewer \(here 200\)", judgement.evidence["reasons"][0]
    )
    present = regime.replace("least: 0.99", "least: 0.01")
    assert verdict_under(con, served, monkeypatch, tmp_path, CLAIM.replace("plot:", present)).verdict == "reproduced"


def test_an_invalid_claim_stays_invalid_out_of_its_regime(con, served, monkeypatch, tmp_path):
    regime = "regimes:\n  - {kind: pool-full, of: plain, least: 0.99, knob: KV blocks (kv_blocks)}\nplot:"
    text = CLAIM.replace("plot:", regime).replace("of: [guesses]}", "of: [padding]}", 1)
    assert verdict_under(con, served, monkeypatch, tmp_path, text).verdict == "invalid"


def test_figures_outside_the_claim_do_not_reproduce_it(con, served, monkeypatch, tmp_path):
    text = CLAIM.replace("threshold: 1}", "threshold: 2}", 1)
    assert verdict_under(con, served, monkeypatch, tmp_path, text).verdict == "not reproduced"


def test_percentiles_of_too_few_requests_say_so(con, served, monkeypatch, tmp_path):
    text = CLAIM.replace("metric: computed_prompt_tokens, of: plain", "metric: ttft_ms_p99, of: plain")
    judgement = verdict_under(con, served, monkeypatch, tmp_path, text)
    assert any("too few of 6 samples" in note for note in judgement.evidence["notes"])


def test_a_verdict_comes_with_the_papers_figure_and_what_differs(con, served, monkeypatch, tmp_path):
    judgement = verdict_under(con, served, monkeypatch, tmp_path)
    words = " ".join(sentences(judgement))
    assert "95 % of outputs are equal" in words
    assert "A model of random weights." in words
    assert "outside the model" in words
    assert heading(judgement).startswith("reproduced, quick run of 20")


def test_the_report_shows_every_paper_once_and_escapes_what_it_shows(con, served, monkeypatch, tmp_path):
    text = CLAIM.replace("[A model of random weights.]", "['<script>alert(1)</script>']")
    judgement = verdict_under(con, served, monkeypatch, tmp_path, text)
    page = claims_page([judgement, judgement])
    assert page.count(f"<h1>{papers.card('eqspec').system}: reproduced</h1>") == 1
    assert "<script>alert(1)" not in page


def test_an_unfinished_experiment_has_no_verdict(con, served, monkeypatch, tmp_path):
    claim = _use(monkeypatch, tmp_path, CLAIM)
    assert served.claim is not None
    mark = replace(served.claim, hash=claim_file.claim_hash(claim, quick=True))
    half = replace(served, claim=mark, turns=tuple(replace(t, done=t.repeat == 0) for t in served.turns))
    with pytest.raises(LabError, match="1 of 2 repeats"):
        judge_claim(con, half)
    assert judgements(con, [half]) == []


def test_the_mark_outlives_the_file_and_the_newest_whole_verdict_counts(home, con, served, monkeypatch, tmp_path):
    assert read_experiment(home, served.experiment_id).claim == served.claim
    judgement = verdict_under(con, served, monkeypatch, tmp_path)
    whole = replace(judgement, quick=False, verdict="not reproduced", ended_unix_ns=judgement.ended_unix_ns - 1)
    stale = replace(whole, verdict="stale", ended_unix_ns=judgement.ended_unix_ns + 1)
    assert latest([judgement, whole, stale]) == {"eqspec": whole}


def test_every_verdict_has_its_meaning():
    assert len(VERDICTS) == 7
