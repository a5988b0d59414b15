"""The prefix cache: what is found, what is not, and what is said about it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import ConfigError, EngineConfig, PrefixSharing, apply_overrides
from engine.config.errors import IntegrityError
from engine.kv.pool import BlockPool
from engine.scheduling.policies import POLICIES
from tests.engine.prefix_scheduling import (
    block_tree_optimum,
    execute,
    make_request,
    make_scheduler,
    prefill_tokens,
    serve,
    serve_in_turn,
)
from tests.examples import examples

WHOLE_BLOCKS = PrefixSharing(copy_partial=False)
A, B, C = range(100, 112), range(200, 212), range(300, 312)  # three blocks of four tokens each


def test_a_known_prefix_is_not_computed_again():
    first, second = make_request(0, [*A, 1, 2]), make_request(1, [*A, 3, 4])
    scheduler = make_scheduler(blocks=20)
    assert prefill_tokens(serve(scheduler, [first])) == 14
    assert prefill_tokens(serve(scheduler, [second])) == 2
    assert (first.cached_tokens, second.cached_tokens) == (0, 12)


def test_at_least_one_token_is_computed():
    copied: list[tuple[int, int]] = []
    scheduler = make_scheduler(blocks=20, copied=copied)
    plans = serve_in_turn(scheduler, [make_request(0, A), make_request(1, A)])
    assert prefill_tokens(plans) == 12 + 1
    assert len(copied) == 1  # the last block, for its first three tokens


def test_answers_are_found_too():
    scheduler = make_scheduler(blocks=20)
    turn = make_request(0, A, output=9)
    serve(scheduler, [turn])
    follow_up = make_request(1, [*turn.token_ids, 5])
    serve(scheduler, [follow_up])
    assert follow_up.cached_tokens == 20  # all that was computed and fills blocks: the last answer token was not


def test_prompts_that_part_within_a_block_copy_what_agrees():
    copied: list[tuple[int, int]] = []
    first, second = make_request(0, A), make_request(1, [*A[:10], 7, 8, 9])
    scheduler = make_scheduler(blocks=20, copied=copied)
    serve(scheduler, [first])
    scheduler.add(second)
    plan = scheduler.plan()
    assert second.cached_tokens == 10
    assert copied[0][1] == second.block_table[2]
    assert copied[0][0] not in second.block_table
    execute(scheduler, plan)
    scheduler.check_integrity()


def test_without_copies_only_whole_blocks_count():
    scheduler = make_scheduler(blocks=20, sharing=WHOLE_BLOCKS)
    requests = [make_request(0, A), make_request(1, [*A[:10], 7, 8, 9])]
    serve_in_turn(scheduler, requests)
    assert requests[1].cached_tokens == 8


def test_a_collision_of_hashes_never_hands_out_anothers_text():
    """With a hash that is always the same, only the very same text may be found."""
    scheduler = make_scheduler(blocks=40, hash_block=lambda parent, tokens: 42, sharing=WHOLE_BLOCKS)
    requests = [make_request(i, text) for i, text in enumerate([A, B, C, [*A, 1], [*B, 1]])]
    serve_in_turn(scheduler, requests)
    assert [r.cached_tokens for r in requests] == [0, 0, 0, 4, 0]  # the first block of A came first; nothing else fits


def test_groups_are_kept_apart_where_asked():
    for salted, expected in ((True, 0), (False, 12)):
        scheduler = make_scheduler(blocks=20, sharing=PrefixSharing(salt_by_group=salted))
        spy = make_request(1, [*A, 1], group="spy")
        serve_in_turn(scheduler, [make_request(0, [*A, 1], group="bank"), spy])
        assert spy.cached_tokens == expected


def test_a_request_waits_a_step_for_blocks_that_are_being_computed():
    requests = [make_request(i, [*A, i, i]) for i in range(3)]
    waiting = make_scheduler(blocks=40)
    plans = serve(waiting, requests)
    assert [len(p.slices) for p in plans] == [1, 2]
    assert plans[0].admission_stop == "prefix"
    assert prefill_tokens(plans) == 14 + 2 + 2
    hasty = make_scheduler(blocks=40, sharing=PrefixSharing(wait_in_flight=False))
    plans = serve(hasty, [make_request(i, [*A, i, i]) for i in range(3)])
    assert [len(p.slices) for p in plans] == [3]
    assert prefill_tokens(plans) == 3 * 14


def test_a_request_waits_as_long_as_its_forerunner_computes_the_very_block_it_needs():
    requests = [make_request(i, [*A, i, i]) for i in range(2)]
    plans = serve(make_scheduler(blocks=40, budget=5), requests)
    assert prefill_tokens(plans) == 14 + 2


def test_what_was_computed_twice_is_kept_once():
    scheduler = make_scheduler(blocks=40, sharing=PrefixSharing(wait_in_flight=False))
    requests = [make_request(i, [*A, i, i], output=3) for i in range(3)]
    for request in requests:
        scheduler.add(request)
    execute(scheduler, scheduler.plan())
    assert scheduler.pool.num_used == 3 + 3
    assert (scheduler.pool.num_shared, scheduler.pool.num_spared) == (3, 6)
    assert len({tuple(r.block_table[:3]) for r in requests}) == 1
    scheduler.check_integrity()


def test_memory_is_shared_without_skipping_prefill():
    scheduler = make_scheduler(blocks=40, sharing=PrefixSharing(skip_prefill=False))
    requests = [make_request(i, [*A, i, i], output=3) for i in range(3)]
    for request in requests:
        scheduler.add(request)
    plan = scheduler.plan()
    assert prefill_tokens([plan]) == 3 * 14
    execute(scheduler, plan)
    assert scheduler.pool.num_spared == 6


def test_prefill_is_skipped_without_sharing_memory():
    copied: list[tuple[int, int]] = []
    scheduler = make_scheduler(blocks=40, sharing=PrefixSharing(share_memory=False), copied=copied)
    requests = [make_request(i, [*A, i, i], output=3) for i in range(3)]
    for request in requests:
        scheduler.add(request)
    plans = [scheduler.plan()]
    execute(scheduler, plans[0])
    plans.append(scheduler.plan())
    assert prefill_tokens(plans) == 14 + 2 + 2
    assert scheduler.pool.num_spared == 0
    assert copied == [(requests[0].block_table[i], r.block_table[i]) for r in requests[1:] for i in range(3)]
    execute(scheduler, plans[1])
    scheduler.check_integrity()


def test_a_preempted_request_finds_its_blocks_again():
    requests = [make_request(i, range(1000 * i, 1000 * i + 16), output=12) for i in range(3)]
    scheduler = make_scheduler(blocks=16, sharing=WHOLE_BLOCKS)
    plans = serve(scheduler, requests)
    assert sum(len(p.preempted) for p in plans) > 0
    without = sum(r.num_prompt_tokens + 11 for r in requests)
    computed = sum(s.tokens for p in plans for s in p.slices)
    again = sum(p.preempted_hit_tokens for p in plans)
    assert again > 0
    assert sum(p.prefix_hit_tokens for p in plans) == 0, "prompts that have nothing in common hit nothing"
    assert [r.cached_tokens for r in requests] == [0, 0, 0]
    lost = computed - without
    assert lost < sum(d.tokens for p in plans for d in p.decisions if d.action == "preempted")


def test_unreferenced_blocks_leave_least_recently_used_first_and_leaves_before_their_parents():
    scheduler = make_scheduler(blocks=9, sharing=WHOLE_BLOCKS)  # three texts of three blocks
    serve_in_turn(scheduler, [make_request(0, A), make_request(1, B), make_request(2, C)])
    assert scheduler.pool.num_cached == 9
    serve_in_turn(scheduler, [make_request(3, [*A, 1])])  # A is used, and needs one more block: B's last one goes
    probes = {"a": [*A, 2], "b": [*B, 2], "c": [*C, 2]}
    hits = {}
    for name, probe in probes.items():
        match = scheduler.prefixes.match(make_request(9, probe), 9)
        hits[name] = len(match.path)
    assert hits == {"a": 3, "b": 2, "c": 3}


def test_blocks_with_nothing_to_find_are_taken_before_cached_ones():
    scheduler = make_scheduler(blocks=8, sharing=WHOLE_BLOCKS)
    serve_in_turn(scheduler, [make_request(0, [*A, 1, 2])])  # the fourth block is not full
    serve_in_turn(scheduler, [make_request(1, B[:4], output=5)])
    assert not [e for e in scheduler.pool.journal if e.event == "evict"]


def test_an_eviction_and_what_it_cost_are_told():
    scheduler = make_scheduler(blocks=4, sharing=WHOLE_BLOCKS)
    serve(scheduler, [make_request(0, [*A, 1])])
    evicting = serve(scheduler, [make_request(1, [*B, 1])])
    recomputing = serve(scheduler, [make_request(2, [*A, 1])])
    told = [(d.action, d.reason, d.tokens) for p in evicting for d in p.decisions]
    assert ("evicted", "blocks", 12) in told
    told = [(d.action, d.reason, d.tokens) for p in recomputing for d in p.decisions]
    assert ("evicted", "recomputed", 12) in told
    evicted = [e for e in scheduler.pool.journal if e.event == "evict"]
    assert len(evicted) >= 3
    assert all(e.hash >= 0 and e.ref_count == 0 for e in evicted)


def test_the_journal_names_what_was_shared():
    scheduler = make_scheduler(blocks=20)
    first, second = make_request(0, [*A, 1, 2]), make_request(1, [*A, 3, 4])
    serve_in_turn(scheduler, [first, second])
    fills = {e.block: e.hash for e in scheduler.pool.journal if e.event == "fill" and e.request == 0}
    shares = [(e.block, e.position, e.hash) for e in scheduler.pool.journal if e.event == "share"]
    assert shares == [(block, place, fills[block]) for place, block in enumerate(fills)]


@given(st.data())
@settings(max_examples=examples(60), deadline=None)
def test_with_an_unlimited_pool_the_saving_is_the_radix_optimum(data: st.DataObject):
    rng = random.Random(data.draw(st.integers(0, 10**6)))
    prompts: list[list[int]] = [[]]
    for _ in range(data.draw(st.integers(1, 14))):
        stem = rng.choice(prompts)
        prompts.append(stem[: rng.randint(0, len(stem))] + [rng.randint(0, 3) for _ in range(rng.randint(1, 20))])
    prompts = prompts[1:]
    policy = data.draw(st.sampled_from(sorted(POLICIES)))
    scheduler = make_scheduler(
        blocks=10_000, sharing=WHOLE_BLOCKS, policy=policy, budget=data.draw(st.integers(1, 80)), seqs=4
    )
    requests = [make_request(i, p, output=2) for i, p in enumerate(prompts)]
    plans = serve(scheduler, requests)
    saved = sum(r.cached_tokens for r in requests)
    order = [request.prompt_token_ids for plan in plans for request in plan.admitted]  # policies may sort
    assert saved == block_tree_optimum(order, 4)
    assert prefill_tokens(plans) == sum(map(len, prompts)) - saved


@given(st.data())
@settings(max_examples=examples(80), deadline=None)
def test_the_books_balance_under_arrivals_cancellations_and_a_small_pool(data: st.DataObject):
    sharing = PrefixSharing(
        skip_prefill=data.draw(st.booleans()),
        share_memory=data.draw(st.booleans()),
        copy_partial=data.draw(st.booleans()),
        wait_in_flight=data.draw(st.booleans()),
    )
    policy = data.draw(st.sampled_from(sorted(POLICIES)))
    scheduler = make_scheduler(blocks=data.draw(st.integers(12, 40)), sharing=sharing, policy=policy, budget=24, seqs=5)
    texts = [[*range(100, 130)], [*range(100, 112), *range(500, 520)], [*range(700, 720)]]
    number = 0
    for _ in range(data.draw(st.integers(1, 25))):
        for _ in range(data.draw(st.integers(0, 2))):
            text = data.draw(st.sampled_from(texts))
            prompt = [*text[: data.draw(st.integers(1, len(text)))], number % 3]
            scheduler.add(make_request(number, prompt, output=data.draw(st.integers(1, 12))))
            number += 1
        if scheduler.has_work:
            execute(scheduler, scheduler.plan())
            scheduler.check_integrity()
        if data.draw(st.integers(0, 9)) == 0 and (alive := [*scheduler.running, *scheduler.waiting]):
            scheduler.remove(data.draw(st.sampled_from(alive)))
            scheduler.check_integrity()
    for _ in range(5_000):
        if not scheduler.has_work:
            break
        execute(scheduler, scheduler.plan())
    scheduler.check_integrity()
    pool = scheduler.pool
    assert not scheduler.has_work, "no progress"
    assert (pool.num_used, pool.num_shared, pool.num_spared) == (0, 0, 0)
    references = Counter(e.block for e in pool.journal if e.event in ("allocate", "share"))
    references.subtract(Counter(e.block for e in pool.journal if e.event == "free"))
    assert not any(references.values())


def test_an_index_that_disagrees_with_the_pool_is_found_out():
    scheduler = make_scheduler(blocks=20)
    serve(scheduler, [make_request(0, A)])
    scheduler.pool.withdraw(next(iter(scheduler.pool.published)))
    with pytest.raises(IntegrityError, match="disagree"):
        scheduler.check_integrity()


def test_a_block_nobody_holds_is_not_published():
    with pytest.raises(IntegrityError, match="published while nobody holds it"):
        BlockPool(2, 4).publish(0, 7)


@pytest.mark.parametrize("size", [3, 12, 24, 1000])
def test_block_sizes_that_are_no_power_of_two_are_refused_with_prefix_sharing(size: int):
    with pytest.raises(ConfigError, match="power of two") as caught:
        apply_overrides(EngineConfig(), {"prefix_sharing": "on", "block_size": str(size)})
    assert (caught.value.field, caught.value.value) == ("block_size", str(size))
    assert apply_overrides(EngineConfig(), {"block_size": str(size)}).block_size == size


def test_the_toggle_is_off_until_asked_for():
    assert EngineConfig().prefix_sharing is None
    assert apply_overrides(EngineConfig(), {"prefix_sharing": "on"}).prefix_sharing == PrefixSharing()
    assert apply_overrides(EngineConfig(), {"prefix_sharing.copy_partial": "off"}).prefix_sharing == WHOLE_BLOCKS
