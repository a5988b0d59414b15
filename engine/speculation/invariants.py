"""What must hold after every step, whatever was guessed and rejected (papers 4.7); checked in debug mode."""

from __future__ import annotations

from collections.abc import Iterable

from engine.attention.base import AttentionBackend
from engine.attention.rectangle import RectangleAttention
from engine.batch import Batch
from engine.config.errors import IntegrityError
from engine.kv.pool import BlockPool
from engine.request import Request


def check_step(batch: Batch, running: Iterable[Request], pool: BlockPool, attention: AttentionBackend) -> None:
    """Hold the state after a step against the invariants.

    Args:
        batch: what was computed.
        running: requests that go on.
        pool: where their keys and values are.
        attention: what attended to them.

    Raises:
        IntegrityError: naming the request and the invariant.
    """
    check_positions(batch)
    if isinstance(attention, RectangleAttention):
        check_padding(batch, attention)
    check_running(running, pool)


def check_padding(batch: Batch, attention: RectangleAttention) -> None:
    """The mask of padded rows hides every pad and every place that was rejected: a row sees its own content up to
    itself."""
    positions = batch.positions.tolist()
    for row, seen in attention.seen():
        if seen != positions[row] + 1:
            raise IntegrityError(f"row {row} of the batch sees {seen} keys, {positions[row] + 1} are its own")


def check_running(running: Iterable[Request], pool: BlockPool) -> None:
    """The requests that go on. Raises ``IntegrityError``."""
    states: dict[int, Request] = {}
    for request in running:
        check_request(request, pool)
        other = states.setdefault(id(request.sampling_state), request)
        if other is not request:
            raise IntegrityError(f"requests {other.index} and {request.index} share a sampling state")


def check_request(request: Request, pool: BlockPool) -> None:
    """One request between two steps. Raises ``IntegrityError``."""
    who = f"request {request.index}"
    if request.token_ids[: request.num_prompt_tokens] != request.prompt_token_ids:
        raise IntegrityError(f"{who}: its tokens do not start with its prompt")
    if request.draft.tokens:
        raise IntegrityError(f"{who}: guesses are left over from the step")
    if request.end_reason is not None:
        raise IntegrityError(f"{who}: ended, and still holds a place")
    if request.is_prefilling or request.arriving:
        return
    if request.num_computed_tokens != request.num_known_tokens - 1:
        raise IntegrityError(
            f"{who}: keys and values of {request.num_computed_tokens} tokens count, {request.num_known_tokens - 1} "
            "should"
        )
    if len(request.block_table) != pool.blocks_for(request.num_computed_tokens):
        raise IntegrityError(
            f"{who}: holds {len(request.block_table)} blocks for {request.num_computed_tokens} tokens of keys and "
            "values"
        )


def check_positions(batch: Batch) -> None:
    """Positions count from each sequence's own start, and every token's slot is the one of its position."""
    expected = batch.attention.places()
    positions = batch.positions.tolist()[: len(expected)]  # a batch for a graph is padded
    if positions != expected:
        wrong = next(i for i, (a, b) in enumerate(zip(positions, expected, strict=True)) if a != b)
        raise IntegrityError(
            f"row {wrong} of the batch has position {positions[wrong]}, {expected[wrong]} is its place"
        )
