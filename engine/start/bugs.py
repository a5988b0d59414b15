"""Known bugs of batched speculation, put into an engine on purpose: a class sees how output breaks, and that the checks
notice.

Each is a mistake that implementations have made (papers 4.7; EqSpec and ExSpec, 2025). They are put around methods of
one engine's own objects; the code of the engine knows nothing of them. A run with one carries its name as a label.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from engine.attention.rectangle import RectangleAttention
from engine.batch import AttentionBatch, Batch
from engine.loop import Engine
from engine.scheduling.plan import Plan, Slice


def inject(name: str, engine: Engine) -> None:
    """Put the bug ``name`` into a wired engine."""
    BUGS[name](engine)


def stale_positions(engine: Engine) -> None:
    """Positions count from where the padded row begins, not from where its content does."""
    build = engine.executor.build

    def shifted(plan: Plan) -> Batch:
        batch = build(plan)
        rows = batch.attention
        assert isinstance(rows, AttentionBatch)
        positions = batch.positions.clone()
        longest = max([*rows.single_kv_lens, *(c.kv_len for c in rows.chunks)], default=0)
        for row, kv_len in enumerate(rows.single_kv_lens):
            positions[row] += longest - kv_len
        for chunk in rows.chunks:
            positions[chunk.start : chunk.start + chunk.length] += longest - chunk.kv_len
        return dataclasses.replace(batch, positions=positions)

    _put(engine.executor, "build", shifted)


def no_rollback(engine: Engine) -> None:
    """Keys and values of rejected guesses go on counting as the request's own."""
    commit = engine.scheduler.commit

    def keeps_all(plan: Plan) -> None:
        counts = [(part, part.accepted) for part in plan.slices]
        for part in plan.slices:
            part.accepted = part.drafted
        commit(plan)
        for part, accepted in counts:
            part.accepted = accepted

    _put(engine.scheduler, "commit", keeps_all)


def padding_in_text(engine: Engine) -> None:
    """A pad is left between what was accepted and the target's own token."""
    append = engine.outputs.append

    def padded(request: Any, tokens: list[int]) -> int:
        return append(request, [0, *tokens]) - 1 if len(tokens) > 1 else append(request, tokens)

    _put(engine.outputs, "append", padded)


def visible_padding(engine: Engine) -> None:
    """The mask does not hide the pads."""
    attention = engine.executor.attention
    assert isinstance(attention, RectangleAttention)
    attention.hides_pads = False


def finished_goes_on(engine: Engine) -> None:
    """A request that has ended keeps its place and goes on consuming steps."""
    _put(engine.scheduler, "remove", lambda request: None)


def shared_stream(engine: Engine) -> None:
    """All rows draw from the first request's sampling state."""
    add, states = engine.scheduler.add, []

    def same_for_all(request: Any) -> None:
        states.append(request.sampling_state)
        request.sampling_state = states[0]
        add(request)

    _put(engine.scheduler, "add", same_for_all)


def stale_draft(engine: Engine) -> None:
    """Guesses of the last step are not cleared and stand as known text."""
    take = engine.take

    def forgetful(part: Slice, tokens: list[int]) -> None:
        draft = part.request.draft
        take(part, tokens)
        if part.accepted < part.drafted:
            part.request.draft = draft

    _put(engine, "take", forgetful)


def _put(owner: object, name: str, method: Callable[..., Any]) -> None:
    """Replace a method of this one object."""
    setattr(owner, name, method)


BUGS: dict[str, Callable[[Engine], None]] = {
    "stale-positions": stale_positions,
    "no-rollback": no_rollback,
    "padding-in-text": padding_in_text,
    "visible-padding": visible_padding,
    "finished-goes-on": finished_goes_on,
    "shared-stream": shared_stream,
    "stale-draft": stale_draft,
}
