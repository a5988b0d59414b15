"""Reading texts and writing on with a cache of a given kind, outside any engine: the same decoder, attention and cache,
no scheduler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import cycle

import torch
import torch.nn.functional as F

from engine.attention.packed import make_attention
from engine.batch import build_batch
from engine.block_table import blocks_for
from engine.config import RequestSpec, Sampling
from engine.kv.cache import KVCache
from engine.kv.codecs import Codec
from engine.kv.quantized import Fixed, QuantizedCache
from engine.model.load import LoadedModel
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.start.calibrate import Probe

CHUNK = 256  # tokens read at once; ``engine.quality.chunking`` says how much depends on it
ROWS = 128  # rows whose logits are held at once


@dataclass(frozen=True)
class Reading:
    """A text that was read: the residual stream at every token, and the cache that it filled from its first block
    on."""

    hidden: torch.Tensor  # [tokens, hidden]
    cache: KVCache

    def packed(self, layer: int, tokens: int) -> list[torch.Tensor]:
        """Whole numbers that stand for the first ``tokens`` tokens' keys and values in one layer, as far as they are
        packed for good."""
        cache = self.cache
        if not isinstance(cache, QuantizedCache):
            return []
        whole = tokens - cache.codec.window  # the last window may lie in the tail
        sides = (cache.packed_keys[layer], cache.packed_values[layer])
        return [side.form.numbers(side.codes.flatten(1, 2)[:, : max(0, whole)]) for side in sides]


class Reader:
    """One model and one kind of cache."""

    def __init__(
        self, model: LoadedModel, block_size: int, codec: Codec | None = None, fixed: Fixed | None = None
    ) -> None:
        self.model = model
        self.codec = codec
        self._block_size = block_size
        self._fixed = fixed or Fixed()

    @torch.inference_mode()
    def hidden(self, ids: Sequence[int]) -> torch.Tensor:
        """The residual stream at every token of a text [tokens, hidden]; every token attends to the cache as it is
        stored."""
        return self.read(ids).hidden

    @torch.inference_mode()
    def read(self, ids: Sequence[int], pieces: Sequence[int] = (CHUNK,)) -> Reading:
        """Read a text in pieces of so many tokens, in turn."""
        request = self._request(0, ids, 0)
        cache, forward = self._forward([request])
        parts, at, lengths = [], 0, cycle(pieces)
        while at < len(ids):
            parts.append(forward(self._part(request, at, min(next(lengths), len(ids) - at))))
            at += len(parts[-1])
        return Reading(torch.cat(parts), cache)

    @torch.inference_mode()
    def read_on(self, ids: Sequence[int], first: int, change: Callable[[KVCache], None]) -> torch.Tensor:
        """The residual stream at the tokens from place ``first`` on [tokens - first, hidden]. ``change`` is made to the
        cache of those before; a text's first block is the cache's first."""
        request = self._request(0, ids, 0)
        cache, forward = self._forward([request])
        for at in range(0, first, CHUNK):
            forward(self._part(request, at, min(CHUNK, first - at)))
        change(cache)
        parts = [forward(self._part(request, at, min(CHUNK, len(ids) - at))) for at in range(first, len(ids), CHUNK)]
        return torch.cat(parts)

    @torch.inference_mode()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        return self.model.decoder.logits(hidden)

    @torch.inference_mode()
    def write_on(self, prompts: Sequence[Sequence[int]], tokens: int) -> list[list[int]]:
        """The most likely continuation of each prompt, ``tokens`` long whatever the model says about ends."""
        requests = [self._request(number, prompt, tokens) for number, prompt in enumerate(prompts)]
        _, forward = self._forward(requests)
        last = []
        for request in requests:
            count = request.num_prompt_tokens
            rows = [forward(self._part(request, at, min(CHUNK, count - at))) for at in range(0, count, CHUNK)]
            last.append(rows[-1][-1:])
        hidden = torch.cat(last)
        for _ in range(tokens):
            chosen = self.logits(hidden).argmax(-1).tolist()
            for request, token in zip(requests, chosen, strict=True):
                request.token_ids.append(token)
            # build_batch puts the shortest contexts first
            order = sorted(range(len(requests)), key=lambda i: len(requests[i].token_ids))
            in_order = forward(Plan([Slice(r, 1, len(r.token_ids) - 1, False) for r in requests]))
            hidden = torch.empty_like(in_order)
            hidden[order] = in_order
        return [r.output_token_ids for r in requests]

    @torch.inference_mode()
    def keys_and_values(self, ids: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Unquantised keys (after the rotation by position) and values of a text, [layers, kv_heads, tokens, head_dim]
        each."""
        decoder, device = self.model.decoder, self.model.device
        by_layer: list[tuple[torch.Tensor, torch.Tensor]] = []

        def look(layer: int, k: torch.Tensor, v: torch.Tensor) -> None:
            by_layer.append((k.transpose(0, 1).float().cpu(), v.transpose(0, 1).float().cpu()))

        places = torch.arange(len(ids), device=device)
        decoder.forward(torch.tensor(ids, device=device), places, Probe(decoder.shape, look))
        keys, values = zip(*by_layer, strict=True)
        return torch.stack(keys), torch.stack(values)

    def nll(self, hidden: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Minus the log-probability of each token after the first [tokens - 1]."""
        targets = torch.tensor(ids[1:], device=hidden.device)
        before = hidden[:-1]
        parts = [
            F.cross_entropy(self.logits(before[at : at + ROWS]), targets[at : at + ROWS], reduction="none")
            for at in range(0, len(targets), ROWS)
        ]
        return torch.cat(parts)

    def _request(self, number: int, ids: Sequence[int], more: int) -> Request:
        blocks = blocks_for(len(ids) + more, self._block_size)
        request = Request(
            number, RequestSpec(request_id=str(number), prompt="-"), list(ids), Sampling(), max(1, more), tail=number
        )
        request.block_table = list(range(number * blocks, (number + 1) * blocks))
        return request

    def _part(self, request: Request, at: int, length: int) -> Plan:
        return Plan([Slice(request, length, at, True)])

    def _forward(self, requests: Sequence[Request]) -> tuple[KVCache, Callable[[Plan], torch.Tensor]]:
        shape, model, size = self.model.shape, self.model, self._block_size
        widest = max(len(r.block_table) for r in requests)
        for r in requests:
            r.block_table = list(range(r.index * widest, (r.index + 1) * widest))
        dimensions = (shape.layers, shape.kv_heads, shape.head_dim, widest * len(requests), size)
        if self.codec is None:
            cache = KVCache(*dimensions, model.dtype, model.device)
        else:
            cache = QuantizedCache(self.codec, *dimensions, model.dtype, model.device, tails=len(requests))
            self._fixed.apply(cache)
        attention = make_attention("gathered", cache, shape.heads, shape.kv_heads, shape.head_dim)

        def forward(plan: Plan) -> torch.Tensor:
            batch = build_batch(plan, size, model.device)
            attention.begin(batch.attention)
            return model.decoder.forward(batch.token_ids, batch.positions, attention)

        return cache, forward
