"""The decode half: the run's own engine. Prompts are computed elsewhere, and their blocks fetched when there is room.

    arrival      first scheduled      first token     asked           joined             end
       | prefill queue | prefill           | decode queue | transfer     | decode           |
       |------------ prefill half ---------|------------------ decode half -----------------|

A request that is fetched holds its place and is in no plan (``Request.arriving``), as one that was swapped out and
comes back. One that has to leave the full pool here is computed again here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import torch

from engine.arrivals import Arrivals
from engine.block_table import whole_blocks
from engine.config.errors import EngineError, IntegrityError
from engine.halves.line import Failed, Free, GiveUp, Line, Prefill, Prefilled, Report
from engine.halves.prefill import STATE
from engine.halves.shared import checksums
from engine.kv.copying import Copier, Link, Ticket, pieces, runs
from engine.kv.pool import BlockPool
from engine.loop import Engine
from engine.request import Request
from engine.scheduling.preemption import Preemption
from telemetry.clock import RunClock
from telemetry.recorder import Level, Recorder


class _Fetch(NamedTuple):
    """Copies of one request under way."""

    request: Request
    first: int  # place in its table from which on blocks are copied
    copies: Future[Ticket]


class Receiver(Preemption):
    """What becomes of requests that the prefill half has begun."""

    def handed_over(self, request: Request, prefilled: Prefilled) -> None:
        """A request's prompt is computed, and it goes on here."""
        raise NotImplementedError

    def decline(self, prefilled: Prefilled) -> None:
        """A request's prompt is computed, and nobody needs its blocks."""
        raise NotImplementedError

    def look(self, waiting: Sequence[Request]) -> None:
        """Called before every step and while there is none. ``waiting``: for the prefill half."""

    def rest(self) -> None:
        """This half has nothing to do."""


class Fetcher(Receiver):
    """Brings what the prefill half computed for a request into this half's pool, once it has a place there."""

    name = "recompute"

    def __init__(
        self,
        pool: BlockPool,
        stores: Sequence[torch.Tensor],
        there: Sequence[torch.Tensor],
        line: Line,
        *,
        computed: Callable[[Request, int, int], None],
        recorder: HalvesRecorder,
        clock: RunClock,
        link: Link | None = None,
    ) -> None:
        """
        Args:
            stores, there: of this half's cache and of the other's, [stripes, blocks, bytes] uint8.
            computed: publishes the blocks of tokens ``before`` to ``after`` (``Prefixes.computed``).
            link: emulated; None: the memory as it is.
        """
        self.pool = pool
        self.line = line
        self._pairs = list(zip(stores, there, strict=True))
        self._here = [store.numpy() for store in stores]
        self._copier = Copier(self._pairs, asynchronous=False, link=link, clock=clock.now_ns)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="transfer")
        self._computed = computed
        self._recorder = recorder
        self._clock = clock
        self._there: dict[int, Prefilled] = {}  # waits in the prefill half's pool
        self._under_way: list[_Fetch] = []
        self._totals = {"transfers": 0, "transfer_bytes": 0, "transfer_s": 0.0, "recomputed_in_decode": 0}

    def handed_over(self, request: Request, prefilled: Prefilled) -> None:
        self._there[prefilled.request] = prefilled

    def decline(self, prefilled: Prefilled) -> None:
        self.line.send(Free(prefilled.request))

    def let_go(self, number: int) -> None:
        """The prefill half need not keep a request's blocks any more."""
        if self._there.pop(number, None) is not None:
            self.line.send(Free(number))

    def tokens_of(self, request: Request) -> int:
        return request.num_prompt_tokens if request.index in self._there else 0

    def back(self, request: Request) -> bool:
        prefilled, size = self._there[request.index], self.pool.block_size
        request.cached_tokens = prefilled.cached_tokens
        first = whole_blocks(request.num_computed_tokens, size)
        if request.num_computed_tokens >= request.num_prompt_tokens:  # this half had all of it
            first = len(prefilled.blocks)
        request.arriving = True
        asked_ns = self._clock.now_ns()
        copies = self._thread.submit(self._copy, request, prefilled, first, asked_ns)
        self._under_way.append(_Fetch(request, first, copies))
        return False

    def settle(self) -> None:
        while self._under_way and self._under_way[0].copies.done():
            self._land(self._under_way[0])

    def wait(self) -> bool:
        if not self._under_way:
            return False
        self._land(self._under_way[0])
        return True

    def out(self, request: Request) -> bool:
        if not request.arriving:
            self._totals["recomputed_in_decode"] += 1
            return False
        self._drop(request)
        return True

    def forget(self, request: Request) -> None:
        self._drop(request)
        self.let_go(request.index)

    def describe(self) -> dict[str, float]:
        return dict(self._totals)

    def close(self) -> None:
        self._thread.shutdown()

    @torch.inference_mode()
    def _copy(self, request: Request, prefilled: Prefilled, first: int, asked_ns: int) -> Ticket:
        """In a thread of its own: copy a request's blocks from place ``first`` on, and hold them against their
        checksums.

        Raises:
            IntegrityError: they came with other bytes.
        """
        here = request.block_table[first : len(prefilled.blocks)]
        moved = runs(here, prefilled.blocks[first:], grouped=True)
        ticket = self._copier.start(pieces(self._pairs, moved), to_host=False)
        ticket.asked_ns = asked_ns
        found = checksums(self._here, here)
        wrong = [first + i for i, (a, b) in enumerate(zip(found, prefilled.checksums[first:], strict=True)) if a != b]
        if wrong:
            raise IntegrityError(
                f"request {request.index}: places {wrong} of its table were handed over as other bytes"
            )
        ticket.end_ns = self._clock.now_ns()
        return ticket

    def _drop(self, request: Request) -> None:
        """Wait for a request's copies and take no notice of them."""
        for fetch in [fetch for fetch in self._under_way if fetch.request is request]:
            fetch.copies.result()
            self._under_way.remove(fetch)
            request.arriving = False

    def _land(self, fetch: _Fetch) -> None:
        """A request's blocks are there: it goes on."""
        ticket = fetch.copies.result()
        self._under_way.remove(fetch)
        request = fetch.request
        prefilled = self._there[request.index]
        request.arriving = False
        before, tokens = request.num_computed_tokens, request.num_prompt_tokens
        request.num_computed_tokens = tokens
        self._computed(request, before, tokens)
        held = self.pool.blocks_for(tokens)
        self.pool.free(request.block_table[held:], request.index, held)  # it may not be in the very next plan
        del request.block_table[held:]
        moved = len(prefilled.blocks) - fetch.first
        self._totals["transfers"] += 1
        self._totals["transfer_bytes"] += ticket.nbytes
        self._totals["transfer_s"] += (ticket.end_ns - ticket.asked_ns) / 1e9
        self._recorder.handover(
            request=request.index,
            prefilled_ns=prefilled.first_token_ns,
            asked_ns=ticket.asked_ns,
            start_ns=min(ticket.start_ns, ticket.end_ns),
            end_ns=ticket.end_ns,
            joined_ns=self._clock.now_ns(),
            tokens=tokens,
            blocks=moved,
            blocks_kept=fetch.first,
            copies=len(ticket.pieces),
            bytes=ticket.nbytes,
        )
        self.let_go(request.index)


class HalvesRecorder(Recorder):
    """Tells which half a step belongs to. What says how things stand counts both halves."""

    def __init__(
        self, run_dir: Path, level: Level, clock: RunClock, *, blocks: tuple[int, int], threads: int | None = None
    ) -> None:
        """
        Args:
            blocks: of the prefill half's pool and of the decode half's. With one pool the decode half has all.
            threads: that the decode half computes on.
        """
        super().__init__(run_dir, level, clock)
        self._blocks = blocks
        self.threads = threads
        self.prefill_state = dict.fromkeys(STATE, 0)
        self._decode_state = dict.fromkeys(STATE, 0)

    def iteration(self, **values: Any) -> None:
        self._decode_state = {name: values[name] for name in STATE}
        self._both("decode", values | {"half_threads": self.threads}, self.prefill_state)

    def prefill_rows(self, report: Report, number: int) -> int:
        """Write what the prefill half recorded; its steps take numbers from ``number`` on. Returns how many steps."""
        steps: dict[int, int] = {}
        for name, args, values in report.calls:
            step = values["iteration"] if name == "iteration" else args[0]
            place = steps.setdefault(step, number + len(steps))
            if name == "iteration":
                self._both("prefill", {**values, "iteration": place}, self._decode_state)
            elif name == "blocks" and self._blocks[0]:  # both as one: the prefill half's come after the decode half's
                shifted = [block + self._blocks[1] for block in values["block"]]
                self.blocks(place, **{**values, "block": shifted})
            else:
                getattr(self, name)(place, *args[1:], **values)
        self.prefill_state = dict(report.state)
        return len(steps)

    def _both(self, half: str, values: dict[str, Any], other: dict[str, int]) -> None:
        summed = {name: values[name] + other[name] for name in STATE}
        super().iteration(**{**values, **summed, "blocks_total": sum(self._blocks), "half": half})


class PrefilledArrivals(Arrivals):
    """Requests arrive here once the prefill half has given them their first token."""

    def __init__(
        self, requests: Iterable[Request], line: Line, engine: Engine, receiver: Receiver, recorder: HalvesRecorder
    ) -> None:
        """``requests``: as they come to the run."""
        super().__init__(requests)
        self._line = line
        self._engine = engine
        self._receiver = receiver
        self._recorder = recorder
        self._away: dict[int, Request] = {}  # in the prefill half; outstanding, too
        self._heard: list[Any] = []

    def pop_due(self, now_ns: int) -> list[Request]:
        arrived = super().pop_due(now_ns)
        for request in arrived:
            if request.refusal is None:
                self._away[request.index] = request
                self.outstanding += 1
                self._line.send(Prefill(request.index, request.prompt_token_ids, request.arrival_ns))
        messages, self._heard = [*self._heard, *self._line.received()], []
        begun = [request for message in messages for request in self._take(message)]
        self._receiver.look(list(self._away.values()))
        return [request for request in arrived if request.refusal is not None] + begun

    def pop_given_up(self, now_ns: int) -> list[Request]:
        gone = super().pop_given_up(now_ns)
        for request in gone:
            if self._come_back(request.index) is not None:
                self._line.send(GiveUp(request.index))
        return gone

    def wait(self, seconds: float) -> None:
        self._receiver.rest()
        if self._away:
            self._heard += self._line.received(seconds)
        else:
            super().wait(seconds)

    def due(self, now_ns: int) -> list[Request]:
        return super().due(now_ns) + list(self._away.copy().values())

    def never_came(self) -> list[Request]:
        return sorted([*self._away.values(), *super().never_came()], key=lambda r: r.index)

    def _come_back(self, number: int) -> Request | None:
        """A request is not in the prefill half any more; None where it was not."""
        request = self._away.pop(number, None)
        self.outstanding -= request is not None
        return request

    def _take(self, message: Any) -> Iterable[Request]:
        """What the prefill half says; returns who may be decoded from now on.

        Raises:
            EngineError: it failed.
        """
        if isinstance(message, Failed):
            about = message.error
            raise EngineError(*(about[key] for key in ("kind", "field", "value", "message", "mend")))
        assert isinstance(message, Report)
        totals = self._engine.totals
        totals.iterations += self._recorder.prefill_rows(message, totals.iterations)
        held = message.state["kv_tokens"] + self._engine.scheduler.kv_tokens
        totals.peak_kv_tokens = max(totals.peak_kv_tokens, held)
        totals.prefix_hit_tokens += sum(
            call.values["prefix_hit_tokens"] for call in message.calls if call.name == "iteration"
        )
        return [request for prefilled in message.prefilled for request in self._begin(prefilled)]

    def _begin(self, prefilled: Prefilled) -> Iterable[Request]:
        """Give a request its first token; it goes on here, unless that ended it or nobody waits for it any more."""
        request = self._come_back(prefilled.request)
        if request is None:
            self._receiver.decline(prefilled)
            return
        engine = self._engine
        if request.sampling_state.generator is not None:
            request.sampling_state.uniform()  # the number that the prefill half drew this token with
        request.first_scheduled_ns = prefilled.first_scheduled_ns
        request.cached_tokens = prefilled.cached_tokens
        engine.outputs.append(request, [prefilled.token])
        engine.rows.stamp([request], prefilled.first_token_ns)
        engine.totals.output_tokens += 1
        if request.end_reason is None:
            self._receiver.handed_over(request, prefilled)
            yield request
        else:
            self._receiver.decline(prefilled)
            engine.end(request, prefilled.first_token_ns)
