"""Finding a fact in a long text: a sentence with a number, hidden at some depth, asked for at the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from engine.quality.reading import Reader

FACT = " The secret number of the lighthouse is 7 3 9 4 1 8."
ASK = "\n\nRemember the fact about the lighthouse. The secret number of the lighthouse is"
ANSWER = " 7 3 9 4 1 8"
DEPTHS = (0.1, 0.3, 0.5, 0.7, 0.9)


def hide(encode: Any, filler: Sequence[int], length: int, depth: float) -> tuple[list[int], int]:
    """Token ids of ``length`` tokens with the fact ``depth`` of the way down and the question at their end, and where
    the answer starts."""
    fact, ask, answer = encode(FACT), encode(ASK), encode(ANSWER)
    room = length - len(fact) - len(ask) - len(answer)
    if room < 16:
        raise ValueError(f"{length} tokens do not hold a fact, a question and text around them")
    before = int(depth * room)
    ids = [*filler[:before], *fact, *filler[before:room], *ask, *answer]
    return ids, len(ids) - len(answer)


def find(reader: Reader, ids: Sequence[int], start: int) -> dict[str, Any]:
    """Whether greedy text would give the answer that stands at ``start`` of the text, and how likely it is."""
    hidden = reader.hidden(ids)[start - 1 : -1]
    laws = reader.logits(hidden).log_softmax(-1)
    answer = torch.tensor(ids[start:], device=laws.device)
    right = laws.argmax(-1) == answer
    return {
        "found": bool(right.all()),
        "tokens_right": float(right.float().mean()),
        "log_probability": float(laws.gather(1, answer[:, None]).mean()),
    }
