"""Grouped scheduling: the flattening is exact, the saving nearly the tree's, and memory is never over-promised."""

from __future__ import annotations

import itertools
import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import PrefixSharing
from engine.kv.grouping import flatten, prefix_tree, running_order
from tests.engine.prefix_scheduling import (
    block_tree_optimum,
    execute,
    make_request,
    make_scheduler,
    prefill_tokens,
    serve,
)
from tests.examples import examples

GROUPED = PrefixSharing(order="grouped")


@st.composite
def branching_paths(draw: st.DrawFn) -> list[list[int]]:
    rng = random.Random(draw(st.integers(0, 10**9)))
    paths: list[list[int]] = [[]]
    for _ in range(draw(st.integers(1, 6))):
        stem = rng.choice(paths)
        grown = stem[: rng.randint(0, len(stem))] + [rng.randint(0, 2) for _ in range(rng.randint(0, 3))]
        paths.append(grown[:5])
    return paths[1:]


def best_of_all_assignments(paths: list[list[int]]) -> int:
    """Try every way to give each path one of its prefixes."""
    prefixes = [[tuple(p[:n]) for n in range(len(p) + 1)] for p in paths]
    return max(
        sum((members - 1) * len(prefix) for prefix, members in Counter(choice).items())
        for choice in itertools.product(*prefixes)
    )


@given(branching_paths())
@settings(max_examples=examples(250), deadline=None)
def test_the_flattening_saves_as_much_as_the_best_of_all_assignments(paths: list[list[int]]):
    groups = flatten(paths)
    assert sorted(i for g in groups for i in g.members) == list(range(len(paths)))
    for group in groups:
        assert len({tuple(paths[i][: group.depth]) for i in group.members}) == 1
        assert all(len(paths[i]) >= group.depth for i in group.members)
    assert sum((len(g.members) - 1) * g.depth for g in groups) == best_of_all_assignments(paths)


@given(branching_paths())
@settings(max_examples=examples(100), deadline=None)
def test_the_tree_has_every_path_as_a_leaf_below_where_it_parts(paths: list[list[int]]):
    nodes = prefix_tree(paths)
    assert sorted(n.leaf for n in nodes if n.leaf >= 0) == list(range(len(paths)))
    assert len(nodes) <= 2 * len(paths) + 1
    for node in nodes:
        assert all(child.depth >= node.depth for child in node.children)
    edges = sum(child.depth - node.depth for node in nodes for child in node.children)
    assert edges == len({tuple(p[:n]) for p in paths for n in range(1, len(p) + 1)})


def test_a_long_chain_of_prefixes_needs_no_deep_recursion():
    paths = [list(range(n)) for n in range(1500)]
    assert sum(len(g.members) for g in flatten(paths)) == 1500


def test_groups_with_more_to_decode_run_first():
    paths = [[1, 2], [1, 2], [3, 4], [3, 4]]
    order = running_order(flatten(paths), [10, 10, 10, 10], [2, 2, 50, 50], 4)
    assert order == [2, 3, 0, 1]


def documents_and_questions(documents: int, questions: int, seed: int = 0) -> list[list[int]]:
    """Every question about every document, in an order that keeps a document's questions far apart."""
    rng = random.Random(seed)
    texts = [[rng.randrange(10**5) for _ in range(rng.randrange(80, 160))] for _ in range(documents)]
    return [texts[d] + [rng.randrange(10**5) for _ in range(6)] for _ in range(questions) for d in range(documents)]


def saved_share(sharing: PrefixSharing, prompts: list[list[int]], blocks: int) -> float:
    """Tokens taken from the cache, of those the tree would allow."""
    scheduler = make_scheduler(blocks=blocks, sharing=sharing, budget=64, seqs=6)
    requests = [make_request(i, p, output=8) for i, p in enumerate(prompts)]
    serve(scheduler, requests)
    return sum(r.cached_tokens for r in requests) / block_tree_optimum(prompts, 4)


@pytest.mark.parametrize("seed", range(3))
def test_in_a_small_pool_grouping_saves_nearly_all_and_arrival_order_does_not(seed: int):
    prompts = documents_and_questions(12, 6, seed)
    blocks = 6 * 45
    assert saved_share(GROUPED.model_copy(update={"copy_partial": False}), prompts, blocks) >= 0.95
    assert saved_share(PrefixSharing(copy_partial=False), prompts, blocks) < 0.8


def test_grouping_changes_the_order_and_nothing_else():
    prompts = documents_and_questions(5, 4)
    plans = {}
    for name, sharing in (("arrival", PrefixSharing()), ("grouped", GROUPED)):
        requests = [make_request(i, p, output=3) for i, p in enumerate(prompts)]
        plans[name] = serve(make_scheduler(blocks=400, sharing=sharing), requests)
        assert all(r.num_output_tokens == 3 for r in requests)
    assert prefill_tokens(plans["grouped"]) <= prefill_tokens(plans["arrival"])


def test_importance_goes_before_groups():
    requests = [make_request(i, [7] * 20 + [i]) for i in range(4)]
    urgent = make_request(9, [1, 2, 3])
    urgent.spec = urgent.spec.model_copy(update={"priority": 5})
    scheduler = make_scheduler(blocks=100, sharing=GROUPED, seqs=1)
    for request in (*requests, urgent):
        scheduler.add(request)
    assert scheduler.plan().slices[0].request is urgent


@given(st.integers(0, 10**6), st.integers(30, 90))
@settings(max_examples=examples(40), deadline=None)
def test_admission_by_memory_never_preempts_and_knows_no_other_limit(seed: int, blocks: int):
    rng = random.Random(seed)
    sharing = PrefixSharing(admission="memory", order=rng.choice(["arrival", "grouped"]))
    stem = [rng.randrange(100) for _ in range(24)]
    requests = [
        make_request(i, stem[: rng.randrange(1, 25)] + [i] * rng.randrange(1, 20), output=rng.randrange(1, 30))
        for i in range(12)
    ]
    scheduler = make_scheduler(blocks=blocks, sharing=sharing, seqs=1)
    for request in requests:
        scheduler.add(request)
    most = 0
    while scheduler.has_work:
        plan = scheduler.plan()
        assert not plan.preempted
        most = max(most, len(scheduler.running))
        execute(scheduler, plan)
        scheduler.check_integrity()
    assert most > 1
