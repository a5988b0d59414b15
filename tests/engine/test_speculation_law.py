"""Sampled text with speculation has the target's distribution, whoever guesses; a biased verification would be noticed."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from engine.config import RequestSpec, Sampling
from engine.request import NO_DRAFT, Draft, Request
from engine.sampling import SamplingState, distribution, draw
from engine.scheduling.plan import Slice
from engine.speculation import verify as verification
from engine.speculation.base import Proposer
from engine.speculation.head import Head, TrainedHead
from engine.speculation.lookup import PromptLookup
from engine.speculation.models import DraftModel, LayerSkip

VOCAB = 8
DRAWS = 100_000
COMPANY = 400  # requests verified in one call
SAMPLING = Sampling(temperature=0.8, top_p=0.97, top_k=7)
GUESSES = 3


def markov(seed: int) -> torch.Tensor:
    """Logits [previous token, next token]: a whole language model for these tests."""
    return torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed)) * 1.2


TARGET = markov(1)


class MarkovDecoder:
    """Stands where the decoder does in a proposer: its text has the law of a table instead of a network's."""

    device = torch.device("cpu")
    layers = (None,) * 4
    shape = SimpleNamespace(max_position=10_000)

    def forward(self, token_ids, positions, attention, layers=None):
        return token_ids

    def logits(self, hidden):
        return (TARGET + 0.7 * markov(2))[hidden]


class MarkovHead(Head):
    """The same for a trained head that cannot guess two of the tokens; its pointer may, and is trusted too much."""

    def __init__(self) -> None:
        self.decoder = MarkovDecoder()
        self.vocabulary = torch.tensor([0, 1, 2, 4, 5, 7])
        self._pointer = torch.tensor([0.0, -2.0, -0.5, 1.0])
        self._place = torch.tensor([0, 1, 2, -1, 3, 4, -1, 5])

    def forward(self, carried, token_ids, positions, attention):
        return token_ids

    def laws(self, hidden):
        return self.decoder.logits(hidden)[:, self.vocabulary].log_softmax(-1)


def proposer(name: str) -> Proposer:
    attention = SimpleNamespace(begin=lambda batch: None, cache=SimpleNamespace(block_size=4096))
    if name == "prompt-lookup":
        return PromptLookup(1, 3)
    if name == "layer-skip":
        return LayerSkip(MarkovDecoder(), attention, 2.0)
    if name == "trained-head":
        target = SimpleNamespace(decoder=MarkovDecoder(), shape=SimpleNamespace(vocab=VOCAB))
        return TrainedHead(MarkovHead(), target, attention)
    return DraftModel(MarkovDecoder(), attention, catch_up=4096)


def make_requests(sampling: Sampling) -> list[Request]:
    requests = []
    for i in range(COMPANY):
        prompt = [i % VOCAB, (3 * i + 1) % VOCAB]
        request = Request(i, RequestSpec(request_id=str(i), prompt="-"), prompt, sampling, 10_000)
        request.sampling_state = SamplingState(
            sampling, run_seed=11, number=i, seed=None, vocab=VOCAB, device=torch.device("cpu")
        )
        request.num_computed_tokens = len(prompt) - 1
        request.block_table = [0]
        requests.append(request)
    return requests


def transitions(guesser: Proposer, least: int) -> tuple[np.ndarray, int]:
    """Counts [previous, next] of at least that many emitted tokens, and how many of them were accepted guesses."""
    requests = make_requests(SAMPLING)
    counts = np.zeros((VOCAB, VOCAB), dtype=np.int64)
    accepted = 0
    while counts.sum() < least:
        drafts = guesser.propose(requests, [GUESSES] * len(requests))
        parts, rows = [], []
        for request, draft in zip(requests, drafts, strict=True):
            request.draft = draft
            drafted = len(draft.tokens)
            parts.append(Slice(request, 1 + drafted, request.num_computed_tokens, False, drafted=drafted))
            rows += [request.token_ids[-1], *draft.tokens]
        emitted = verification.verify(TARGET[torch.tensor(rows)], parts)
        guesser.observe(parts, torch.tensor(rows))
        for part, tokens in zip(parts, emitted, strict=True):
            request = part.request
            request.draft = NO_DRAFT
            for token in tokens:
                counts[request.token_ids[-1], token] += 1
                request.token_ids.append(token)
            request.num_computed_tokens += len(tokens)
            accepted += len(tokens) - 1
    return counts, accepted


def p_value(counts: np.ndarray) -> float:
    """Chi-square of the transitions against the target's filtered distribution."""
    law = distribution(TARGET, SAMPLING).double().numpy()
    assert not counts[law == 0].any(), "a token was emitted that the filters exclude"
    expected = counts.sum(1, keepdims=True) * law
    possible = expected > 0
    statistic = ((counts - expected)[possible] ** 2 / expected[possible]).sum()
    return float(chi2.sf(statistic, possible.sum() - VOCAB))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "prompt-lookup",
        *(pytest.param(name, marks=pytest.mark.rare) for name in ("trained-head", "layer-skip", "draft-model")),
    ],
)
def test_sampled_tokens_have_the_target_distribution(name: str):
    counts, accepted = transitions(proposer(name), DRAWS)
    assert DRAWS / 10 < accepted < DRAWS
    assert p_value(counts) > 0.001


def draws_from_target_instead_of_residual(logits: torch.Tensor, guess: Draft, state: SamplingState) -> list[int]:
    """The known mistake: after a rejection the token is drawn from p, which has just been held against q."""
    target = distribution(logits, state.sampling)

    def from_target(i: int) -> int:
        return int(draw(target[i][None], torch.tensor([state.uniform()], dtype=torch.float64)))

    for i, token in enumerate(guess.tokens):
        if state.uniform() * float(guess.laws[i, token]) >= float(target[i, token]):
            return [*guess.tokens[:i], from_target(i)]
    return [*guess.tokens, from_target(len(guess.tokens))]


def accepts_a_little_too_often(logits: torch.Tensor, guess: Draft, state: SamplingState) -> list[int]:
    """Acceptance with probability p / q + 0.1."""
    return HONEST(logits, Draft(guess.tokens, guess.laws / (1 + 0.1 * guess.laws)), state)


HONEST: Callable[..., list[int]] = verification.accept_or_resample


@pytest.mark.slow
@pytest.mark.parametrize("biased", [draws_from_target_instead_of_residual, accepts_a_little_too_often])
@pytest.mark.sampled(2)
def test_a_biased_verification_is_noticed(biased, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verification, "accept_or_resample", biased)
    counts, _ = transitions(proposer("layer-skip"), DRAWS // 2)
    assert p_value(counts) < 1e-6


def test_looked_up_guesses_leave_sampled_text_as_it_is_without_them():
    """Point masses are verified with the very numbers of the stream that plain sampling would use."""
    plain, guessed = make_requests(SAMPLING), make_requests(SAMPLING)
    for _ in range(12):
        parts = [Slice(r, 1, 0, False) for r in plain]
        logits = TARGET[torch.tensor([r.token_ids[-1] for r in plain])]
        for request, tokens in zip(plain, verification.verify(logits, parts), strict=True):
            request.token_ids += tokens
    lookup = PromptLookup(1, 3)
    for _ in range(12):
        drafts = lookup.propose(guessed, [GUESSES] * COMPANY)
        parts, rows = [], []
        for request, draft in zip(guessed, drafts, strict=True):
            request.draft = draft
            parts.append(Slice(request, 1 + len(draft.tokens), 0, False, drafted=len(draft.tokens)))
            rows += [request.token_ids[-1], *draft.tokens]
        for request, tokens in zip(guessed, verification.verify(TARGET[torch.tensor(rows)], parts), strict=True):
            request.draft = NO_DRAFT
            request.token_ids += tokens
    for a, b in zip(plain, guessed, strict=True):
        assert b.token_ids[: len(a.token_ids)] == a.token_ids
    assert sum(len(r.token_ids) for r in guessed) > 1.1 * sum(len(r.token_ids) for r in plain)
