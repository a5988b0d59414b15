"""The packed KV cache: the pool's blocks as a codec stores them, and the exact tails of sequences whose last tokens are
not packed yet.

block (one layer, one head, keys)         tail of a sequence (codecs with a window)
| codes of t0 | ... | codes of t15 |      | j | j + 1 | ... | j - 1 |     token j lies at j % tail_tokens
| steps, minima                    |      full precision; any ``tail_tokens`` consecutive tokens
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from engine.kv.cache import KVCache, Space, as_stripes, copy_tokens, no_room, zeros
from engine.kv.codecs import Codec
from engine.kv.codecs.forms import Form


class PackedRows:
    """One layer's packed keys or values; reads unpack the rows that are asked for."""

    def __init__(
        self, form: Form, codes: torch.Tensor, meta: torch.Tensor | None, head_dim: int, dtype: torch.dtype
    ) -> None:
        """
        Args:
            codes: [kv_heads, num_blocks, block_size, code_width].
            meta: [kv_heads, num_blocks, ...], or None for a form without.
        """
        self.form = form
        self.codes = codes
        self.meta = meta
        self.scale: torch.Tensor | None = None  # [kv_heads] float32, of a form whose step is fixed for a head
        self._dtype = dtype
        self._kv_heads, self._num_blocks, self._block_size, self._code_width = codes.shape
        self._span_shape = form.meta_shape(form.span, head_dim)  # metadata of what is encoded together
        self._meta_shape = form.meta_shape(self._block_size, head_dim)
        self._code_rows = codes.flatten(0, 1).flatten(1)
        self._meta_rows = None if meta is None else meta.flatten(0, 1).flatten(1)
        self._code_slots = codes.flatten(1, 2)  # [kv_heads, slots, code_width]
        self._meta_slots = None if meta is None else meta.view(self._kv_heads, -1, *self._span_shape[1:])

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """Rows ``head * num_blocks + block`` [n] -> [n, block_size * head_dim] in the model's dtype."""
        codes = self._code_rows.index_select(0, index).view(-1, self._block_size, self._code_width)
        meta = scale = None
        if self._meta_rows is not None:
            meta = self._meta_rows.index_select(0, index).view(-1, *self._meta_shape)
        if self.scale is not None:
            scale = self.scale.index_select(0, index // self._num_blocks)[:, None, None]
        return self.form.decode(codes, meta, self._dtype, scale).flatten(1)

    def write(self, slots: torch.Tensor, x: torch.Tensor) -> None:
        """Pack tokens ``x`` [kv_heads, tokens, head_dim] into their slots [tokens]; whole spans, each within one
        block."""
        scale = None if self.scale is None else self.scale[:, None, None]
        codes, meta = self.form.encode(x, scale)
        copy_tokens(self._code_slots, slots, codes)
        if meta is not None:
            assert self._meta_slots is not None
            span = self.form.span
            spans = slots if span == 1 else slots[::span] // span
            copy_tokens(self._meta_slots.flatten(2), spans, meta.flatten(2))

    def copy_block(self, source: int, destination: int) -> None:
        self.codes[:, destination].copy_(self.codes[:, source])
        if self.meta is not None:
            self.meta[:, destination].copy_(self.meta[:, source])


class QuantizedCache(KVCache):
    """Keys and values of every layer as ``codec`` stores them.

    ``tails``: sequences that may have an exact window at once; ``spare``: guesses beyond it that may have to be kept
    apart until they are verified. Sequence ``n``'s exact tokens of one layer are ``tail_keys[layer][:, n * tail_tokens
    + place % tail_tokens]``.
    """

    def __init__(
        self,
        codec: Codec,
        layers: int,
        kv_heads: int,
        head_dim: int,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        *,
        tails: int = 0,
        spare: int = 0,
        space: Space | None = None,
    ) -> None:
        self.codec: Codec = codec
        self.host = None
        self.far = None
        self.space = space
        self.contiguous = False
        self._stores: list[torch.Tensor] = []
        self.centre: torch.Tensor | None = (
            None  # [layers, kv_heads, head_dim], subtracted from keys before they come here
        )
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype
        self.device = device
        self.tail_tokens = tail_tokens(codec, spare)
        tail_shape = (layers, 2, kv_heads, tails * self.tail_tokens, head_dim)
        self.tail_bytes = tail_bytes(codec, spare, layers, kv_heads, head_dim, dtype) * tails
        self.nbytes = codec.bytes_per_block(layers, kv_heads, head_dim, block_size) * num_blocks + self.tail_bytes

        def side(form: Form) -> list[PackedRows]:
            blocks = (layers, kv_heads, num_blocks)
            codes = zeros((*blocks, block_size, form.code_width(head_dim)), 2, form.code_dtype, device, space)
            shape = form.meta_shape(block_size, head_dim)
            meta = zeros((*blocks, *shape), 2, form.meta_dtype, device, space) if shape else None
            self._stores += [as_stripes(x, 2) for x in (codes, meta) if x is not None]
            return [
                PackedRows(form, codes[i], None if meta is None else meta[i], head_dim, dtype) for i in range(layers)
            ]

        try:
            self.packed_keys, self.packed_values = side(codec.keys), side(codec.values)
            tail = torch.zeros(tail_shape, dtype=dtype, device=device)
        except (RuntimeError, MemoryError) as error:
            raise no_room(num_blocks, self.nbytes) from error
        self.key_rows = list(self.packed_keys)
        self.value_rows = list(self.packed_values)
        self._tail_stores = [as_stripes(tail.unflatten(3, (tails, self.tail_tokens)), 3)] if tail.numel() else []
        self.tail_keys = [tail[i, 0] for i in range(layers)]  # each [kv_heads, tails * tail_tokens, head_dim]
        self.tail_values = [tail[i, 1] for i in range(layers)]

    def set_scales(self, scales: torch.Tensor) -> None:
        """Scales [layers, 2, kv_heads] of a codec whose steps are fixed for a head."""
        for layer, (keys, values) in enumerate(zip(self.packed_keys, self.packed_values, strict=True)):
            keys.scale, values.scale = scales[layer].float().to(self.device)

    def store(self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Pack one layer's new keys and values ``[tokens, kv_heads, head_dim]`` into their slots ``[tokens]``: whole
        windows."""
        self.packed_keys[layer].write(slots, k.transpose(0, 1))
        self.packed_values[layer].write(slots, v.transpose(0, 1))

    def keep(self, layer: int, tail_slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Write keys and values ``[tokens, kv_heads, head_dim]`` to their places ``[tokens]`` in the exact tails."""
        copy_tokens(self.tail_keys[layer], tail_slots, k.transpose(0, 1))
        copy_tokens(self.tail_values[layer], tail_slots, v.transpose(0, 1))

    def pack(self, layer: int, slots: torch.Tensor, tail_slots: torch.Tensor) -> None:
        """Pack whole windows that are complete in the tails into their blocks' slots [tokens]."""
        self.packed_keys[layer].write(slots, self.tail_keys[layer].index_select(1, tail_slots))
        self.packed_values[layer].write(slots, self.tail_values[layer].index_select(1, tail_slots))

    def copy_block(self, source: int, destination: int) -> None:
        for rows in (*self.packed_keys, *self.packed_values):
            rows.copy_block(source, destination)

    def stores(self) -> list[torch.Tensor]:
        return self._stores

    def tail_stores(self) -> list[torch.Tensor]:
        return self._tail_stores


@dataclass(frozen=True)
class Fixed:
    """What a cache needs to know before the first token, found on text at start."""

    scales: torch.Tensor | None = None  # [layers, 2, kv_heads]
    centre: torch.Tensor | None = None  # [layers, kv_heads, head_dim]

    def apply(self, cache: QuantizedCache) -> None:
        if self.scales is not None:
            cache.set_scales(self.scales)
        if self.centre is not None:
            cache.centre = self.centre.to(cache.device, cache.dtype)


def tail_tokens(codec: Codec, spare: int) -> int:
    """Exact tokens kept per sequence: the window, and guesses that may turn out wrong after they went beyond it."""
    return codec.window + spare if codec.window else 0


def tail_bytes(codec: Codec, spare: int, layers: int, kv_heads: int, head_dim: int, dtype: torch.dtype) -> int:
    """Memory of one sequence's exact tail."""
    return 2 * layers * kv_heads * head_dim * tail_tokens(codec, spare) * dtype.itemsize


def tail_places(tail: int, size: int, positions: Sequence[int] | range) -> list[int]:
    """Places of a sequence's tokens in the tails of ``size`` tokens each."""
    return [tail * size + position % size for position in positions]
