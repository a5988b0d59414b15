"""What each policy promises, checked on the plans themselves; no model is needed to schedule."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import RequestSpec, Sampling
from engine.kv.pool import BlockPool
from engine.request import Request
from engine.scheduling.plan import Plan
from engine.scheduling.policies import POLICIES
from engine.scheduling.policies.base import Limits
from engine.scheduling.scheduler import Scheduler
from tests.examples import examples

BLOCK = 4


def make_request(index: int, prompt: int, output: int, arrival: int = 0, priority: int = 0) -> Request:
    spec = RequestSpec(request_id=str(index), prompt="-", max_tokens=output, priority=priority)
    return Request(index, spec, [1] * prompt, Sampling(), output, arrival_ns=arrival)


def make_scheduler(policy: str, *, budget=8, chunk=None, limit=64, blocks=64, seqs=8) -> Scheduler:
    return Scheduler(BlockPool(blocks, BLOCK), POLICIES[policy](Limits(budget, chunk, limit)), seqs)


def execute(scheduler: Scheduler, plan: Plan) -> list[Request]:
    """What the engine does with a plan, with token 1 for every sample; returns the requests that ended."""
    sampled = [s.request for s in plan.slices if s.samples]
    scheduler.commit(plan)
    ended = []
    for request in sampled:
        request.token_ids.append(1)
        if request.num_output_tokens >= request.max_tokens:
            request.end_reason = "length"
            scheduler.remove(request)
            ended.append(request)
    return ended


def serve(scheduler: Scheduler, requests: list[Request], arrive_at: dict[int, int] | None = None) -> list[Plan]:
    """Run to the end; ``arrive_at`` maps request index to the iteration it arrives at."""
    arrive_at = arrive_at or {}
    plans: list[Plan] = []
    pending = list(requests)
    while pending or scheduler.has_work:
        for request in [r for r in pending if arrive_at.get(r.index, 0) <= len(plans)]:
            pending.remove(request)
            request.arrival_ns = len(plans)
            scheduler.add(request)
        plan = scheduler.plan()
        scheduler.check_integrity()
        execute(scheduler, plan)
        scheduler.check_integrity()
        plans.append(plan)
        assert len(plans) < 10_000, "no progress"
    return plans


@pytest.mark.parametrize("policy", POLICIES)
def test_every_prompt_token_is_computed_once_and_every_request_ends(policy: str):
    requests = [make_request(i, prompt=5 + 7 * i, output=3 + i) for i in range(6)]
    plans = serve(make_scheduler(policy), requests)
    for request in requests:
        computed = sum(s.tokens for p in plans for s in p.slices if s.request is request)
        assert computed == request.num_prompt_tokens + request.max_tokens - 1
        assert request.num_output_tokens == request.max_tokens


@pytest.mark.parametrize("policy", ["stall-free", "splitfuse", "chunk-only"])
def test_token_budget_is_never_exceeded(policy: str):
    requests = [make_request(i, prompt=30, output=9) for i in range(12)]
    for plan in serve(make_scheduler(policy, budget=6), requests):
        assert plan.num_tokens <= 6 == plan.token_budget


def test_stall_free_gives_every_decode_its_token_in_every_iteration():
    requests = [make_request(i, prompt=3, output=40) for i in range(4)]
    requests.append(make_request(9, prompt=60, output=2))
    plans = serve(make_scheduler("stall-free"), requests, arrive_at={9: 5})
    for request in requests[:4]:
        steps = [i for i, p in enumerate(plans) if any(s.request is request for s in p.slices)]
        assert steps == list(range(steps[0], steps[-1] + 1))


def test_prefill_first_makes_decodes_wait_for_a_whole_prompt():
    requests = [make_request(0, prompt=3, output=20), make_request(1, prompt=60, output=2)]
    plans = serve(make_scheduler("prefill-first"), requests, arrive_at={1: 5})
    prompt_step = next(p for p in plans if any(s.request is requests[1] for s in p.slices))
    assert [(s.request.index, s.tokens) for s in prompt_step.slices] == [(1, 60)]


def test_orca_mixes_whole_prompts_with_decodes():
    requests = [make_request(0, prompt=3, output=20), make_request(1, prompt=60, output=2)]
    plans = serve(make_scheduler("orca"), requests, arrive_at={1: 5})
    prompt_step = next(p for p in plans if any(s.request is requests[1] for s in p.slices))
    assert [(s.request.index, s.tokens) for s in prompt_step.slices] == [(0, 1), (1, 60)]


def test_chunk_only_never_mixes_and_takes_turns():
    requests = [make_request(0, prompt=3, output=30), make_request(1, prompt=60, output=2)]
    plans = serve(make_scheduler("chunk-only"), requests, arrive_at={1: 5})
    kinds = [{s.is_prefill for s in p.slices} for p in plans]
    assert all(len(kind) == 1 for kind in kinds)
    during = [kind == {True} for kind in kinds[5:19]]
    assert during == [True, False] * 7


def test_splitfuse_fills_every_pass_exactly_while_prompts_wait():
    requests = [make_request(i, prompt=13, output=2) for i in range(6)]
    plans = serve(make_scheduler("splitfuse", budget=8), requests)
    for plan in plans[:-1]:
        if any(s.is_prefill for s in plan.slices) and plan.num_waiting:
            assert plan.num_tokens == 8


def test_chunk_size_bounds_what_one_request_computes():
    plans = serve(make_scheduler("stall-free", budget=16, chunk=5), [make_request(0, prompt=33, output=2)])
    assert [s.tokens for p in plans for s in p.slices if s.is_prefill] == [5, 5, 5, 5, 5, 5, 3]


def test_static_finishes_a_batch_before_the_next():
    requests = [make_request(i, prompt=4, output=2 + 6 * (i % 2)) for i in range(6)]
    plans = serve(make_scheduler("static", seqs=3), requests)
    seen: list[set[int]] = []
    for plan in plans:
        batch = {s.request.index for s in plan.slices}
        if not seen or batch - seen[-1]:
            seen.append(batch)
    assert seen == [{0, 1, 2}, {3, 4, 5}]


def test_full_pool_preempts_the_newest_and_recomputes_it():
    scheduler = make_scheduler("stall-free", budget=32, blocks=8)
    requests = [make_request(0, prompt=8, output=20), make_request(1, prompt=8, output=20)]
    plans = serve(scheduler, requests)
    assert requests[0].preemptions == 0
    assert requests[1].preemptions >= 1
    decision = next(d for p in plans for d in p.decisions if d.action == "preempted")
    assert (decision.request, decision.reason) == (1, "pool_full")
    assert all(r.num_output_tokens == 20 for r in requests)


def test_priority_decides_who_is_preempted():
    scheduler = make_scheduler("stall-free", budget=32, blocks=8)
    requests = [make_request(0, prompt=8, output=20, priority=0), make_request(1, prompt=8, output=20, priority=1)]
    serve(scheduler, requests)
    assert requests[1].preemptions == 0
    assert requests[0].preemptions >= 1


def test_refusal_is_explained_once_with_its_numbers():
    scheduler = make_scheduler("stall-free", budget=32, blocks=6)
    requests = [make_request(0, prompt=12, output=8), make_request(1, prompt=12, output=2)]
    plans = serve(scheduler, requests)
    refusals = [d for p in plans for d in p.decisions if d.action == "refused"]
    assert [(d.request, d.reason, d.blocks_needed, d.blocks_free) for d in refusals] == [(1, "blocks", 3, 3)]


def test_more_decodes_than_budget_are_not_admitted():
    requests = [make_request(i, prompt=2, output=30) for i in range(8)]
    plans = serve(make_scheduler("stall-free", budget=3), requests)
    assert max(len(p.slices) for p in plans) == 3


@given(data=st.data())
@settings(max_examples=examples(60), deadline=None)
def test_any_workload_ends_with_balanced_books(data: st.DataObject):
    policy = data.draw(st.sampled_from(sorted(POLICIES)))
    blocks = data.draw(st.integers(8, 40))
    requests = []
    for index in range(data.draw(st.integers(1, 8))):
        prompt = data.draw(st.integers(1, 20))
        output = data.draw(st.integers(1, blocks * BLOCK - prompt))
        requests.append(make_request(index, prompt, min(output, 12), priority=data.draw(st.integers(0, 2))))
    arrivals = {r.index: data.draw(st.integers(0, 20)) for r in requests}
    scheduler = make_scheduler(
        policy,
        budget=data.draw(st.integers(1, 24)),
        chunk=data.draw(st.none() | st.integers(1, 9)),
        limit=data.draw(st.integers(1, 40)),
        blocks=blocks,
        seqs=data.draw(st.integers(1, 8)),
    )
    serve(scheduler, requests, arrivals)
    assert scheduler.pool.num_used == 0
    assert all(r.num_output_tokens == r.max_tokens for r in requests)
