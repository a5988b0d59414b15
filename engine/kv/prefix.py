"""Finding KV blocks by the text they hold: the prefix cache over the paged pool.

A full block is published under a hash chained over everything before it, so equal hashes mean equal prefixes; the
tokens are compared all the same, so a collision can never hand one request another's text.

    root -- "You are a helpful" -- " assistant. Answer" -- " in one sentence."      published blocks, a tree
        \\                                              \\- " with a poem. Use"
         \\- "def quicksort(" ...

A request that comes finds its longest path from the root. Whole blocks are shared (or copied where memory is not to be
shared); of the next block it copies the tokens that agree (copy-on-write of a partial block). Everything that was
computed is published as soon as its block is full; when two requests computed the same block at once, the later one
lets go of its own.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Sequence

from engine.block_table import blocks_for, whole_blocks
from engine.config import PrefixSharing
from engine.config.errors import IntegrityError
from engine.kv.block_text import HashBlock, agreeing, hash_block, is_text_of
from engine.kv.grouping import flatten, running_order
from engine.kv.kept import Kept
from engine.kv.pool import BlockPool
from engine.kv.prefixes import NOTHING, Match, Node, Prefixes
from engine.kv.tiers import Tiers
from engine.request import Request

REMEMBERED = 4  # evicted blocks are remembered up to so many times the pool's size, to tell what evictions cost
MOST_COMPARED = 16  # blocks looked at for the longest partial match


class PrefixCache(Prefixes):
    """The index of published blocks. ``copy_block(source, destination)`` copies a block's keys and values."""

    def __init__(
        self,
        pool: BlockPool,
        settings: PrefixSharing,
        copy_block: Callable[[int, int], None],
        hash_block: HashBlock = hash_block,
        window_blocks: int | None = None,
        tiers: Tiers | None = None,
    ) -> None:
        """``tiers``: where evicted blocks are kept; None: they are lost."""
        super().__init__(pool, window_blocks)
        self.tiers = tiers
        self.settings = settings
        self.waits = settings.wait_in_flight and settings.skip_prefill
        self.looks_up = settings.skip_prefill
        self.reserves = settings.admission == "memory"
        self._copy_block = copy_block
        self._hash_block = hash_block
        self._roots: dict[str, Node] = {}
        self._by_hash: dict[int, Node] = {}
        self._by_block: dict[int, Node] = {}
        self._tips: dict[int, tuple[int, Node]] = {}  # request -> blocks published or taken so far, the last one's node
        self._lost: OrderedDict[int, None] = OrderedDict()  # hashes of evicted blocks
        self._evicted = 0
        self._ranked = 0
        pool.evicted = self._forget
        if tiers is not None:
            pool.reused = tiers.reused
        pool.moved = self._renumber

    def match(self, request: Request, room: int) -> Match:
        if not self.looks_up or (request.scores is not None and request.scores.of_prompt):
            return NOTHING  # what is found is not computed, so it has no scores
        size, limit = self.pool.block_size, request.num_known_tokens - 1
        most = self._whole(whole_blocks(limit, size))
        path = self._path(request, most)
        del path[self._whole(len(path)) :]
        whole = len(path)
        node = path[-1] if path else self._root(request)
        partial, tokens = None, 0
        stored, declined = self._stored(request, path, most)
        whole += len(stored)
        if not self._window and not stored:  # else a block's tokens are packed together
            partial, tokens = self._partial(node, request.token_ids[whole * size : min(limit, (whole + 1) * size)])
        match = Match(
            tuple(path),
            partial,
            tokens,
            self._hash(request, whole) if whole < most else -1,
            self._lost_after(request, whole, most),
            stored,
            declined,
        )
        if partial is not None and self.blocks_needed(request, match) > room:
            match = match._replace(partial=None, partial_tokens=0)
        if not self.settings.share_memory and self.blocks_needed(request, match) > room:
            match = match._replace(path=(), stored=(), declined=())
        return match

    def blocks_needed(self, request: Request, match: Match) -> int:
        needed = self.pool.blocks_for(request.num_known_tokens)
        if self.settings.share_memory:
            needed -= len(match.path)
        return needed + sum(1 for node in (*match.path, match.partial) if node and self.pool.is_evictable(node.block))

    def attach(self, request: Request, match: Match) -> None:
        pool, whole = self.pool, len(match.path)
        total = pool.blocks_for(request.num_known_tokens)
        if self.settings.share_memory:
            for position, node in enumerate(match.path):
                pool.share(node.block, request.index, position)
            request.block_table = [node.block for node in match.path]
        else:
            for node in reversed(match.path):
                pool.touch(node.block)
        if match.partial is not None:
            pool.touch(match.partial.block)
        if self.tiers is not None:
            self.tiers.pin(match.stored)
        held = len(request.block_table)
        after = request.block_table[-1] if held else -1
        grow = pool.blocks_for(request.most_computed_tokens) - total
        request.block_table += pool.allocate(total - held, request.index, held, after, grow)
        for position in range(held, whole):
            self._copy_block(match.path[position].block, request.block_table[position])
        request.num_computed_tokens = whole * pool.block_size
        if match.partial is not None:
            self._copy_block(match.partial.block, request.block_table[whole])
            request.num_computed_tokens += match.partial_tokens
        self._tips[request.index] = (whole, match.path[-1] if match.path else self._root(request))
        if self.tiers is not None:
            self._load(self.tiers, request, match)

    def pending(self, request: Request, first: int, last: int) -> Sequence[int]:
        size = self.pool.block_size
        whole = whole_blocks(len(request.token_ids), size)
        begin = self._whole(whole_blocks(first, size))  # a window that is not complete cannot be found yet
        return [self._hash(request, position) for position in range(begin, min(blocks_for(last, size), whole))]

    def computed(self, request: Request, before: int, after: int) -> None:
        pool, size = self.pool, self.pool.block_size
        done, node = self._tips[request.index]
        until = whole_blocks(min(after, len(request.token_ids)), size)
        if self._window:
            for position in range(max(done, whole_blocks(before, size)), until):
                pool.filled(request.block_table[position], request.index, position)
        for position in range(done, self._whole(until)):
            node = self._settle(request, request.block_table, position, node)
            self._tips[request.index] = (position + 1, node)

    def take_in(self, request: Request, path: Sequence[Node], table: list[int], blocks: int) -> int:
        """Blocks behind a path were loaded for a waiting request: they can be found in the pool.

        Args:
            table: of blocks that are held, those of the path first; one of the same content may take a place in it.
            blocks: of the table that were loaded, those of the path included.

        Returns:
            Blocks of the table that can be found.
        """
        node, until = path[-1] if path else self._root(request), self._whole(blocks)
        for position in range(len(path), until):
            if self._window:
                self.pool.filled(table[position], request.index, position)
            node = self._settle(request, table, position, node)
            if not node.findable:
                return position
        return until

    def settled(self, request: Request) -> int:
        return self._tips[request.index][0]

    def tip(self, request: Request) -> Node | None:
        return self._tips[request.index][1] if request.index in self._tips else None

    def release(self, request: Request) -> None:
        super().release(request)
        self._tips.pop(request.index, None)

    def rank(self, waiting: Sequence[Request]) -> None:
        if self.settings.order == "arrival":
            return
        size = self.pool.block_size
        fresh = [r for r in waiting if not r.preemptions]  # a preempted request keeps its place
        paths = [[self._hash(r, place) for place in range(whole_blocks(r.num_known_tokens - 1, size))] for r in fresh]
        lengths = [r.num_prompt_tokens for r in fresh]
        order = running_order(flatten(paths), lengths, [r.max_tokens for r in fresh], size)
        for place, number in enumerate(order):
            fresh[number].rank = self._ranked + place
        self._ranked += len(fresh)

    def node_of(self, block: int) -> Node:
        """Of a published block."""
        return self._by_block[block]

    def take_evicted(self) -> int:
        count, self._evicted = self._evicted, 0
        return count

    def check_integrity(self) -> None:
        for block, node in self._by_block.items():
            if node.block != block or self._by_hash.get(node.hash) is not node:
                raise IntegrityError(f"block {block} is indexed as {node.block} under hash {node.hash}")
            if node.parent is None or not node.parent.findable:
                raise IntegrityError(f"block {block} is published below a block that is gone")
        if self._by_block.keys() != self.pool.published:
            raise IntegrityError("the pool and the prefix index disagree about which blocks can be found")
        if len(self._by_hash) != len(self._by_block):
            raise IntegrityError(f"{len(self._by_hash)} hashes stand for {len(self._by_block)} blocks")
        if self.tiers is not None:
            self.tiers.check_integrity()

    def _root(self, request: Request) -> Node:
        """Where the paths of a request start: one root for all, or one for each tenant."""
        salt = (request.spec.group or "") if self.settings.salt_by_group else ""
        root = self._roots.get(salt)
        if root is None:
            digest = hashlib.blake2b(salt.encode(), digest_size=8).digest()
            root = self._roots[salt] = Node(-1, int.from_bytes(digest, "little") >> 1, (), None)
        return root

    def _hash(self, request: Request, position: int) -> int:
        """The chained hash of the request's whole block at ``position``; computed once per request."""
        size, known = self.pool.block_size, request.block_hashes
        for place in range(len(known), position + 1):
            parent = known[-1] if known else self._root(request).hash
            known.append(self._hash_block(parent, request.token_ids[place * size : (place + 1) * size]))
        return known[position]

    def _path(self, request: Request, most: int) -> list[Node]:
        """The published blocks that hold the request's first tokens, at most ``most`` of them."""
        size = self.pool.block_size
        node = self._root(request)
        path: list[Node] = []
        for position in range(most):
            child = self._by_hash.get(self._hash(request, position))
            if child is None or child.parent is not node:
                break
            if child.tokens != request.token_ids[position * size : (position + 1) * size]:
                break
            path.append(child)
            node = child
        return path

    def _stored(self, request: Request, path: Sequence[Node], most: int) -> tuple[tuple[Kept, ...], tuple[Kept, ...]]:
        """Blocks in tiers that go on where a path ends, below place ``most``: to be loaded, and to be computed."""
        if self.tiers is None:
            return (), ()
        found: list[Kept] = []
        known = {self._root(request): -1} | {node: place for place, node in enumerate(path)}
        for place in range(len(path), most):
            kept = self.tiers.find(self._hash(request, place))
            if kept is None or not is_text_of(request.token_ids, self.pool.block_size, kept.node, place, known):
                break
            found.append(kept)
        del found[self._whole(len(found)) :]
        context = len(path) * self.pool.block_size
        take = self.tiers.choice.take([kept.tier for kept in found], context, self._unit)
        return tuple(found[:take]), tuple(found[take:])

    def _load(self, tiers: Tiers, request: Request, match: Match) -> None:
        """Blocks from tiers become the next ones of a request's table, and can be found in the pool again."""
        first, size = len(match.path), self.pool.block_size
        if match.stored:
            blocks = request.block_table[first : first + len(match.stored)]
            loaded = self._whole(tiers.end(tiers.begin(request, match.stored, blocks, first * size)))
            request.num_computed_tokens = (first + loaded) * size
            self.computed(request, first * size, request.num_computed_tokens)
        if match.declined:
            tiers.decline(request.index, match.declined, (first + len(match.stored)) * size)

    def _settle(self, request: Request, table: list[int], position: int, parent: Node) -> Node:
        """A block of a request's table is whole: publish it, or hold the one that has the same text already."""
        block = table[position]
        node = self._publish(request, position, parent, block)
        if not self._window:
            self.pool.filled(block, request.index, position)
        if self._window is not None:
            self.pool.quantised(block, request.index, position)
        if self.settings.share_memory and node.findable and node.block != block:
            self.pool.share(node.block, request.index, position)
            table[position] = node.block
            self.pool.free([block], request.index, position)
        return node

    def _publish(self, request: Request, position: int, parent: Node, block: int) -> Node:
        """The node of the request's block: the one that holds the same text already, or a new one.

        An unfindable node (never in the index) where the hash is taken by another text or the parent is gone.
        """
        size, hash = self.pool.block_size, self._hash(request, position)
        tokens = request.token_ids[position * size : (position + 1) * size]
        known = self._by_hash.get(hash)
        if known is not None and known.parent is parent and known.tokens == tokens:
            return known
        node = Node(-1, hash, tokens, parent)
        if known is None and parent.findable:
            node.block = block
            self._by_hash[hash] = self._by_block[node.block] = node
            parent.children.setdefault(tokens[0], []).append(node)
            self.pool.publish(node.block, hash)
            self._lost.pop(hash, None)
        return node

    def _partial(self, node: Node, tokens: Sequence[int]) -> tuple[Node | None, int]:
        """The published block after ``node`` that begins with most of ``tokens``, and how many agree."""
        if not tokens or not self.settings.copy_partial:
            return None, 0
        candidates = node.children.get(tokens[0], [])[-MOST_COMPARED:]
        matches = [(agreeing(child.tokens, tokens), -place) for place, child in enumerate(candidates)]
        if not matches:
            return None, 0
        most, place = max(matches)
        return candidates[-place], most

    def _lost_after(self, request: Request, first: int, last: int) -> int:
        """Tokens of the whole blocks from ``first`` on, below ``last``, that were evicted."""
        position = first
        while position < last and self._hash(request, position) in self._lost:
            position += 1
        return (position - first) * self.pool.block_size

    def _renumber(self, before: int, after: int) -> None:
        """A published block has another number now."""
        node = self._by_block[after] = self._by_block.pop(before)
        node.block = after

    def _forget(self, block: int) -> None:
        """A published block's content is lost, and with it the way to everything below."""
        self._evicted += 1
        node = self._by_block[block]
        assert node.parent is not None
        siblings = node.parent.children[node.tokens[0]]
        siblings.remove(node)
        if not siblings:
            del node.parent.children[node.tokens[0]]
        pending = [node]
        while pending:
            gone = pending.pop()
            for children in gone.children.values():
                pending += children
            gone.children = {}
            if self.tiers is not None:
                self.tiers.keep(gone, gone.block)
            if gone is not node:
                self.pool.withdraw(gone.block)
            del self._by_block[gone.block], self._by_hash[gone.hash]
            gone.block = -1
            self._lost[gone.hash] = None
        while len(self._lost) > REMEMBERED * self.pool.num_blocks:
            self._lost.popitem(last=False)
