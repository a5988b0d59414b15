"""Sampling draws from the right distribution, and a request's company never changes its tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from engine.config import Sampling
from engine.sampling import SamplingState, distribution, sample
from tests.examples import examples

CPU = torch.device("cpu")


def state(vocab: int, number: int = 0, *, run_seed: int = 0, seed: int | None = None, **settings: Any) -> SamplingState:
    return SamplingState(Sampling(**settings), run_seed=run_seed, number=number, seed=seed, vocab=vocab, device=CPU)


def rows(count: int, vocab: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(count, vocab, generator=torch.Generator().manual_seed(seed)) * spread


def test_greedy_takes_the_most_likely_token():
    logits = rows(5, 100)
    tokens = sample(logits, [state(100, i) for i in range(5)])
    assert tokens.tolist() == logits.argmax(-1).tolist()
    assert tokens.dtype == torch.int64


def test_greedy_honours_the_repetition_penalty():
    logits = torch.tensor([[2.0, 1.9, -1.0]])
    penalised = state(3, repetition_penalty=1.5)
    assert sample(logits, [penalised]).tolist() == [0]
    penalised.observe([0])
    assert sample(logits, [penalised]).tolist() == [1]
    penalised.observe([1])
    assert sample(logits, [penalised]).tolist() == [0]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"temperature": 1.3, "top_k": 7},
        {"temperature": 1.0, "top_p": 0.8},
        {"temperature": 1.0, "min_p": 0.1},
        {"temperature": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.02},
        {"temperature": 0.9, "repetition_penalty": 1.4},
        {"temperature": 1.1, "repetition_penalty": 0.8, "top_k": 9, "top_p": 0.7},
    ],
    ids=str,
)
def test_filters_are_those_of_transformers(settings: dict[str, Any]):
    from transformers.generation import logits_process as theirs

    vocab, seen = 60, torch.arange(0, 60, 4)
    logits = rows(6, vocab, seed=4)
    processors = []
    if "repetition_penalty" in settings:
        processors.append(theirs.RepetitionPenaltyLogitsProcessor(settings["repetition_penalty"]))
    processors.append(theirs.TemperatureLogitsWarper(settings["temperature"]))
    if "top_k" in settings:
        processors.append(theirs.TopKLogitsWarper(settings["top_k"]))
    if "top_p" in settings:
        processors.append(theirs.TopPLogitsWarper(settings["top_p"]))
    if "min_p" in settings:
        processors.append(theirs.MinPLogitsWarper(settings["min_p"]))
    expected = logits
    for processor in processors:
        expected = processor(seen.expand(6, -1), expected)
    mask = torch.zeros(vocab, dtype=torch.bool)
    mask[seen] = True
    ours = distribution(logits, Sampling(**settings), mask)
    torch.testing.assert_close(ours, expected.softmax(-1), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("spread", [0.3, 2.0, 8.0], ids=["flat", "middling", "peaked"])
def test_top_p_is_exact_however_many_tokens_it_takes(spread: float):
    from transformers.generation import TopPLogitsWarper

    logits = rows(4, 9000, seed=6, spread=spread)
    expected = TopPLogitsWarper(0.9)(torch.empty(0), logits).softmax(-1)
    ours = distribution(logits, Sampling(temperature=1.0, top_p=0.9))
    assert torch.equal((ours > 0).sum(-1), (expected > 0).sum(-1))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-9)


def test_greedy_distribution_is_one_token():
    probabilities = distribution(torch.tensor([0.0, 5.0, 1.0]), Sampling())
    assert probabilities.tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 1.0},
        {"temperature": 0.6, "top_k": 5},
        {"temperature": 1.5, "top_p": 0.7},
        {"temperature": 1.0, "min_p": 0.2},
    ],
    ids=str,
)
def test_tokens_come_as_often_as_their_probability_says(settings: dict[str, Any]):
    draws, vocab = 4000, 12
    logits = rows(1, vocab, seed=9, spread=1.0)
    expected = distribution(logits[0], Sampling(**settings)).double() * draws
    request = state(vocab, seed=1, **settings)
    tokens = torch.stack([sample(logits, [request])[0] for _ in range(draws)])
    counts = torch.bincount(tokens, minlength=vocab)
    possible = expected > 0
    assert bool((counts[~possible] == 0).all())
    assert chisquare(counts[possible], expected[possible] / expected.sum() * draws).pvalue > 1e-4


SETTINGS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.5, 1.0]),
        "top_k": st.sampled_from([0, 1, 40]),
        "top_p": st.sampled_from([1.0, 0.9, 0.999]),
        "min_p": st.sampled_from([0.0, 0.05]),
        "repetition_penalty": st.sampled_from([1.0, 1.3]),
    }
)


@settings(max_examples=examples(40), deadline=None)
@given(
    batch=st.lists(SETTINGS, min_size=1, max_size=6), half=st.booleans(), flat=st.booleans(), seed=st.integers(0, 99)
)
def test_company_never_changes_a_request(batch: list[dict[str, Any]], half: bool, flat: bool, seed: int):
    """Also where logits tie (rounded to bfloat16), and where top-p needs more than the first candidates (flat logits)."""
    vocab, steps = 9000, 3

    def states() -> list[SamplingState]:
        made = [state(vocab, number, run_seed=seed, **chosen) for number, chosen in enumerate(batch)]
        for one in made:
            one.observe(range(0, vocab, 7))
        return made

    logits = [rows(len(batch), vocab, seed=seed + step, spread=0.5 if flat else 3.0) for step in range(steps)]
    if half:
        logits = [step.bfloat16().float() for step in logits]
    together = states()
    joint = []
    for step in logits:
        tokens = sample(step, together).tolist()
        for one, token in zip(together, tokens, strict=True):
            one.observe([token])
        joint.append(tokens)
    for row, lone in enumerate(states()):
        for step, tokens in zip(logits, joint, strict=True):
            token = int(sample(step[row : row + 1], [lone])[0])
            assert token == tokens[row]
            lone.observe([token])


def test_streams_differ_between_requests_and_runs_but_a_seed_fixes_them():
    logits = torch.zeros(1, 50_000)

    def draw(**names: Any) -> list[int]:
        request = state(50_000, temperature=1.0, **names)
        return [int(sample(logits, [request])[0]) for _ in range(4)]

    assert draw(number=3, run_seed=1) == draw(number=3, run_seed=1)
    assert draw(number=3, run_seed=1) != draw(number=4, run_seed=1)
    assert draw(number=3, run_seed=1) != draw(number=3, run_seed=2)
    assert draw(number=3, run_seed=1, seed=5) == draw(number=8, run_seed=2, seed=5)
    assert draw(seed=5) != draw(seed=6)


def test_greedy_requests_draw_nothing_from_a_stream():
    assert state(10).generator is None


def test_sampling_leaves_the_logits_as_they_were():
    logits = rows(3, 50)
    before = logits.clone()
    request = [state(50, i, temperature=0.5, top_p=0.9, repetition_penalty=1.2) for i in range(3)]
    for one in request:
        one.observe([1, 2, 3])
    sample(logits, request)
    assert torch.equal(logits, before)


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1.0 - 2.0**-53])
def test_the_ends_of_a_stream_never_draw_what_was_filtered_out(uniform: float, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(SamplingState, "uniform", lambda self: uniform)
    logits = torch.tensor([[-9.0, 1.0, 0.5, -9.0]])
    for filters in ({"top_k": 2}, {"top_p": 0.9}, {"min_p": 0.1}):
        assert int(sample(logits, [state(4, temperature=1.0, **filters)])[0]) in (1, 2)
