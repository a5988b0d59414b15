"""Which requests to run together: the prefix tree of a batch, flattened to one shared prefix per request (BatchLLM).

    prefix tree of the prompts             groups (each request in one, sharing one node's path)
        root                                  {a, b}  share "S D1"
         \\- S ---- D1 --- a, b                {c, d}  share "S D2"
              \\--- D2 --- c, d                 {e}    "S" would be shared with nobody left
               \\-- e

A group of m requests that share l tokens saves (m - 1) * l. Which nodes to choose is an exact dynamic program over the
tree (papers: BatchLLM). Groups with much to decode for little to prefill run first, so that their decodes are in flight
when later prompts come in chunks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np


@dataclass
class TreeNode:
    """A node of the compressed prefix tree: a leaf per path, or a place where paths part."""

    depth: int  # blocks from the root
    leaf: int = -1  # number of the path; -1 inside the tree
    children: list[TreeNode] = field(default_factory=list)


@dataclass(frozen=True)
class PathGroup:
    """Paths that share their first ``depth`` blocks; a single path shares nothing (depth 0)."""

    depth: int
    members: tuple[int, ...]


def flatten(paths: Sequence[Sequence[int]]) -> list[PathGroup]:
    """The groups with the largest saving, sum of (members - 1) * depth, each path in exactly one.

    Args:
        paths: per request the names (chained hashes) of its whole blocks; equal names mean equal prefixes.

    Returns:
        Groups in the tree's order, members too: neighbours share most.
    """
    return flatten_tree(prefix_tree(paths))


def flatten_tree(nodes: list[TreeNode]) -> list[PathGroup]:
    """As ``flatten``, of a tree that is there already."""
    return _groups(nodes, *_solve(nodes))


def prefix_tree(paths: Sequence[Sequence[int]]) -> list[TreeNode]:
    """The compressed tree of the paths, children before their parents; the last node is the root (depth 0)."""
    order = sorted(range(len(paths)), key=lambda i: list(paths[i]))
    common = [common_beginning(paths[a], paths[b]) for a, b in pairwise(order)]
    return grow_tree(order, common, [len(path) for path in paths])


def grow_tree(order: Sequence[int], neighbours: Sequence[int], lengths: Sequence[int]) -> list[TreeNode]:
    """The tree of sorted paths.

    Args:
        order: numbers of the paths, such that those that begin alike are neighbours.
        neighbours: length of what each path in order has in common with the next.
        lengths: of the paths, by number.
    """
    finished: list[TreeNode] = []
    stack = [TreeNode(0)]  # the way from the root to where the next leaf hangs

    def close(parent_depth: int) -> None:
        """The topmost node is complete; it hangs below a node that is at least ``parent_depth`` deep."""
        done = stack.pop()
        finished.append(done)
        if stack[-1].depth < parent_depth:  # the way parts in the middle of an edge
            stack.append(TreeNode(parent_depth))
        stack[-1].children.append(done)

    for place, number in enumerate(order):
        common = neighbours[place - 1] if place else 0
        while stack[-1].leaf >= 0 or stack[-1].depth > common:
            close(common)
        stack.append(TreeNode(lengths[number], leaf=number))
    while len(stack) > 1:
        close(0)
    return [*finished, stack[0]]


def common_beginning(a: Sequence[int], b: Sequence[int]) -> int:
    """Length of the common beginning, by bisection: comparing slices is much faster than comparing items."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _solve(nodes: list[TreeNode]) -> tuple[dict[int, list[np.ndarray]], dict[int, int]]:
    """Per node how many unassigned leaves to take from each child, and the size of the group closed there.

    ``best[v][m]``: largest saving below v with m leaves left for a node above. A leaf has [0, 0]. Inside, the children
    are combined by max-plus convolution; then v may close a group of its own: best[v][0] = max over m of best[v][m] +
    (m - 1) * depth.
    """
    best: dict[int, np.ndarray] = {}
    splits: dict[int, list[np.ndarray]] = {}
    closes: dict[int, int] = {}
    for node in nodes:
        if node.leaf >= 0:
            best[id(node)] = np.zeros(2, dtype=np.int64)
            continue
        total = np.zeros(1, dtype=np.int64)
        splits[id(node)] = []
        for child in node.children:
            total, taken = _convolve(total, best.pop(id(child)))
            splits[id(node)].append(taken)
        gains = total[1:] + np.arange(len(total) - 1) * node.depth
        if len(gains) and gains.max() > total[0]:
            closes[id(node)] = int(gains.argmax()) + 1
            total = total.copy()
            total[0] = gains.max()
        best[id(node)] = total
    return splits, closes


def _convolve(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Max-plus convolution of two savings, and how much of each total comes from ``b``."""
    result = np.full(len(a) + len(b) - 1, -1, dtype=np.int64)
    taken = np.zeros(len(result), dtype=np.int64)
    if len(b) <= len(a):
        for j, value in enumerate(b):
            part = result[j : j + len(a)]
            better = a + value > part
            part[better] = (a + value)[better]
            taken[j : j + len(a)][better] = j
    else:
        for i, value in enumerate(a):
            part = result[i : i + len(b)]
            better = b + value > part
            part[better] = (b + value)[better]
            taken[i : i + len(b)][better] = np.flatnonzero(better)
    return result, taken


def _groups(nodes: list[TreeNode], splits: dict[int, list[np.ndarray]], closes: dict[int, int]) -> list[PathGroup]:
    """Walk the decisions from the root down: every leaf goes to the node that closes a group with it, or stays
    alone."""
    members: dict[int, list[int]] = {}
    depth: dict[int, int] = {}
    order: list[int] = []  # groups in the tree's order
    todo: list[tuple[TreeNode, int, int]] = [(nodes[-1], 0, -1)]  # node, leaves wanted from below, who takes them
    while todo:
        node, wanted, owner = todo.pop()
        if node.leaf >= 0:
            key = owner if wanted else id(node)
            if key not in members:
                members[key] = []
                depth.setdefault(key, 0)
                order.append(key)
            members[key].append(node.leaf)
            continue
        if not wanted and id(node) in closes:
            wanted, owner = closes[id(node)], id(node)
            depth[owner] = node.depth
        shares = []
        for taken in reversed(splits[id(node)]):
            shares.append(int(taken[wanted]))
            wanted -= shares[-1]
        todo += [
            (child, share, owner) for child, share in zip(reversed(node.children), shares, strict=True)
        ]  # the first child ends up on top
    return [PathGroup(depth[key] if len(members[key]) > 1 else 0, tuple(members[key])) for key in order]


def running_order(
    groups: Sequence[PathGroup], prompt_tokens: Sequence[int], output_tokens: Sequence[int], block_size: int
) -> list[int]:
    """The paths' numbers in the order to run them: groups together, those with the larger share of decoding first.

    Args:
        prompt_tokens, output_tokens: per path; outputs are estimates or upper bounds.
        block_size: tokens of a path's block.
    """

    def decode_share(group: PathGroup) -> float:
        own_prompt = sum(prompt_tokens[i] - group.depth * block_size for i in group.members)
        return sum(output_tokens[i] for i in group.members) / max(1, own_prompt)

    return [i for group in sorted(groups, key=decode_share, reverse=True) for i in group.members]
