"""Drawing the next token: filters, then one draw from each request's own random stream.

Filters are applied in this order, as transformers does: repetition penalty, temperature, top-k, top-p, min-p. A row's
result depends on nothing but its logits, its settings and its stream, so the company a request is served in never
changes its text.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Protocol

import torch
import torch.nn.functional as F

from engine.config import Sampling
from engine.finite import BROKEN, broken_rows

_CANDIDATES = (256, 8192)  # most likely tokens looked at, step by step, where only top-p limits them


class SampledRow(Protocol):
    """What ``sample`` needs to know of one row."""

    @property
    def sampling(self) -> Sampling: ...
    @property
    def generator(self) -> torch.Generator | None: ...
    @property
    def seen(self) -> torch.Tensor | None: ...
    def uniform(self) -> float: ...


class SamplingState:
    """What sampling one request needs from step to step."""

    __slots__ = ("_ahead", "device_seed", "generator", "sampling", "seen")

    def __init__(
        self, sampling: Sampling, *, run_seed: int, number: int, seed: int | None, vocab: int, device: torch.device
    ) -> None:
        """
        Args:
            sampling: the request's settings.
            run_seed, number: seed of the run and number of the request in it: together they name the random stream.
            seed: the request's own seed; where given, it alone names the stream.
            vocab: size of the vocabulary.
            device: where the logits will be.
        """
        self.sampling = sampling
        self._ahead: list[float] = []  # numbers of the stream that were drawn and given back
        self.generator: torch.Generator | None = None
        self.device_seed = 0  # of the stream that a GPU draws from
        if not sampling.greedy:
            name = f"run {run_seed} request {number}" if seed is None else f"seed {seed}"
            digest = hashlib.sha256(name.encode()).digest()
            self.generator = torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") >> 1)
            self.device_seed = int.from_bytes(digest[8:12], "little") >> 1
        self.seen: torch.Tensor | None = None  # [vocab] bool: tokens of prompt and output, kept only where penalised
        if sampling.repetition_penalty != 1.0:
            self.seen = torch.zeros(vocab, dtype=torch.bool, device=device)

    @property
    def temperature_only(self) -> bool:
        """Nothing but the temperature shapes the distribution."""
        s = self.sampling
        return s.top_k == 0 and s.top_p == 1.0 and s.min_p == 0.0 and self.seen is None

    def observe(self, token_ids: Iterable[int]) -> None:
        """Tell it the prompt, then every token the request emits."""
        if self.seen is not None:
            self.seen[torch.tensor(list(token_ids), dtype=torch.int64, device=self.seen.device)] = True

    def uniform(self) -> float:
        """The stream's next number, in [0, 1)."""
        if self._ahead:
            return self._ahead.pop(0)
        assert self.generator is not None
        return float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def put_back(self, numbers: Sequence[float]) -> None:
        """Numbers drawn and not used come next again, in their order."""
        self._ahead[:0] = numbers


def sample(logits: torch.Tensor, states: Sequence[SampledRow]) -> torch.Tensor:
    """One token per row.

    Args:
        logits: [R, vocab] float32.
        states: R states, in the order of the rows; the streams of those that draw advance by one.

    Returns:
        [R] int64, on the device of the logits; ``BROKEN`` for a row that is not finite.
    """
    broken = broken_rows(logits)
    if all(s.generator is None and s.seen is None for s in states):
        return logits.argmax(-1).masked_fill_(broken, BROKEN)
    logits = _penalised(logits, states)
    tokens = logits.argmax(-1)
    alike: dict[tuple[float, int, float, float], list[int]] = defaultdict(list)
    for row, state in enumerate(states):
        if state.generator is not None:
            s = state.sampling
            alike[s.temperature, s.top_k, s.top_p, s.min_p].append(row)
    for rows in alike.values():
        index = torch.tensor(rows, device=logits.device)
        weights, candidates = _filtered(logits[index], states[rows[0]].sampling)
        draws = torch.tensor([states[row].uniform() for row in rows], dtype=torch.float64, device=logits.device)
        chosen = draw(weights, draws)
        tokens[index] = chosen if candidates is None else candidates.gather(1, chosen[:, None])[:, 0]
    return tokens.masked_fill_(broken, BROKEN)


def distribution(logits: torch.Tensor, sampling: Sampling, seen: torch.Tensor | None = None) -> torch.Tensor:
    """The distribution a token is drawn from, after every filter.

    Args:
        logits: [..., vocab] float32.
        sampling: the request's settings.
        seen: [vocab] or [..., vocab] bool, tokens the repetition penalty applies to; None for none.

    Returns:
        [..., vocab] float32, each row summing to 1; greedy settings give all weight to the most likely token.
    """
    rows = logits.reshape(-1, logits.shape[-1])
    if seen is not None and sampling.repetition_penalty != 1.0:
        rows = _penalise(rows, seen.expand(logits.shape).reshape(rows.shape), sampling.repetition_penalty)
    if sampling.greedy:
        weights: torch.Tensor = torch.ones(rows.shape[0], 1, dtype=rows.dtype, device=rows.device)
        candidates: torch.Tensor | None = rows.argmax(-1, keepdim=True)
    else:
        weights, candidates = _filtered(rows, sampling)
    if candidates is not None:
        weights = torch.zeros_like(rows).scatter_(1, candidates, weights)
    return (weights / weights.sum(-1, keepdim=True)).reshape(logits.shape)


def _penalised(logits: torch.Tensor, states: Sequence[SampledRow]) -> torch.Tensor:
    rows = [row for row, state in enumerate(states) if state.seen is not None]
    if not rows:
        return logits
    index = torch.tensor(rows, device=logits.device)
    seen = torch.stack([s.seen for s in states if s.seen is not None])
    factors = [states[row].sampling.repetition_penalty for row in rows]
    penalty = torch.tensor(factors, dtype=logits.dtype, device=logits.device)[:, None]
    return logits.index_copy(0, index, _penalise(logits[index], seen, penalty))


def _penalise(logits: torch.Tensor, seen: torch.Tensor, penalty: torch.Tensor | float) -> torch.Tensor:
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def _filtered(logits: torch.Tensor, sampling: Sampling) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Unnormalised weights of the tokens that may be drawn.

    Args:
        logits: [n, vocab], penalty applied; all rows under the same settings.

    Returns:
        weights [n, k], zero for what was filtered out, and the tokens they belong to [n, k]; None means all, in order.
    """
    scaled = logits / sampling.temperature
    vocab = scaled.shape[-1]
    candidates: torch.Tensor | None = None
    if 0 < sampling.top_k < vocab:
        scaled, candidates = _largest(scaled, sampling.top_k)
    weights = scaled.softmax(-1)
    if sampling.top_p < 1.0:
        if candidates is None:
            weights, candidates = _likeliest(weights, sampling.top_p)
        reached = weights.cumsum(-1, dtype=torch.float64) - weights
        weights = weights.masked_fill(reached >= sampling.top_p, 0.0)
    if sampling.min_p > 0.0:
        weights = weights.masked_fill(weights < sampling.min_p * weights.amax(-1, keepdim=True), 0.0)
    return weights, candidates


def _likeliest(probabilities: torch.Tensor, mass: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The most likely tokens of each row in falling order, at least enough of them to reach ``mass``.

    Sorting a whole vocabulary is slow on a CPU, and nearly always a few tokens carry the mass: only rows that need more
    are given more. A row that needs fewer than another is filled up with weight 0.
    """
    vocab = probabilities.shape[-1]
    if probabilities.is_cuda:
        return _largest(probabilities, vocab)
    first, *wider = [*(count for count in _CANDIDATES if count < vocab), vocab]
    values, tokens = _largest(probabilities, first)
    for count in wider:
        short = values.sum(-1, dtype=torch.float64) < mass
        if not bool(short.any()):
            break
        values, tokens = (F.pad(t, (0, count - t.shape[-1])) for t in (values, tokens))
        values[short], tokens[short] = _largest(probabilities[short], count)
    return values, tokens


def _largest(values: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The ``count`` largest of each row in falling order, and their columns; ties fall the same way in any batch."""
    if values.is_cuda or count == values.shape[-1]:  # topk on a GPU breaks ties by how many rows there are
        values, columns = values.sort(dim=-1, descending=True, stable=True)
        return values[:, :count], columns[:, :count]
    return values.topk(count, dim=-1)


def draw(weights: torch.Tensor, uniform: torch.Tensor) -> torch.Tensor:
    """Inverse of the cumulative distribution: weights [n, k], uniform [n] in [0, 1) -> column numbers [n].

    1 - u lies in (0, 1], so the first column whose running sum reaches it always has weight.
    """
    sums = weights.cumsum(-1, dtype=torch.float64)
    targets = (1.0 - uniform)[:, None] * sums[:, -1:]
    return torch.searchsorted(sums, targets)[:, 0].clamp_(max=weights.shape[-1] - 1)
