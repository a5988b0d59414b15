"""Scheduling with prefix sharing and no model: requests of known tokens, an answer token for every sample."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from engine.config import PrefixSharing, RequestSpec, Sampling
from engine.kv.block_text import hash_block
from engine.kv.pool import BlockPool
from engine.kv.prefix import PrefixCache
from engine.request import Request
from engine.scheduling.plan import Plan
from engine.scheduling.policies import POLICIES
from engine.scheduling.policies.base import Limits
from engine.scheduling.scheduler import Scheduler

ANSWER = 10**6  # the token every sample draws


def make_request(index: int, prompt: Iterable[int], output: int = 1, group: str | None = None) -> Request:
    spec = RequestSpec(request_id=str(index), prompt="-", max_tokens=output, group=group)
    return Request(index, spec, list(prompt), Sampling(), output)


def make_scheduler(
    *, blocks: int, block_size: int = 4, budget: int = 64, seqs: int = 8, policy: str = "stall-free",
    sharing: PrefixSharing | None = None, hash_block=hash_block, copied: list[tuple[int, int]] | None = None,
) -> Scheduler:  # fmt: skip
    """``copied`` collects the block copies asked for."""
    pool = BlockPool(blocks, block_size, journal=[])
    kept = [] if copied is None else copied
    prefixes = PrefixCache(pool, sharing or PrefixSharing(), lambda a, b: kept.append((a, b)), hash_block)
    limits = Limits(budget, None, 10**6)
    return Scheduler(pool, POLICIES[policy](limits), seqs, prefixes)


def execute(scheduler: Scheduler, plan: Plan) -> None:
    sampled = [s.request for s in plan.slices if s.samples]
    scheduler.commit(plan)
    for request in sampled:
        request.token_ids.append(ANSWER)
        if request.num_output_tokens >= request.max_tokens:
            request.end_reason = "length"
            scheduler.remove(request)


def serve(scheduler: Scheduler, requests: Sequence[Request], *, check: bool = True) -> list[Plan]:
    """All requests at once, to the end."""
    for request in requests:
        scheduler.add(request)
    plans = []
    while scheduler.has_work:
        plan = scheduler.plan()
        execute(scheduler, plan)
        if check:
            scheduler.check_integrity()
        plans.append(plan)
        assert len(plans) < 100_000, "no progress"
    assert scheduler.pool.num_used == 0
    return plans


def serve_in_turn(scheduler: Scheduler, requests: Sequence[Request], *, check: bool = True) -> list[Plan]:
    """Each request after the one before has ended."""
    return [plan for request in requests for plan in serve(scheduler, [request], check=check)]


def prefill_tokens(plans: Iterable[Plan]) -> int:
    return sum(s.tokens for plan in plans for s in plan.slices if s.is_prefill)


def block_tree_optimum(prompts: Sequence[Sequence[int]], block_size: int) -> int:
    """Prompt tokens that need not be computed when every block-aligned prefix is computed once, counted from the text alone."""
    seen: set[tuple[int, ...]] = set()
    saved = 0
    for prompt in prompts:
        whole = (len(prompt) - 1) // block_size  # at least one token is computed
        hits = 0
        while hits < whole and tuple(prompt[: (hits + 1) * block_size]) in seen:
            hits += 1
        saved += hits * block_size
        seen.update(tuple(prompt[: n * block_size]) for n in range(1, len(prompt) // block_size + 1))
    return saved
