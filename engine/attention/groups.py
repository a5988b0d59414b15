"""Which rows of a batch read the same blocks, so that one pass over them can serve all (Hydragen)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from engine.kv.grouping import PathGroup, TreeNode, common_beginning, flatten_tree, grow_tree, prefix_tree

Path = Sequence[int] | np.ndarray  # a row's whole blocks before the one that it writes, in order; arrays are int32


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


@dataclass(frozen=True)
class GroupRule:
    """What is worth a pass of its own; see ``find_pieces``."""

    tree: bool = False
    min_rows: int = 2
    min_blocks: int = 1

    def find(self, paths: Sequence[Path]) -> list[Piece]:
        return find_pieces(paths, tree=self.tree, min_rows=self.min_rows, min_blocks=self.min_blocks)


def find_pieces(paths: Sequence[Path], *, tree: bool, min_rows: int, min_blocks: int) -> list[Piece]:
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
    nodes = _tree_of(paths)
    if tree:
        return _levels(paths, nodes[-1], min_rows, min_blocks)
    return [
        Piece(group.members, 0, _blocks(paths[group.members[0]][: group.depth]))
        for group in flatten_tree(nodes)
        if _worth(group, min_rows, min_blocks)
    ]


def _tree_of(paths: Sequence[Path]) -> list[TreeNode]:
    """The compressed tree of the paths; arrays are compared as the memory they are."""
    if not isinstance(paths[0], np.ndarray):
        return prefix_tree(paths)  # type: ignore[arg-type]  # all are of one kind
    names = [np.asarray(path, np.int32).tobytes() for path in paths]
    order = sorted(range(len(paths)), key=names.__getitem__)
    common = [common_beginning(names[a], names[b]) // 4 for a, b in pairwise(order)]  # 4 bytes a block
    return grow_tree(order, common, [len(path) for path in paths])


def _blocks(path: Path) -> tuple[int, ...]:
    return tuple(path.tolist() if isinstance(path, np.ndarray) else path)


def _worth(group: PathGroup, min_rows: int, min_blocks: int) -> bool:
    return len(group.members) >= min_rows and group.depth >= max(1, min_blocks)


def _levels(paths: Sequence[Path], root: TreeNode, min_rows: int, min_blocks: int) -> list[Piece]:
    """Walk down; a node becomes a piece where enough rows share enough blocks beyond the last piece above them."""
    pieces = []
    todo = [(root, 0)]
    while todo:
        node, covered = todo.pop()
        rows = _leaves(node)
        if len(rows) < min_rows:
            continue
        if node.depth - covered >= max(1, min_blocks):
            pieces.append(Piece(rows, covered, _blocks(paths[rows[0]][covered : node.depth])))
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
