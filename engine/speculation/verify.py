"""Verification: what the target makes of the guesses, without changing what it would have said.

One pass computes a request's last token and its k guesses as a chunk, which gives the target's k + 1 distributions p:

    rows        | last known | x1 | x2 | ... | xk |
    row decides |     x1     | x2 | x3 | ... | one token beyond

Guesses that were not drawn (point masses: lookup, or a greedy request) are accepted while they are the very token the
target draws at their place, with the number of the request's stream it would have used there without speculation. A
guess x is so accepted with probability p(x), and a correction is p without x: rejection sampling, with the same text as
without speculation.

Guesses drawn from a law q are accepted with probability min(1, p(x) / q(x)), else a token is drawn from the residual,
max(p - q, 0) made to sum to one: each token has the law p, and more guesses survive than by drawing alone. Sources:
papers 4.6, SmartSpec (2024).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from engine.config import Sampling
from engine.finite import BROKEN, broken_rows
from engine.request import Draft
from engine.sampling import SampledRow, SamplingState, distribution, draw, sample
from engine.scheduling.plan import Slice


class RowAhead:
    """One row of a verify chunk, as if everything before it had been emitted already."""

    __slots__ = ("generator", "number", "sampling", "seen")

    def __init__(self, state: SamplingState, seen: torch.Tensor | None) -> None:
        self.sampling: Sampling = state.sampling
        self.generator = state.generator
        self.seen = seen
        self.number = state.uniform() if state.generator is not None else 0.0

    def uniform(self) -> float:
        """The number of the request's stream that belongs to this row."""
        return self.number


def verify(logits: torch.Tensor, parts: Sequence[Slice]) -> list[list[int]]:
    """The tokens each request receives: its accepted guesses and one the target chose.

    Args:
        logits: [rows, vocab] float32; 1 + drafted rows for each part, in order.
        parts: the slices that sample; their requests still hold their drafts.

    Returns:
        A list for each part, of 1 to 1 + drafted tokens. Streams advance by the numbers used. Where a row is not finite
        that would decide the next token, the last one is ``BROKEN``.
    """
    if not any(part.drafted for part in parts):
        return [[token] for token in sample(logits, [p.request.sampling_state for p in parts]).tolist()]
    emitted: list[list[int]] = [[] for _ in parts]
    matched: list[tuple[int, list[RowAhead]]] = []
    wanted: list[int] = []
    row = 0
    for number, part in enumerate(parts):
        state, draft, rows = part.request.sampling_state, part.request.draft, range(row, row + 1 + part.drafted)
        if draft.laws is None or state.generator is None:
            matched.append((number, _rows_ahead(state, draft)))
            wanted += rows
        else:
            emitted[number] = accept_or_resample(logits[rows.start : rows.stop], draft, state)
        row = rows.stop
    states: list[SampledRow] = [ahead for _, rows_ahead in matched for ahead in rows_ahead]
    chosen = sample(logits if len(wanted) == row else logits[wanted], states).tolist() if wanted else []
    for number, rows_ahead in matched:
        request = parts[number].request
        tokens, chosen = chosen[: len(rows_ahead)], chosen[len(rows_ahead) :]
        emitted[number] = tokens[: 1 + _matching(tokens, request.draft.tokens)]
        if request.sampling_state.generator is not None:
            request.sampling_state.put_back([r.number for r in rows_ahead[len(emitted[number]) :]])
    return emitted


def accept_or_resample(logits: torch.Tensor, draft: Draft, state: SamplingState) -> list[int]:
    """Rejection sampling of guesses drawn from ``draft.laws`` against logits ``[1 + guesses, vocab]``; papers 4.6."""
    assert draft.laws is not None
    seen = _seen_rows(state, draft)
    target = distribution(logits, state.sampling, None if seen is None else torch.stack(seen))
    broken = broken_rows(logits).tolist()
    for i, token in enumerate(draft.tokens):
        if broken[i]:
            return [*draft.tokens[:i], BROKEN]
        if state.uniform() * float(draft.laws[i, token]) < float(target[i, token]):
            continue
        residual = (target[i] - draft.laws[i]).clamp_(min=0)
        if float(residual.sum()) <= 0:  # rounding: the laws are the same
            residual = target[i]
        return [*draft.tokens[:i], _draw_one(residual, state)]
    return [*draft.tokens, BROKEN if broken[-1] else _draw_one(target[-1], state)]


def _draw_one(weights: torch.Tensor, state: SamplingState) -> int:
    number = torch.tensor([state.uniform()], dtype=torch.float64, device=weights.device)
    return int(draw(weights[None], number))


def _rows_ahead(state: SamplingState, draft: Draft) -> list[RowAhead]:
    seen = _seen_rows(state, draft)
    return [RowAhead(state, None if seen is None else seen[i]) for i in range(len(draft.tokens) + 1)]


def _seen_rows(state: SamplingState, draft: Draft) -> list[torch.Tensor] | None:
    """Tokens the repetition penalty applies to in each row: what was seen, and the guesses before that row."""
    if state.seen is None:
        return None
    rows = [state.seen]
    for token in draft.tokens:
        rows.append(rows[-1].clone())
        rows[-1][token] = True
    return rows


def _matching(tokens: Sequence[int], guesses: Sequence[int]) -> int:
    """How many guesses in a row are the tokens the target chose at their places."""
    for i, guess in enumerate(guesses):
        if tokens[i] != guess:
            return i
    return len(guesses)
