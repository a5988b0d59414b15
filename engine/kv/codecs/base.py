"""What a codec of the KV cache is."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from engine.kv.codecs.forms import Form


@dataclass(frozen=True)
class Codec:
    """How keys and values are stored in the pool's blocks.

    ``window``: consecutive tokens of a sequence that are packed together, counted from its start; 0 where every token
    is packed by itself when it is stored. A token attends to its own window at full precision and to the windows before
    it as they are packed, so
    what it sees depends on its place alone, never on how the work was cut into steps::

        window 0         window 1         window 2
        | packed       | packed         | exact ..... t       R = window

    The exact tokens of a sequence's last window lie in a *tail*, a buffer beside the pool (``engine.kv.quantized``).
    """

    name: str
    keys: Form
    values: Form
    window: int = 0
    rotates: bool = False  # head channels are mixed by a Hadamard matrix before they are packed

    @property
    def fixed_scales(self) -> bool:
        """Whether a scale per layer and head has to be found before the first token."""
        return not self.keys.meta_shape(1, 8) and not self.values.meta_shape(1, 8)

    def bytes_per_block(self, layers: int, kv_heads: int, head_dim: int, block_size: int) -> int:
        """Memory of one block over all layers, keys and values."""
        sides = self.keys.block_bytes(head_dim, block_size) + self.values.block_bytes(head_dim, block_size)
        return layers * kv_heads * sides

    def bits(self, head_dim: int, block_size: int) -> float:
        """Stored bits per number in a packed block, keys and values on average, metadata included ("effective
        bits")."""
        return (self.keys.bits(head_dim, block_size) + self.values.bits(head_dim, block_size)) / 2

    def bits_served(self, head_dim: int, block_size: int, tokens: int, exact: int) -> float:
        """The same for a sequence of ``tokens`` tokens whose last window is kept in ``exact`` bits a number (papers
        4.8)."""
        share = min(1.0, self.window / tokens)
        return (1 - share) * self.bits(head_dim, block_size) + share * exact

    def round_trip(self, x: torch.Tensor, side: int, scale: torch.Tensor | None = None) -> torch.Tensor:
        """x: [..., tokens, head_dim], whole windows -> what is read back; side 0: keys, 1: values. Without rotation."""
        form = (self.keys, self.values)[side]
        codes, meta = form.encode(x, scale)
        return form.decode(codes, meta, x.dtype, scale)
