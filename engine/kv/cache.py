"""The KV cache's tensors: what the pool's block numbers stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import torch

from engine.config.errors import EngineError

if TYPE_CHECKING:
    from engine.kv.codecs import Codec
    from engine.kv.far import FarStore
    from engine.kv.host import HostPool


class Space(Protocol):
    """Where a cache's tensors lie instead of memory of their own: ``AddressSpace``, ``SharedSpace``."""

    def zeros(self, shape: Sequence[int], place: int, dtype: torch.dtype) -> torch.Tensor:
        """As ``zeros`` below."""
        ...


class Rows(Protocol):
    """One layer's keys or values, a row per block and head: a tensor, or something that unpacks the rows it is asked
    for."""

    def index_select(self, dim: int, index: torch.Tensor) -> torch.Tensor:
        """Rows ``index`` [n] of dimension 0 -> [n, block_size * head_dim], in the model's dtype."""
        ...


def copy_tokens(places: torch.Tensor, slots: torch.Tensor, x: torch.Tensor) -> None:
    """``places[:, slots] = x``: [rows, slots, width], [tokens] and [rows, tokens, width] of one dtype.

    On a CPU rows are copied number by number whatever their size, so many are moved as the widest numbers they can be
    cut into.
    """
    if x.shape[1] >= MANY_TOKENS and x.device.type == "cpu":
        nbytes = x.shape[-1] * x.element_size()
        wide = next((wide for size, wide in _WIDE.items() if nbytes % size == 0), x.dtype)
        places, x = places.view(wide), x.view(wide) if _divides(x, wide) else x.contiguous().view(wide)
    places.index_copy_(1, slots, x)


MANY_TOKENS = 64  # of fewer, finding out costs more than it saves
_WIDE = {16: torch.complex128, 8: torch.int64, 4: torch.int32, 2: torch.int16}  # bytes: what has them


def _divides(x: torch.Tensor, wide: torch.dtype) -> bool:
    """Whether x can be seen as wider numbers where it lies."""
    ratio = wide.itemsize // x.element_size()
    return x.stride(-1) == 1 and all(n % ratio == 0 for n in (*x.stride()[:-1], x.storage_offset()))


class KVCache:
    """Keys and values of every layer at full precision, in blocks. (Packed ones: ``engine.kv.quantized``.)

    One tensor ``[layers, 2, kv_heads, num_blocks, block_size, head_dim]``; 2 is key and value. Token ``i`` of a request
    lives in block ``block_table[i // block_size]`` at ``i % block_size``; its *slot* is ``block * block_size + i %
    block_size``.

              one layer's keys of one KV head
        block 0                block 1                 ...
        | t0 t1 t2 ... t15 |   | t0 t1 t2 ... t15 |        each t: head_dim numbers
    """

    def __init__(
        self,
        layers: int,
        kv_heads: int,
        head_dim: int,
        num_blocks: int,
        block_size: int,
        dtype: torch.dtype,
        device: torch.device,
        space: Space | None = None,
    ) -> None:
        """``space``: where its tensors are to lie, such as memory that is mapped as it is needed; None: in memory of
        their own."""
        shape = (layers, 2, kv_heads, num_blocks, block_size, head_dim)
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.dtype = dtype  # of the keys and values that attention reads
        self.device = device
        self.codec: Codec | None = None
        self.host: HostPool | None = None  # where blocks can be swapped to
        self.far: FarStore | None = None  # a second pool, whose block numbers come behind this one's
        self.space = space
        self.contiguous = False  # whether every block table is first, first + 1, ...
        self.nbytes = bytes_per_block(layers, kv_heads, head_dim, block_size, dtype) * num_blocks
        try:
            self.data = zeros(shape, 3, dtype, device, space)
        except (RuntimeError, MemoryError) as error:
            raise no_room(num_blocks, self.nbytes) from error
        slots = self.data.view(layers, 2, kv_heads, num_blocks * block_size, head_dim)
        self.key_slots = [slots[i, 0] for i in range(layers)]  # each [kv_heads, slots, head_dim]
        self.value_slots = [slots[i, 1] for i in range(layers)]
        self.key_blocks = [self.data[i, 0] for i in range(layers)]  # each [kv_heads, num_blocks, block_size, head_dim]
        self.value_blocks = [self.data[i, 1] for i in range(layers)]
        # Row ``head * num_blocks + block`` is a block of one head: [kv_heads * num_blocks, block_size * head_dim].
        self.key_rows: list[Rows] = [self.data[i, 0].view(kv_heads * num_blocks, -1) for i in range(layers)]
        self.value_rows: list[Rows] = [self.data[i, 1].view(kv_heads * num_blocks, -1) for i in range(layers)]

    def store(self, layer: int, slots: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Write one layer's new keys and values ``[tokens, kv_heads, head_dim]`` to their slots ``[tokens]``."""
        copy_tokens(self.key_slots[layer], slots, k.transpose(0, 1))
        copy_tokens(self.value_slots[layer], slots, v.transpose(0, 1))

    def copy_block(self, source: int, destination: int) -> None:
        """Copy a block's keys and values, all layers."""
        self.data[:, :, :, destination].copy_(self.data[:, :, :, source])

    def stores(self) -> list[torch.Tensor]:
        """All that is kept of blocks, as bytes: tensors [stripes, num_blocks, bytes of one block in one stripe] uint8,
        contiguous. A stripe is what lies together, such as one layer's keys of one head."""
        return [as_stripes(self.data, 3)]

    def tail_stores(self) -> list[torch.Tensor]:
        """The same of exact tails [stripes, tails, bytes]; none at full precision."""
        return []


def zeros(
    shape: Sequence[int], place: int, dtype: torch.dtype, device: torch.device, space: Space | None
) -> torch.Tensor:
    """What a cache keeps of its blocks, which dimension ``place`` counts. Without a ``space`` it is written to once
    here, so that no iteration pays for the operating system handing out pages.

    Raises:
        RuntimeError, MemoryError: there is no room.
    """
    if space is not None:
        return space.zeros(shape, place, dtype)
    return torch.zeros(tuple(shape), dtype=dtype, device=device)


def as_stripes(x: torch.Tensor, leading: int) -> torch.Tensor:
    """A contiguous tensor as bytes [product of the ``leading`` dimensions, the next one, bytes of the rest] uint8."""
    return x.flatten(leading + 1).flatten(0, leading - 1).view(torch.uint8)


def no_room(num_blocks: int, nbytes: int) -> EngineError:
    """The device cannot give the pool its memory."""
    return EngineError(
        "out-of-memory",
        "kv_blocks",
        num_blocks,
        f"the KV pool needs {nbytes / 2**30:.2f} GiB, which the device cannot give.",
        "Set kv_blocks or kv_memory_fraction lower.",
    )


def bytes_per_block(layers: int, kv_heads: int, head_dim: int, block_size: int, dtype: torch.dtype) -> int:
    """Memory of one block over all layers, keys and values."""
    return 2 * layers * kv_heads * head_dim * block_size * dtype.itemsize
