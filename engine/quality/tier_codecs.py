"""What a tier codec costs: blocks of a read text go through it and back, and the text is read on.

ratio       bytes of the cache over bytes of the streams
error       ||x - x^|| / ||x|| over all keys, or values, of one layer
KL          mean over the positions after those blocks of sum_t p(t) log(p(t) / p^(t)), p without the codec, in nats
agreement   share of these positions whose most likely token is the same
perplexity  of the tokens there, with the codec and without
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.kv.cache import KVCache
from engine.kv.tier_codecs import TierCodec
from engine.quality.reading import ROWS, Reader


@dataclass(frozen=True)
class TierCodecCost:
    """See the definitions above; times are milliseconds per block."""

    ratio: float
    key_error: list[float]
    value_error: list[float]
    kl: float
    agreement: float
    perplexity: float
    perplexity_before: float
    encode_ms: float
    decode_ms: float


@torch.inference_mode()
def measure_tier_codec(reader: Reader, codec: TierCodec, ids: Sequence[int], first: int) -> TierCodecCost:
    """
    Args:
        reader: at full precision, of the codec's form.
        ids: the text.
        first: tokens of it whose whole blocks go through the codec.

    Raises:
        ValueError: there is no whole block before ``first``, or no token to predict after it.
    """
    through = Through(codec)
    before = reader.read_on(ids, first, lambda cache: None)
    after = reader.read_on(ids, first, lambda cache: through(cache, first // cache.block_size))
    if not through.streams or len(ids) - first < 2:
        raise ValueError(f"{first} of {len(ids)} tokens leave nothing to encode or nothing to predict")
    kl = agreed = 0.0
    for at in range(0, len(before), ROWS):
        p, q = (reader.logits(hidden[at : at + ROWS]).log_softmax(-1) for hidden in (before, after))
        kl += float((p.exp() * (p - q)).sum())
        agreed += float((p.argmax(-1) == q.argmax(-1)).sum())
    about = codec.describe()
    return TierCodecCost(
        about["bytes"] / about["stored_bytes"],
        about["key_error"],
        about["value_error"],
        max(0.0, kl / len(before)),
        agreed / len(before),
        float(reader.nll(after, ids[first:]).mean().exp()),
        float(reader.nll(before, ids[first:]).mean().exp()),
        1e3 * through.encode_s / through.streams,
        1e3 * through.decode_s / through.streams,
    )


class Through:
    """Takes blocks of a cache through a codec and back."""

    def __init__(self, codec: TierCodec) -> None:
        self.codec = codec
        self.streams = 0
        self.encode_s = self.decode_s = 0.0

    def __call__(self, cache: KVCache, blocks: int) -> None:
        """Replace the content of the first ``blocks`` blocks by what comes back."""
        (store,) = cache.stores()  # [stripes, blocks, bytes]
        for block in range(blocks):
            content = store[:, block].cpu().contiguous().flatten().numpy()
            began = time.perf_counter()
            stream = self.codec.encode(content)
            encoded = time.perf_counter()
            self.codec.decode(stream, content)
            self.encode_s += encoded - began
            self.decode_s += time.perf_counter() - encoded
            self.streams += 1
            store[:, block].copy_(torch.from_numpy(content).view(len(store), -1))
