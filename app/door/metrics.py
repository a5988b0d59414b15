"""What the door counts, and ``/metrics``: vLLM's names with vLLM's meanings, in OpenMetrics text.

Counted from what the engine tells of each step and each request, on the engine's clock, so these figures agree with the
run's rows. What is done before the run's clock starts is no step of it and in no histogram.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from app.server.openmetrics import Histogram, Page
from engine.config.door import STEP_STATES, STEP_SUMS

if TYPE_CHECKING:
    from app.door.streams import Stream

MOST_FIELDS = 100  # names of ignored fields that are counted one by one
TTFT_S = (0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
ITL_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0)
LONG_S = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0)
TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)
STEP_TOKENS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
REASONS = {"stop": "stop", "stop_string": "stop", "length": "length", "cancelled": "abort", "failed": "error"}


class Observed:
    """A histogram as it fills."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._total = 0.0

    def add(self, value: float, times: int = 1) -> None:
        """Count ``value``, ``times`` times."""
        self._counts[bisect_left(self.bounds, value)] += times
        self._total += value * times

    @property
    def histogram(self) -> Histogram:
        sums, so_far = [], 0
        for count in self._counts:
            so_far += count
            sums.append(so_far)
        return Histogram(tuple(sums), self._total)


HISTOGRAMS: dict[str, tuple[str, Sequence[float]]] = {
    "iteration_tokens_total": ("Tokens computed in an engine step.", STEP_TOKENS),
    "time_to_first_token_seconds": ("From a request's arrival to its first token.", TTFT_S),
    "inter_token_latency_seconds": ("Between a request's tokens of two steps.", ITL_S),
    "request_time_per_output_token_seconds": ("Mean time between the tokens of a request.", ITL_S),
    "e2e_request_latency_seconds": ("From a request's arrival to its end.", LONG_S),
    "request_queue_time_seconds": ("From a request's arrival to its first step.", LONG_S),
    "request_prefill_time_seconds": ("From a request's first step to its first token.", LONG_S),
    "request_decode_time_seconds": ("From a request's first token to its last.", LONG_S),
    "request_inference_time_seconds": ("From a request's first step to its last token.", LONG_S),
    "request_prompt_tokens": ("Prompt tokens of a request.", TOKENS),
    "request_generation_tokens": ("Output tokens of a request.", TOKENS),
    "request_params_max_tokens": ("Output tokens that a request asked for at most.", TOKENS),
    "request_params_n": ("Answers that a request asked for.", (1, 2, 5, 10, 20)),
    "request_num_preemptions": ("How often a request was thrown out of the KV pool.", (0, 1, 2, 5, 10, 20, 50)),
    "request_prefill_kv_computed_tokens": ("Prompt tokens of a request that were not in the prefix cache.", TOKENS),
}
COUNTERS = (
    ("prompt_tokens", "Prompt tokens of requests that have their first token, cached ones included.", "prompt_tokens"),
    ("generation_tokens", "Tokens emitted.", "emitted_tokens"),
    ("num_preemptions", "Requests thrown out of the KV pool.", "preempted"),
    ("prefix_cache_queries", "Prompt tokens looked up in the prefix cache.", "prefix_query_tokens"),
    ("prefix_cache_hits", "Prompt tokens found in the prefix cache.", "prefix_hit_tokens"),
    ("spec_decode_num_draft_tokens", "Speculative tokens verified.", "draft_tokens"),
    ("spec_decode_num_accepted_tokens", "Speculative tokens accepted.", "accepted_tokens"),
    ("estimated_flops_per_gpu", "Operations of all steps, modelled.", "flops"),
    ("estimated_read_bytes_per_gpu", "Bytes that all steps moved, modelled.", "bytes"),
)


class Counts:
    """Everything that was counted since the door was opened."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = dict.fromkeys(STEP_SUMS, 0)
        self.states: dict[str, int] = dict.fromkeys(STEP_STATES, 0)
        self.origin_ns = 0  # the run's start on the machine's monotonic clock
        self.steps = 0
        self.drafts = 0
        self.cached_tokens = 0
        self.accepted_at: list[int] = []  # by place in the draft
        self.ends: Counter[str] = Counter()
        self.ignored: Counter[str] = Counter()
        self.turned_away = 0
        self.seen = {name: Observed(bounds) for name, (_, bounds) in HISTOGRAMS.items()}

    @property
    def now_ns(self) -> int:
        """When the last step ended, on the run's clock."""
        return self.states["end_ns"]

    def step(self, told: Mapping[str, Any]) -> None:
        """What the engine tells of a step."""
        for name in STEP_SUMS:
            self.sums[name] += told[name]
        for name in STEP_STATES:
            self.states[name] = told[name]
        self.steps += 1
        computed = sum(told[name] for name in ("prefill_tokens", "decode_tokens", "draft_tokens"))
        self.seen["iteration_tokens_total"].add(computed)

    def tokens(self, stream: Stream, drafted: int, count: int, now_ns: int) -> None:
        """A stream was given ``count`` tokens by the step that ended at ``now_ns``."""
        if stream.last_ns is None:
            arrival_ns = max(0, stream.ask.came_ns - self.origin_ns)
            self.seen["time_to_first_token_seconds"].add(max(0, now_ns - arrival_ns) / 1e9)
        else:
            gap_ns = now_ns - stream.last_ns
            stream.gaps_ns += gap_ns
            self.seen["inter_token_latency_seconds"].add(gap_ns / 1e9)
        stream.last_ns = now_ns
        stream.output_tokens += count
        if drafted:
            self.drafts += 1
            accepted = count - 1
            self.accepted_at += [0] * (accepted - len(self.accepted_at))
            for place in range(accepted):
                self.accepted_at[place] += 1

    def ended(self, stream: Stream, about: Mapping[str, Any]) -> None:
        """A stream is over, as the engine tells."""
        self.ends[REASONS.get(about["reason"], "error")] += 1
        arrival, scheduled, first = (about[f"{name}_ns"] for name in ("arrival", "first_scheduled", "first_token"))
        last = stream.last_ns
        if first is None or scheduled is None or last is None or about["reason"] in ("cancelled", "failed"):
            return
        seen, output = self.seen, about["output_tokens"]
        seen["request_queue_time_seconds"].add((scheduled - arrival) / 1e9)
        seen["request_prefill_time_seconds"].add((first - scheduled) / 1e9)
        seen["request_decode_time_seconds"].add((last - first) / 1e9)
        seen["request_inference_time_seconds"].add((last - scheduled) / 1e9)
        seen["e2e_request_latency_seconds"].add((last - arrival) / 1e9)
        if output > 1:
            seen["request_time_per_output_token_seconds"].add((last - first) / 1e9 / (output - 1))
        seen["request_prompt_tokens"].add(about["prompt_tokens"])
        seen["request_generation_tokens"].add(output)
        seen["request_params_max_tokens"].add(stream.ask.request.max_tokens)
        seen["request_params_n"].add(1)
        seen["request_num_preemptions"].add(about["preemptions"])
        seen["request_prefill_kv_computed_tokens"].add(about["prompt_tokens"] - about["cached_tokens"])
        self.cached_tokens += about["cached_tokens"]

    def ignore(self, names: Sequence[str]) -> list[str]:
        """Count fields that nobody knows; those that were not met before."""
        fresh = [name for name in names if name not in self.ignored and len(self.ignored) < MOST_FIELDS]
        for name in names:
            self.ignored[name if name in self.ignored or name in fresh else "others"] += 1
        return fresh


def metrics_text(counts: Counts, model: str, facts: Mapping[str, Any], open_count: int, tasks: int = 0) -> str:
    """The whole document. ``facts``: what the engine told of itself; ``open_count``: requests it has now;
    ``tasks``: of the HTTP process's event loop, this one's included."""
    page, labels = Page(), {"model_name": model, "engine": "0"}
    states = counts.states
    running, used = min(states["running"], open_count), states["blocks_used"] if open_count else 0
    waiting = open_count - running
    for name, help, value in (
        ("num_requests_running", "Requests that hold a place in the engine.", running),
        ("num_requests_waiting", "Requests that have arrived and hold no place.", waiting),
        ("kv_cache_usage_perc", "Share of the KV pool in use; 1 is all of it.", used / (states["blocks_total"] or 1)),
    ):
        page.family(f"vllm:{name}", "gauge", help)
        page.sample(f"vllm:{name}", labels, value)
    page.family("vllm:num_requests_waiting_by_reason", "gauge", "Requests that wait, by what they wait for.")
    for reason, value in (("capacity", waiting), ("deferred", 0)):
        page.sample("vllm:num_requests_waiting_by_reason", labels | {"reason": reason}, value)
    for name, help, column in COUNTERS:
        _counter(page, f"vllm:{name}", help, labels, counts.sums[column])
    _counter(page, "vllm:prompt_tokens_cached", "Prompt tokens taken from the cache.", labels, counts.cached_tokens)
    page.family("vllm:prompt_tokens_by_source", "counter", "The same prompt tokens, by where they came from.")
    computed = counts.sums["prompt_tokens"] - counts.sums["prefix_hit_tokens"]
    for source, value in (("local_compute", computed), ("local_cache_hit", counts.sums["prefix_hit_tokens"])):
        page.sample("vllm:prompt_tokens_by_source_total", labels | {"source": source}, max(0, value))
    _counter(page, "vllm:spec_decode_num_drafts", "Drafts verified.", labels, counts.drafts)
    name = "vllm:spec_decode_num_accepted_tokens_per_pos"
    page.family(name, "counter", "Speculative tokens accepted, by place in the draft.")
    for place, count in enumerate(counts.accepted_at):
        page.sample(f"{name}_total", labels | {"position": place}, count)
    page.family("vllm:request_success", "counter", "Requests that ended, by reason.")
    for end in sorted(set(REASONS.values())):
        page.sample("vllm:request_success_total", labels | {"finished_reason": end}, counts.ends[end])
    for name, (help, bounds) in HISTOGRAMS.items():
        page.histogram(f"vllm:{name}", help, labels, bounds, counts.seen[name].histogram)
    page.family("vllm:cache_config_info", "gauge", "The KV pool, as labels.")
    shown = {name: facts.get(source, "") for name, source in (("block_size",) * 2, ("num_gpu_blocks", "kv_blocks"))}
    page.sample("vllm:cache_config_info", labels | shown, 1)
    page.family("servescope_door_tasks", "gauge", "Tasks of the HTTP process's event loop, this page's own included.")
    page.sample("servescope_door_tasks", {}, tasks)
    _counter(page, "servescope_iterations", "Engine steps.", {}, counts.steps)
    _counter(page, "servescope_turned_away", "Requests answered with 429.", {}, counts.turned_away)
    page.family("servescope_ignored_fields", "counter", "Fields of requests that are not known, by name.")
    for field, count in sorted(counts.ignored.items()):
        page.sample("servescope_ignored_fields_total", {"field": field}, count)
    return page.text()


def _counter(page: Page, name: str, help: str, labels: dict[str, Any], value: float) -> None:
    page.family(name, "counter", help)
    page.sample(f"{name}_total", labels, value)
