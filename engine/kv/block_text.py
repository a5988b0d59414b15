"""The text of blocks: hashed, and held against a request's."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Sequence

from engine.kv.prefixes import Node

HashBlock = Callable[[int, Sequence[int]], int]


def hash_block(parent: int, tokens: Sequence[int]) -> int:
    """63 bits over a block's tokens and the hash of what comes before."""
    digest = hashlib.blake2b(array("q", [parent, *tokens]).tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def agreeing(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def is_text_of(tokens: Sequence[int], size: int, node: Node, place: int, known: dict[Node, int]) -> bool:
    """Whether a node and those above it hold a text up to its block at ``place``.

    Args:
        tokens: the text.
        size: tokens of a block.
        known: nodes that do and their places; those found are added.
    """
    above = []
    while node not in known:
        if node.parent is None or place < 0:
            return False
        if node.tokens != tokens[place * size : (place + 1) * size]:
            return False
        above.append((node, place))
        node, place = node.parent, place - 1
    if known[node] != place:
        return False
    known.update(above)
    return True
