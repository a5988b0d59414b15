"""Anchors and differences: keys and values rounded to bins and packed by an entropy coder (CacheGen, 2023).

    one channel of one head, a group of up to 16 tokens

    token        0       1      2      3
    value        5.12    5.20   5.07   5.31
    stored     anchor    +.08   -.05   +.19      differences to the anchor as it was rounded
    bins          41     1      -1     2         wider in deeper layers

A bin is ``level * growth(layer) * rms``, rms the root mean square of the block's numbers in that layer, side and head.
The growth is 1, 1.5 and 2.25 in the first, second and last third of the layers. An anchor's bins are a quarter as wide.
Where neighbouring tokens of a head are so unlike that the differences are larger than the numbers, the numbers are
stored themselves: values of small models are.

    stream    kind 1 byte | anchored, a bit per head | bins float32 | bins of anchors float32 | entropy coded numbers
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from engine.kv.tier_codecs.base import BlockForm, TierCodec
from engine.kv.tier_codecs.entropy import LIMIT, SymbolCoder

GROUP = 16  # tokens that share an anchor
GROWTH = (1.0, 1.5, 2.25)  # of bins, by third of the layers
ANCHOR = 0.25  # an anchor's bins over the others'
EXACT, CODED = 0, 1
PLAIN, DIFFERENCE, ANCHORS = 0, 1, 2  # what a number is; each kind has statistics of its own
KINDS = 3


@dataclass(frozen=True)
class Rounded:
    """A block in bins."""

    anchored: np.ndarray  # [layers, 2, kv_heads] bool: differences are stored
    bins: np.ndarray  # [layers, 2, kv_heads] float32: their width
    anchor_bins: np.ndarray  # likewise, of anchors
    numbers: np.ndarray  # [layers, 2, kv_heads, block_size, head_dim] int32: which bin


class DeltaCodec(TierCodec):
    """Differences to an anchor, in bins of a level's width. Lossy."""

    def __init__(self, level: float, form: BlockForm) -> None:
        """
        Args:
            level: the width of a bin in the first layers, over the root mean square of what is stored.

        Raises:
            EngineError: the entropy coder's library is not installed.
        """
        self.form = form
        thirds = np.arange(form.layers) * 3 // form.layers
        self._widths = (level * np.array(GROWTH)[thirds]).astype(np.float32)[:, None, None]
        self._channels = np.arange(np.prod(form.shape) // form.block_size).reshape(*form.shape[:3], 1, form.head_dim)
        self._coder = SymbolCoder(KINDS * self._channels.size)
        tokens = np.arange(form.block_size)
        self._group, self._is_anchor = tokens // GROUP, tokens % GROUP == 0
        self._blocks = self._bytes = self._stored_bytes = 0
        self._lost, self._all = np.zeros((2, form.layers, 2))  # sums of squares by layer and side

    def encode(self, content: np.ndarray) -> np.ndarray:
        """See ``TierCodec``. A block with a number that is not finite is kept as it is."""
        x = self.form.numbers(content)
        if np.isfinite(x).all():
            rounded = self.round(x)
            stream = self._write(rounded)
            back = np.empty_like(content)
            self.form.fill(back, self.values(rounded))
            self._lost += ((self.form.numbers(back) - x) ** 2).sum((2, 3, 4))
            self._all += (x**2).sum((2, 3, 4))
        else:
            stream = np.concatenate([np.array([EXACT], np.uint8), content])
        self._blocks += 1
        self._bytes += content.nbytes
        self._stored_bytes += stream.nbytes
        return stream

    def decode(self, stream: np.ndarray, into: np.ndarray, level: int = 0) -> None:
        if stream[0] == EXACT:
            into[:] = stream[1:]
        else:
            self.form.fill(into, self.values(self._read(stream)))

    def describe(self) -> dict[str, Any]:
        errors = np.sqrt(self._lost / np.maximum(self._all, 1e-30))
        return {
            "blocks": self._blocks,
            "bytes": self._bytes,
            "stored_bytes": self._stored_bytes,
            "key_error": errors[:, 0].tolist(),
            "value_error": errors[:, 1].tolist(),
        }

    def round(self, x: np.ndarray) -> Rounded:
        """Numbers [layers, 2, kv_heads, block_size, head_dim] float32 -> their bins."""
        size = np.sqrt(np.mean(x**2, axis=(3, 4)))
        bins = np.where(size > 0, self._widths * size, np.float32(1))
        anchors = x[:, :, :, self._is_anchor]
        anchor_bins = np.maximum(ANCHOR * bins, np.abs(anchors).max((3, 4)) / LIMIT).astype(np.float32)
        coded = np.rint(anchors / anchor_bins[..., None, None])
        differences = x - (coded * anchor_bins[..., None, None])[:, :, :, self._group]
        rest = ~self._is_anchor
        anchored = (differences[:, :, :, rest] ** 2).sum((3, 4)) < (x[:, :, :, rest] ** 2).sum((3, 4))
        stored = np.where(anchored[..., None, None], differences, x)
        bins = np.maximum(bins, np.abs(stored).max((3, 4)) / LIMIT).astype(np.float32)
        numbers = np.rint(stored / bins[..., None, None])
        numbers[:, :, :, self._is_anchor] = np.where(
            anchored[..., None, None], coded, numbers[:, :, :, self._is_anchor]
        )
        return Rounded(anchored, bins, anchor_bins, np.clip(numbers, -LIMIT, LIMIT).astype(np.int32))

    def values(self, rounded: Rounded) -> np.ndarray:
        """What bins stand for, [layers, 2, kv_heads, block_size, head_dim] float32."""
        anchored = rounded.anchored[..., None, None]
        anchors = rounded.numbers[:, :, :, self._is_anchor] * rounded.anchor_bins[..., None, None]
        x = rounded.numbers * rounded.bins[..., None, None]
        x += np.where(anchored, anchors, np.float32(0))[:, :, :, self._group]
        x[:, :, :, self._is_anchor] = np.where(anchored, anchors, x[:, :, :, self._is_anchor])
        return x.astype(np.float32, copy=False)

    def _write(self, rounded: Rounded) -> np.ndarray:
        numbers = self._coder.encode(rounded.numbers.ravel(), self._kinds_and_channels(rounded.anchored))
        widths = [part.ravel().view(np.uint8) for part in (rounded.bins, rounded.anchor_bins)]
        return np.concatenate([np.array([CODED], np.uint8), np.packbits(rounded.anchored), *widths, numbers])

    def _read(self, stream: np.ndarray) -> Rounded:
        heads = self.form.shape[:3]
        count = int(np.prod(heads))
        cuts = np.cumsum([1, -(-count // 8), 4 * count, 4 * count])
        _, bits, bins, anchor_bins, coded = np.split(stream, cuts)
        anchored = np.unpackbits(bits, count=count).astype(bool).reshape(heads)
        widths, anchor_widths = (part.copy().view(np.float32).reshape(heads) for part in (bins, anchor_bins))
        numbers = self._coder.decode(coded, self._kinds_and_channels(anchored))
        return Rounded(anchored, widths, anchor_widths, numbers.reshape(self.form.shape))

    def _kinds_and_channels(self, anchored: np.ndarray) -> np.ndarray:
        """The statistics that each number of a block belongs to, [numbers] whole numbers."""
        of_anchored = np.where(self._is_anchor, ANCHORS, DIFFERENCE)
        kinds = np.where(anchored[..., None], of_anchored, PLAIN)  # [layers, 2, kv_heads, block_size]
        return (kinds[..., None] * self._channels.size + self._channels).ravel()
