"""Claim files: the published ones are sound, and a bad one is answered with file, line, field and what would be right."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from app.claims.plan import planned
from scenarios import ScenarioError, papers
from scenarios.measurement import Figure, Point, Regime, Sweep
from scenarios.papers import claim_file
from scenarios.papers.claim import (
    Claim,
    Crossing,
    Difference,
    Gate,
    Level,
    Monotone,
    Plot,
    Quick,
    Rank,
    Ratio,
    Slope,
    Stated,
    Within,
)
from scenarios.papers.schema import CLAIM_SCHEMA, schema_text
from store import claim_figures

GOOD = (claim_file.folder() / "hydragen.yaml").read_text(encoding="utf-8")
EACH = pytest.mark.parametrize("name", claim_file.names())
PARTS = (
    Claim, Figure, Ratio, Difference, Level, Slope, Crossing, Monotone, Rank, Within, Gate, Regime, Point, Sweep, Plot, Quick,
    Stated,
)  # fmt: skip


@EACH
@pytest.mark.parametrize("quick", [True, False])
def test_every_claim_becomes_an_experiment_fixed_by_its_hash(name: str, quick: bool):
    claim = claim_file.claim(name)
    experiment, specs = planned(claim, claim_file.folder() / f"{name}.yaml", quick=quick)
    assert experiment.claim is not None
    assert (experiment.claim.paper, experiment.claim.quick) == (name, quick)
    assert experiment.claim.hash == claim_file.claim_hash(claim, quick)
    assert experiment.repeats == claim_file.repeats(claim, quick)
    assert len(specs) == len(claim.variants) * len(claim.points(quick))
    assert {spec.engine.seed for spec in specs.values()} == {claim.seed}


@EACH
def test_a_claim_is_that_of_a_card_and_its_plot_can_be_drawn(name: str):
    claim = claim_file.claim(name)
    assert name in papers.names()
    assert claim.repeats >= 5
    for shown in claim.plot.of:
        swept = claim.sweep is not None and claim.figures[shown].at is None
        assert claim.plot.kind == "bars" or swept


def test_a_card_says_that_it_runs_exactly_where_its_claim_does():
    assert {name for name, card in papers.cards().items() if card.status == "runs"} <= set(claim_file.names())


def test_the_published_schema_is_the_claims_own():
    assert CLAIM_SCHEMA.read_text(encoding="utf-8") == schema_text(Claim), (
        "python -m scenarios.papers.schema writes it anew"
    )


@pytest.mark.parametrize("model", PARTS, ids=lambda model: model.__name__)
def test_every_key_is_documented(model: type[BaseModel]):
    document = (Path(__file__).parents[2] / "docs" / "papers.md").read_text(encoding="utf-8")
    words = set(re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", document, flags=re.DOTALL)))
    assert set(model.model_fields) <= words


def test_every_metric_is_documented():
    document = (Path(__file__).parents[2] / "docs" / "papers.md").read_text(encoding="utf-8")
    own = [*claim_figures.STEP_FIGURES, *claim_figures.FITTED, *claim_figures.AGAINST_BASELINE]
    assert [name for name in own if f"`{name}`" not in document] == []


CIRCLE = "  each alone: {ratio: [together, each alone]}"
TWICE_ROUND = "  each alone: {ratio: [b, together]}\n  b: {difference: [together, each alone]}"
BAD = [
    ("says: ", "sais: ", "sais", "Did you mean says"),
    ("repeats: 5", "repeats: 1", "repeats", "2"),
    ("metric: decode_step_ms, of: each", "metric: decode_step, of: each", "figures.each alone.metric", "decode_step_ms"),
    ("of: each-alone}", "of: each-alon}", "figures.each alone.of", "each-alone"),
    ("of: [each alone, together], threshold", "of: [each alone, togther], threshold", "predicates.0.of.1", "together"),
    ("kind: slope", "kind: slop", "predicates.0.kind", "slope"),
    ("threshold: 4", "threshold: 1", "predicates.0.threshold", "above 1"),
    ("{kind: tokens-equal, of: [together]}", "{kind: matched, of: [together]}", "gates.0", "Change one of them"),
    ("of: each-alone, least: 0.5", "of: nobody, least: 0.5", "regimes.0.of", "each-alone"),
    ("least: 0.5,", "at: 77, least: 0.5,", "regimes.0.at", "Leave it out."),
    ("  each alone: {metric.*", CIRCLE, "figures.each alone", "metric of a variant"),
    ("  each alone: {metric.*", TWICE_ROUND, "figures.each alone", "metric of a variant"),
    ("scenario: shared-prompt", "scenario: shared-promt", "scenario", "shared-prompt"),
    ("  prefix_sharing: true", "  prefix_sharin: true", "set.prefix_sharin", "prefix_sharing"),
    ("attention: one-level}", "attention: one-levl}", "variants.together.prefix_sharing.attention", "one-level"),
    ("attention: one-level}", "attention: one-level, max_num_seqs: 8}", "variants.together", "max_num_seqs"),
    ("attention: one-level}", "attention: one-level, seed: 3}", "variants.together", "seed"),
    ("varies: .*", "varies: [policy]", "variants.together", "prefix_sharing.attention"),
    ("{x: 256, set", "{x: 4096, set", "sweep", "Change one of them"),
]  # fmt: skip


@pytest.mark.parametrize(("pattern", "new", "field", "mend"), BAD)
def test_a_bad_claim_is_refused_with_file_line_field_and_mend(
    tmp_path: Path, pattern: str, new: str, field: str, mend: str
):
    text, changed = re.subn(pattern if ".*" in pattern else re.escape(pattern), lambda _: new, GOOD, count=1)
    assert changed
    path = tmp_path / "hydragen.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError) as caught:
        planned(claim_file.read_claim(path), path, quick=False)
    where, _, named = caught.value.field.partition(": ")
    assert named == field
    assert mend in f"{caught.value.message} {caught.value.mend}"
    name, _, line = where.partition(":")
    assert name == "hydragen.yaml"
    first = field.split(".")[0]
    assert int(line) >= next(n for n, row in enumerate(text.splitlines(), 1) if row.startswith(first))


def test_a_claim_with_a_sweep_predicate_and_no_sweep_is_refused(tmp_path: Path):
    text = re.sub(r"sweep:\n(  .*\n)+", "", GOOD)
    text = re.sub(r"  points:\n(    .*\n)+", "", text)
    path = tmp_path / "hydragen.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ScenarioError, match="about a sweep"):
        claim_file.read_claim(path)


@pytest.mark.parametrize("name", ["h2o", "../hydragen", "no-such-paper", ""])
def test_a_paper_without_a_claim_is_refused_with_those_that_have_one(name: str):
    with pytest.raises(ScenarioError) as caught:
        claim_file.claim(name)
    assert "hydragen" in caught.value.mend


CHANGES = [
    ("metric: decode_step_ms, of: together", "metric: itl_ms, of: together"),
    ("threshold: 4", "threshold: 3"),
    ("varies: [", "seed: 7\nvaries: ["),
    ("attention: one-level", "attention: tree"),
    ("least: 0.5", "least: 0.4"),
    ("max_num_seqs: 32", "max_num_seqs: 31"),
    ("repeats: 3", "repeats: 4"),
]


@pytest.mark.parametrize(("old", "new"), CHANGES)
def test_what_decides_a_verdict_changes_the_hash(tmp_path: Path, old: str, new: str):
    assert hash_of(tmp_path, GOOD.replace(old, new, 1)) != hash_of(tmp_path, GOOD)


def test_prose_and_the_whole_runs_repeats_do_not_change_the_quick_hash(tmp_path: Path):
    text = re.sub("figure: throughput.*", "figure: much", GOOD).replace("repeats: 5", "repeats: 7")
    assert hash_of(tmp_path, text) == hash_of(tmp_path, GOOD)


def hash_of(folder: Path, text: str) -> str:
    path = folder / "hydragen.yaml"
    path.write_text(text, encoding="utf-8")
    return claim_file.claim_hash(claim_file.read_claim(path), quick=True)
