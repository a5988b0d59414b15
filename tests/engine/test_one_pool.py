"""The pool that two processes take blocks from: no block is both halves', whoever asks when and whoever dies."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config.errors import IntegrityError
from engine.halves.one_pool import FREE, Books, OnePool, SharedBooks
from engine.kv.pool import PoolExhausted
from telemetry.memory_shared import anonymous_bytes
from tests.examples import examples

BLOCKS = 12


def forked(work: Callable[[], object]) -> int:
    """Do something in another process; returns its number."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def take_and_give(shared: SharedBooks, half: str, rounds: int, seed: int) -> None:
    """Hold blocks, mark them as held and look whether the mark stays."""
    dice = random.Random(seed)
    pool = OnePool(Books(shared, half), 4)  # type: ignore[arg-type]
    held: list[int] = []
    for _ in range(rounds):
        wanted = dice.randint(0, 4)
        with pool.books.locked():
            if wanted <= pool.num_free:
                held += pool.allocate(wanted, 0, len(held))
        pool.check_integrity([held])
        gone = dice.randint(0, len(held))
        pool.free(held[:gone], 0)
        del held[:gone]
    pool.free(held, 0)
    pool.check_integrity([])


def test_two_processes_never_hold_the_same_block() -> None:
    shared = SharedBooks(BLOCKS)
    other = forked(lambda: take_and_give(shared, "prefill", 400, 1))
    take_and_give(shared, "decode", 400, 2)
    assert os.waitpid(other, 0)[1] == 0
    assert list(shared.owner) == [FREE] * BLOCKS
    assert sorted(shared.ring) == list(range(BLOCKS))
    shared.close()


def test_a_process_that_dies_with_the_lock_leaves_it_to_the_other() -> None:
    shared = SharedBooks(BLOCKS)
    seen, told = os.pipe()

    def lock_and_sleep() -> None:
        Books(shared, "prefill").lock()
        os.write(told, b".")
        time.sleep(60)

    other = forked(lock_and_sleep)
    os.read(seen, 1)
    os.kill(other, signal.SIGKILL)
    os.waitpid(other, 0)
    pool = OnePool(Books(shared, "decode"), 4)
    assert len(pool.allocate(BLOCKS, 0, 0)) == BLOCKS
    shared.close()
    os.close(seen)
    os.close(told)


@settings(max_examples=examples(100), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "hand over", "take over", "free"]), st.integers(1, 4)), max_size=40))
def test_blocks_change_hands_and_the_books_of_both_balance(moves: list[tuple[str, int]]) -> None:
    shared = SharedBooks(BLOCKS)
    prefill, decode = OnePool(Books(shared, "prefill"), 4), OnePool(Books(shared, "decode"), 4)
    prompts: list[list[int]] = []
    under_way: list[list[int]] = []
    running: list[list[int]] = []
    for move, count in moves:
        if move == "take" and count <= prefill.num_free:
            prompts.append(prefill.allocate(count, 0, 0))
        elif move == "hand over" and prompts:
            prefill.hand_over(prompts[0])
            under_way.append(prompts.pop(0))
        elif move == "take over" and under_way:
            decode.take_over(under_way[0])
            running.append(under_way.pop(0))
        elif move == "free" and running:
            decode.free(running.pop(), 0)
        prefill.check_integrity(prompts)
        decode.check_integrity(running)
        held = sum(map(len, [*prompts, *under_way, *running]))
        assert prefill.num_used + decode.num_used == held
        assert decode.num_free == BLOCKS - held
    for books in (prefill.books, decode.books, shared):
        books.close()


def test_the_prefill_half_leaves_what_the_decode_half_wants() -> None:
    shared = SharedBooks(BLOCKS)
    prefill, decode = OnePool(Books(shared, "prefill"), 4), OnePool(Books(shared, "decode"), 4)
    decode.books["wanted"] = 5
    assert (prefill.num_free, decode.num_free) == (BLOCKS - 5, BLOCKS)
    with pytest.raises(PoolExhausted):
        prefill.allocate(BLOCKS - 4, 0, 0)
    decode.allocate(BLOCKS - 3, 0, 0)
    assert prefill.num_free == 0
    shared.close()


def test_a_block_that_is_not_on_its_way_is_not_taken_over() -> None:
    shared = SharedBooks(BLOCKS)
    prefill, decode = OnePool(Books(shared, "prefill"), 4), OnePool(Books(shared, "decode"), 4)
    blocks = prefill.allocate(2, 0, 0)
    with pytest.raises(IntegrityError, match="changes hands"):
        decode.take_over(blocks)
    prefill.hand_over(blocks)
    with pytest.raises(IntegrityError, match="changes hands"):
        prefill.hand_over(blocks)
    shared.close()


def test_books_that_were_tampered_with_do_not_balance() -> None:
    shared = SharedBooks(BLOCKS)
    pool = OnePool(Books(shared, "decode"), 4)
    held = pool.allocate(3, 0, 0)
    pool.check_integrity([held])
    shared.owner[held[0]] = FREE
    with pytest.raises(IntegrityError, match=f"block {held[0]} has reference count 1"):
        pool.check_integrity([held])
    shared.close()


def test_memory_is_counted_as_shared_while_a_fork_has_it() -> None:
    """What only one of both has written to since is its own. In a process whose arithmetic has no threads, as a run's that forks: in the
    fork of one that has them it stands still.
    """
    root = Path(__file__).resolve().parents[2]
    command, environment = [sys.executable, __file__], os.environ | {"PYTHONPATH": str(root)}
    done = subprocess.run(command, env=environment, timeout=100, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def count_while_forked() -> None:
    torch.set_num_threads(1)
    size = 32 << 20
    weights = torch.ones(size, dtype=torch.uint8)
    before = anonymous_bytes()
    seen, told = os.pipe()
    done, go = os.pipe()

    def hold() -> None:
        weights[: size // 2] = 2
        os.write(told, b".")
        os.read(done, 1)

    other = forked(hold)
    os.read(seen, 1)
    between = anonymous_bytes()
    os.write(go, b".")
    os.waitpid(other, 0)
    shared = between.shared - before.shared
    assert shared >= 0.45 * size
    assert anonymous_bytes().shared <= between.shared - 0.45 * size
    for file in (seen, told, done, go):
        os.close(file)


if __name__ == "__main__":
    count_while_forked()
