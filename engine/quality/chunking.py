"""Sensitivity to chunking: what it changes to read the same text with the same codec in pieces of another length.

In other pieces the same sums are made in another order, and a number that lies on the border between two codes may fall
to the other side. At full precision that is rounding. With a codec the step is as large as the codec's own, the layers
above see another number, and by
the last one many codes are others::

    layer 0     one code in thousands    ->    last layer     a large share of all codes

    logits      largest change of any logit
    KL          mean over positions of the divergence of the next token's law, in nats
    agreement   share of positions whose most likely token is the same
    codes       share of the last layer's packed numbers, keys and values, that are others
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from engine.quality.reading import ROWS, Reader, Reading

TOKENS = 256  # of the text, from its start
PIECES = (
    24,
    1,
    7,
)  # tokens read at once the second time, in turn: like chunks and decodes, so that products of other shapes are made


@torch.inference_mode()
def sensitivity(reader: Reader, ids: Sequence[int], first: Reading) -> dict[str, Any]:
    """
    Args:
        ids: the text.
        first: what reading it gave, in pieces of ``engine.quality.reading.CHUNK`` tokens.
    """
    ids = ids[:TOKENS]
    second = reader.read(ids, PIECES)
    kl = agreed = most = 0.0
    for at in range(0, len(ids), ROWS):
        a, b = (reader.logits(reading.hidden[at : min(len(ids), at + ROWS)]) for reading in (first, second))
        most = max(most, float((a - b).abs().max()))
        p, q = a.log_softmax(-1), b.log_softmax(-1)
        kl += float((p.exp() * (p - q)).sum())
        agreed += float((a.argmax(-1) == b.argmax(-1)).sum())
    return {
        "tokens": len(ids),
        "logits": most,
        "kl": max(0.0, kl / len(ids)),
        "agreement": agreed / len(ids),
        "codes": codes_changed(first, second, len(ids), -1),
    }


def codes_changed(first: Reading, second: Reading, tokens: int, layer: int) -> float | None:
    """Share of one layer's packed numbers, of a text's first tokens, that differ; None where nothing is packed."""
    a, b = first.packed(layer, tokens), second.packed(layer, tokens)
    differ = sum(int((x != y).sum()) for x, y in zip(a, b, strict=True))
    count = sum(x.numel() for x in a)
    return differ / count if count else None
