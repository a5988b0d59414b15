"""Cores are one half's at a time, and the share moves by what its rule says and no other."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from engine.config import Placement
from engine.cost import CostModel
from engine.halves.cores import Cores
from engine.halves.one_pool import Books, SharedBooks
from engine.halves.shares import Load, Mover, Slowdown, by_bounds, by_cost

CORES = 8
COST = CostModel(100_000_000, 30_000_000, 500_000_000, 90_000.0, 70_000)
MS = 1_000_000


@pytest.fixture
def shared() -> Iterator[SharedBooks]:
    books = SharedBooks(1)
    yield books
    books.close()


def begin(shared: SharedBooks, share: int, cores: int) -> tuple[Books, Books]:
    prefill, decode = Books(shared, "prefill"), Books(shared, "decode")
    decode["share"] = prefill["prefill_cores"] = share
    decode["decode_cores"] = cores - share
    return prefill, decode


@pytest.mark.parametrize("lends", [False, True])
def test_no_core_is_both_halves_at_once(shared: SharedBooks, lends: bool) -> None:
    """Both claim and rest as fast as they can while the share moves."""
    most, seen = [0], set()

    def compute(books: Books, rests: int) -> None:
        cores = Cores(books, CORES, lends=lends)
        for step in range(300):
            with books.locked():
                cores.claim()
                most[0] = max(most[0], books["prefill_cores"] + books["decode_cores"])
                seen.add((books.half, cores.count))
                if step % 7 == 0:
                    books["share"] = 1 + step % (CORES - 1)
            if step % rests == 0:
                cores.rest()
        cores.rest()

    halves = begin(shared, 3, CORES)
    threads = [threading.Thread(target=compute, args=(books, n)) for books, n in zip(halves, (3, 5), strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
        assert not thread.is_alive()
    assert 0 < most[0] <= CORES
    assert {half for half, _ in seen} == {"prefill", "decode"}
    if not lends:
        assert all(1 <= count < CORES for _, count in seen)


def test_an_idle_half_lends_its_cores_and_has_them_back_after_the_step(shared: SharedBooks) -> None:
    prefill, decode = begin(shared, 1, 2)
    placed: list[int] = []
    first, later = Cores(prefill, 2, lends=True, place=placed.append), Cores(decode, 2, lends=True)
    later.rest()
    with prefill.locked():
        first.claim()
    assert first.count == 2
    back = threading.Thread(target=lambda: [decode.lock(), later.claim(), decode.unlock()])
    back.start()
    back.join(timeout=0.05)
    assert back.is_alive(), "it computes on a core that the other is in a step on"
    while not prefill["decode_busy"]:
        pass
    with prefill.locked():
        first.claim()  # its next step
    back.join(timeout=20)
    assert not back.is_alive()
    assert (first.count, later.count) == (1, 1)
    assert placed == [1, 2, 1]


def test_without_lending_idle_cores_stay_idle(shared: SharedBooks) -> None:
    prefill, decode = begin(shared, 1, 2)
    first, later = Cores(prefill, 2, lends=False), Cores(decode, 2, lends=False)
    later.rest()
    with prefill.locked():
        first.claim()
    assert (first.count, later.count) == (1, 1)


@pytest.mark.parametrize(
    ("ttft", "tpot", "share"),
    [(400, 90, 4), (None, None, 4), (1000, 90, 5), (3000, 90, 7), (400, 200, 3), (1000, 150, 5), (550, 400, 1)],
)
def test_bounds_move_the_share_to_the_phase_that_is_later_by_its_error(
    ttft: float | None, tpot: float | None, share: int
) -> None:
    asked = Placement(kind="partitioned", share="slo", ttft_ms=500, tpot_ms=100)
    assert by_bounds(asked)(Load(4, CORES, ttft, tpot)) == share


def test_each_half_keeps_a_core_whatever_its_error() -> None:
    choose = by_bounds(Placement(kind="partitioned", share="slo", gain=100))
    assert choose(Load(4, CORES, 1e6, None)) == CORES - 1
    assert choose(Load(4, CORES, None, 1e6)) == 1
    assert choose(Load(1, 2, 1e6, None)) == 1, "two cores leave nothing to move"


def slowdown() -> Slowdown:
    return Slowdown(COST, flops_per_s=5e10, bytes_per_s=2e10, chunk=64)


def test_the_cost_model_gives_cores_to_the_phase_that_has_work() -> None:
    choose = by_cost(Placement(kind="partitioned", share="cost"), slowdown())
    prompts, contexts = [2000] * 4, [300] * 4
    assert choose(Load(4, CORES, prompts=prompts)) == CORES - 1
    assert choose(Load(4, CORES, contexts=contexts)) <= 4
    assert 1 < choose(Load(1, CORES, prompts=prompts, contexts=contexts)) < CORES
    assert choose(Load(4, CORES)) == 4, "nothing to do, nothing to move"


def test_hysteresis_keeps_the_share_where_little_is_gained() -> None:
    load = Load(5, CORES, prompts=[500], contexts=[300] * 4)
    best = by_cost(Placement(kind="partitioned", share="cost", hysteresis=0), slowdown())(load)
    assert best != load.share
    gained = 1 - slowdown()(load, best) / slowdown()(load, load.share)
    for hysteresis, share in ((gained * 0.9, best), (gained * 1.1, load.share)):
        assert by_cost(Placement(kind="partitioned", share="cost", hysteresis=hysteresis), slowdown())(load) == share


def test_the_share_moves_no_more_often_than_the_interval_and_on_what_came_since(shared: SharedBooks) -> None:
    _, decode = begin(shared, 4, CORES)
    seen: list[Load] = []

    def choose(load: Load) -> int:
        seen.append(load)
        return load.share + 1

    mover = Mover(decode, CORES, choose, interval_s=0.5)
    mover.first_token(800.0)
    mover.gap(30.0)
    mover.look(400 * MS, [], [])
    assert (mover.moves, seen) == (0, [])
    mover.look(600 * MS, [(100 * MS, 50)], [7])
    assert seen == [Load(4, CORES, 800.0, 30.0, [50], [7])]
    assert decode["share"] == 5
    mover.look(700 * MS, [], [])
    mover.look(1100 * MS, [(0, 50)], [])
    assert seen[1:] == [Load(5, CORES, 1100.0, None, [50], [])], (
        "who waits counts as late as it is, older latencies do not"
    )
