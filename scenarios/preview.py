"""What a run will ask, said before it runs: arrivals over time, lengths, text that comes again, and the load against the machine's capacity.

Token counts are exact where the spec has token ids or a length; of texts they are estimated from the words. A request that continues
another counts with the longest prompt it may come to have. What was asked before is text that prefix sharing could find in a pool that
forgets nothing; it is compared in blocks of ``BLOCK`` tokens, texts in as many characters as these have on average.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from engine.config import MachineRates, RequestSpec, RunSpec
from scenarios.forecast import Expected, forecast
from scenarios.sizing import CHAT_FORM_TOKENS

BLOCK = 16
BLOCK_CHARACTERS = 64
BINS = 16
WORD_TOKENS = 1.35  # of English prose, where the model was never timed


@dataclass(frozen=True)
class Bin:
    """``count`` of something from ``start`` to ``end`` (not included, but in the last one)."""

    start: float
    end: float
    count: int

    @property
    def in_words(self) -> str:
        if isinstance(self.start, int) and isinstance(self.end, int):
            return f"{self.start:,}" if self.end == self.start + 1 else f"{self.start:,} to {self.end - 1:,}"
        return f"{self.start:,.1f} to {self.end:,.1f}"


@dataclass(frozen=True)
class Asked:
    """One request, as far as it is known beforehand. ``arrival_s`` None: it comes after another one."""

    group: str
    arrival_s: float | None
    prompt_tokens: int
    output_tokens: int
    shared_tokens: int
    pause_s: float = 0.0  # after the other one's end
    after: int | None = None  # its place among all, where it comes after another one


@dataclass(frozen=True)
class Preview:
    """``load``: work asked for over the time in which it arrives, 1 is all the machine can do; None where nothing is known of the machine,
    or not all requests come by the clock.

    ``run_s``, ``most_running``, ``most_waiting``: as ``scenarios.forecast`` has them; None where nothing is known of the machine.
    ``pool_tokens`` and ``pool_blocks``: the most that the KV pool holds at once without sharing, at full precision; where nothing is known
    of the machine, what it could hold at most. ``kv_blocks``: the pool as it is set; None: by the device's memory.
    """

    scenario: str
    requests: int
    groups: dict[str, int]
    following: int  # requests that come after another one's end
    estimated: bool  # whether some token counts are estimates
    prompt_tokens: int
    output_tokens: int
    shared_tokens: int
    arrivals_s: tuple[Bin, ...]
    prompt_lengths: tuple[Bin, ...]
    output_lengths: tuple[Bin, ...]
    arrive_within_s: float
    work_s: float | None
    load: float | None
    run_s: float | None
    most_running: int | None
    most_waiting: int | None
    pool_tokens: int
    pool_blocks: int
    kv_blocks: int | None
    sizing: str
    labels: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def in_words(self) -> list[str]:
        """The preview in sentences, the most telling first."""
        about = "about " if self.estimated else ""
        said = [
            f"{self.requests:,} requests, {about}{self.prompt_tokens:,} prompt tokens, at most {self.output_tokens:,} of answers."
        ]
        if self.following:
            said.append(
                f"{self.requests - self.following:,} come by the clock, within {self.arrive_within_s:,.1f} s; {self.following:,} after an answer."
            )
        else:
            said.append(f"They come within {self.arrive_within_s:,.1f} s.")
        share = self.shared_tokens / max(1, self.prompt_tokens)
        said.append(
            f"{about.capitalize()}{self.shared_tokens:,} prompt tokens ({share:.0%}) were asked before: the most that prefix sharing can find."
        )
        if self.work_s is None:
            said.append("How much work this is for the machine is not known: the model was not timed on it yet.")
        elif self.load is None:
            said.append(f"About {self.work_s:,.1f} s of work for this machine, estimated without any technique.")
        else:
            heavy = " More than it can do as it comes: a queue will grow." if self.load > 1 else ""
            said.append(
                f"About {self.work_s:,.1f} s of work for this machine, {self.load:.0%} of what it can do meanwhile.{heavy}"
            )
        return [*said, *self.estimate]

    @property
    def estimate(self) -> list[str]:
        """How long it takes and what it needs, in sentences."""
        pool = f"about {self.pool_tokens:,} tokens of the KV pool, {self.pool_blocks:,} blocks"
        if self.run_s is None:
            said = [
                f"Its requests hold {pool} at most; how long they take is not known before the model was timed here."
            ]
        else:
            queue = f", with {self.most_waiting:,} waiting" if self.most_waiting else ""
            said = [
                f"About {_duration(self.run_s)} from the first request to the last answer, estimated without any technique.",
                f"Up to {self.most_running:,} run at once{queue}; they hold {pool}.",
            ]
        if self.kv_blocks is not None and self.pool_blocks > self.kv_blocks:
            said.append(f"The pool has {self.kv_blocks:,}: requests will wait for blocks or be preempted.")
        return said


def preview(spec: RunSpec, rates: MachineRates | None = None) -> Preview:
    """What the spec asks. ``rates``: of the machine and model that will serve it, every technique off; None: not known."""
    rates = spec.sizing.rates if spec.sizing is not None else rates
    asked, estimated = _asked(spec.requests, rates.tokens_per_word if rates else WORD_TOKENS)
    timed = [one.arrival_s for one in asked if one.arrival_s is not None]
    groups: dict[str, int] = {}
    for one in asked:
        groups[one.group] = groups.get(one.group, 0) + 1
    within_s = max(timed) - min(timed)
    work_s = (
        None
        if rates is None
        else sum(rates.work_s(a.prompt_tokens, a.output_tokens, spec.engine.max_num_seqs) for a in asked)
    )
    by_clock = within_s > 0 and len(timed) == len(asked)
    # The last request opens no gap of its own: n requests within a time stand for n - 1 mean gaps.
    load = work_s * (1 - 1 / len(asked)) / within_s if work_s is not None and by_clock else None
    engine = spec.engine
    expected = [_expected(a) for a in asked]
    ahead = None if rates is None else forecast(expected, rates, engine.max_num_seqs, engine.block_size)
    longest = sorted((a.prompt_tokens + a.output_tokens for a in asked), reverse=True)[: engine.max_num_seqs]
    return Preview(
        scenario=spec.scenario,
        requests=len(asked),
        groups=groups,
        following=len(asked) - len(timed),
        estimated=estimated,
        prompt_tokens=sum(a.prompt_tokens for a in asked),
        output_tokens=sum(a.output_tokens for a in asked),
        shared_tokens=sum(a.shared_tokens for a in asked),
        arrivals_s=bins(timed),
        prompt_lengths=bins([a.prompt_tokens for a in asked], whole=True),
        output_lengths=bins([a.output_tokens for a in asked], whole=True),
        arrive_within_s=within_s,
        work_s=work_s,
        load=load,
        run_s=None if ahead is None else ahead.run_s,
        most_running=None if ahead is None else ahead.running,
        most_waiting=None if ahead is None else ahead.waiting,
        pool_tokens=sum(longest) if ahead is None else ahead.tokens,
        pool_blocks=sum(-(-tokens // engine.block_size) for tokens in longest) if ahead is None else ahead.blocks,
        kv_blocks=engine.kv_blocks,
        sizing="" if spec.sizing is None else spec.sizing.in_words,
        labels=spec.labels,
    )


def _expected(asked: Asked) -> Expected:
    at_s = asked.pause_s if asked.arrival_s is None else asked.arrival_s
    return Expected(at_s, asked.prompt_tokens, asked.output_tokens, asked.after)


def _duration(seconds: float) -> str:
    if seconds < 1.5:
        return "1 s"
    return (
        f"{seconds:.0f} s"
        if seconds < 90
        else f"{seconds / 60:.0f} min"
        if seconds < 5400
        else f"{seconds / 3600:.1f} h"
    )


def bins(values: Sequence[float], *, whole: bool = False) -> tuple[Bin, ...]:
    """At most ``BINS`` bins of one width over the values; ``whole``: of whole numbers, so bins begin at these."""
    low, high = min(values), max(values)
    if low == high:
        return (Bin(low, low + 1 if whole else low, len(values)),)
    width = (high - low) / BINS
    if whole:
        width = -(-(high - low + 1) // BINS)
    many = min(BINS, int((high - low) // width) + 1)
    counts = [0] * many
    for value in values:
        counts[min(many - 1, int((value - low) // width))] += 1
    return tuple(Bin(low + n * width, low + (n + 1) * width, count) for n, count in enumerate(counts))


def _asked(requests: Iterable[RequestSpec], tokens_per_word: float) -> tuple[list[Asked], bool]:
    """The requests, those that follow after the ones they follow, and whether some of their token counts are estimated."""
    by_id: dict[str, Asked] = {}
    places: dict[str, int] = {}
    seen: set[int] = set()
    estimated = False
    for request in _in_order(requests):
        length, exact = _prompt_length(request, tokens_per_word)
        shared = _known_before(request, length, seen)
        if request.continues:
            earlier = by_id[request.after or ""]
            carried = earlier.prompt_tokens + earlier.output_tokens
            length, shared = length + carried, carried
        estimated |= not exact
        arrival_s = None if request.after is not None else request.arrival_ns / 1e9
        group = request.group or ""
        after = None if request.after is None else places[request.after]
        places[request.request_id] = len(by_id)
        by_id[request.request_id] = Asked(
            group, arrival_s, length, request.max_tokens, shared, request.arrival_ns / 1e9, after
        )
    return list(by_id.values()), estimated


def _in_order(requests: Iterable[RequestSpec]) -> list[RequestSpec]:
    """By arrival, and after these whoever follows them. The engine refuses requests that follow nobody; they are left out."""
    waiting: dict[str | None, list[RequestSpec]] = {}
    everyone = list(requests)
    for request in everyone:
        waiting.setdefault(request.after, []).append(request)
    order = sorted(waiting.get(None, []), key=lambda r: r.arrival_ns)
    for request in order:  # it grows as it is gone through
        order += waiting.get(request.request_id, [])
    return order


def _prompt_length(request: RequestSpec, tokens_per_word: float) -> tuple[int, bool]:
    """Tokens of a request's own prompt, and whether they are exact."""
    if request.prompt_token_ids is not None:
        return len(request.prompt_token_ids), True
    if request.prompt_tokens is not None:
        return request.prompt_tokens, True
    words = len(f"{request.system or ''} {request.prompt or ''}".split())
    return round(words * tokens_per_word) + CHAT_FORM_TOKENS * request.chat, False


def _known_before(request: RequestSpec, length: int, seen: set[int]) -> int:
    """Tokens at the prompt's beginning that an earlier prompt began with too; ``seen`` is told of this one."""
    if request.continues:
        return 0
    ids = request.prompt_token_ids
    text: Sequence[Any] = ids if ids is not None else f"{request.system or ''}\n{request.prompt or ''}"
    size = BLOCK if ids is not None else BLOCK_CHARACTERS
    chained, known = hash((ids is None, request.chat)), 0
    for start in range(0, len(text) - size + 1, size):
        chained = hash((chained, text[start : start + size]))
        if known == start and chained in seen:
            known += size
        seen.add(chained)
    return min(length - 1, round(length * known / len(text)))
