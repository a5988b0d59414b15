"""Which rows of a batch read the same blocks, so that one pass over them can serve all (Hydragen)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from engine.kv.grouping import PathGroup, TreeNode, flatten, prefix_tree


@dataclass(frozen=True)
class Piece:
    """Blocks that several rows share: places ``[first, first + len(blocks))`` of each one's block table."""

    rows: tuple[int, ...]
    first: int
    blocks: tuple[int, ...]

    @property
    def spared_blocks(self) -> int:
        """Block reads that one common pass saves."""
        return (len(self.rows) - 1) * len(self.blocks)


def find_pieces(paths: Sequence[Sequence[int]], *, tree: bool, min_rows: int, min_blocks: int) -> list[Piece]:
    """Cut what rows share into pieces; what no piece covers is the row's own suffix.

    Args:
        paths: per row its whole blocks before the one that it writes, in order.
        tree: a piece per level of the tree of paths (rows may be in several); else one shared prefix per row at most.
        min_rows, min_blocks: smaller pieces are not worth a pass of their own.

    Returns:
        Pieces of one row lie end to end from its first block on.
    """
    if len(paths) < min_rows:
        return []
    if tree:
        return _levels(paths, prefix_tree(paths)[-1], min_rows, min_blocks)
    return [
        Piece(group.members, 0, tuple(paths[group.members[0]][: group.depth]))
        for group in flatten(paths)
        if _worth(group, min_rows, min_blocks)
    ]


def _worth(group: PathGroup, min_rows: int, min_blocks: int) -> bool:
    return len(group.members) >= min_rows and group.depth >= max(1, min_blocks)


def _levels(paths: Sequence[Sequence[int]], root: TreeNode, min_rows: int, min_blocks: int) -> list[Piece]:
    """Walk down; a node becomes a piece where enough rows share enough blocks beyond the last piece above them."""
    pieces = []
    todo = [(root, 0)]
    while todo:
        node, covered = todo.pop()
        rows = _leaves(node)
        if len(rows) < min_rows:
            continue
        if node.depth - covered >= max(1, min_blocks):
            pieces.append(Piece(rows, covered, tuple(paths[rows[0]][covered : node.depth])))
            covered = node.depth
        todo += [(child, covered) for child in node.children]
    return pieces


def _leaves(node: TreeNode) -> tuple[int, ...]:
    rows, todo = [], [node]
    while todo:
        node = todo.pop()
        if node.leaf >= 0:
            rows.append(node.leaf)
        todo += node.children
    return tuple(sorted(rows))
