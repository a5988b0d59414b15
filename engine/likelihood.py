"""Reading what the model thought of tokens, where somebody wants it (``engine.scores``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from engine.scheduling.plan import Slice
from engine.scores import Score


class Head(Protocol):
    """From hidden states to logits."""

    def logits(self, hidden: torch.Tensor) -> torch.Tensor: ...


def read(logits: torch.Tensor, tokens: Sequence[int], most: int) -> list[Score]:
    """Scores of one token in each row.

    Args:
        logits: [rows, vocab].
        tokens: one for each row.
        most: likeliest tokens in each place.
    """
    laws = logits.float().log_softmax(-1)
    chosen = laws.gather(1, torch.tensor(tokens, device=laws.device)[:, None])[:, 0].tolist()
    values, ids = laws.topk(min(most, laws.shape[-1]), dim=-1)
    return [
        (own, list(zip(row, told, strict=True)))
        for own, row, told in zip(chosen, ids.tolist(), values.tolist(), strict=True)
    ]


def read_output(logits: torch.Tensor, sampled: Sequence[Slice], tokens: Sequence[Sequence[int]]) -> None:
    """Note the scores of what each part was given, where somebody wants them.

    Args:
        logits: [rows, vocab]; 1 + drafted rows for each part, in order.
        tokens: of each part, as ``Executor.tokens`` gives them.
    """
    row = 0
    for part, emitted in zip(sampled, tokens, strict=True):
        scores = part.request.scores
        if scores is not None and min(emitted) >= 0:
            told = read(logits[row : row + len(emitted)], emitted, scores.most)
            if scores.is_told:
                scores.output += told
            if scores.is_kept:
                scores.kept += [own for own, _ in told]
        row += 1 + part.drafted


def read_prompts(hidden: torch.Tensor, spans: Sequence[tuple[Slice, int]], head: Head) -> None:
    """Note the scores of prompt tokens that follow those of a batch, where somebody wants them.

    Args:
        hidden: [tokens, hidden], after the last layer.
        spans: the batch's slices and their first rows.
    """
    for part, start in spans:
        request, scores = part.request, part.request.scores
        if scores is None or not scores.of_prompt:
            continue
        last = min(part.context_len + part.tokens, request.num_prompt_tokens - 1)
        count = last - part.context_len
        if count > 0:
            following = request.token_ids[part.context_len + 1 : last + 1]
            told = read(head.logits(hidden[start : start + count]), following, scores.most)
            scores.prompt |= dict(zip(range(part.context_len + 1, last + 1), told, strict=True))


def wanted(sampled: Sequence[Slice]) -> bool:
    """Whether anybody in a batch wants scores."""
    return any(part.request.scores is not None for part in sampled)
