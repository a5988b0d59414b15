"""Which family of an engine's metrics is which of our figures (``store.foreign.FIGURES``), by engine.

Names as vLLM 0.33 and before, SGLang 0.5 and llama.cpp's server emit them; of several the first that a page has counts,
and what is joined by ``+`` is added up. Counters and histograms are named without ``_total``, ``_bucket``, ``_sum`` and
``_count``.
"""

from __future__ import annotations

from collections.abc import Mapping

from app.attach.prometheus import Page

Families = Mapping[str, tuple[str, ...]]

VLLM: Families = {
    "running": ("num_requests_running",),
    "waiting": ("num_requests_waiting",),
    "kv_used_share": ("kv_cache_usage_perc", "gpu_cache_usage_perc"),
    "prompt_tokens": ("prompt_tokens",),
    "cached_tokens": ("prompt_tokens_cached",),
    "output_tokens": ("generation_tokens",),
    "prefix_query_tokens": ("prefix_cache_queries", "gpu_prefix_cache_queries"),
    "prefix_hit_tokens": ("prefix_cache_hits", "gpu_prefix_cache_hits"),
    "preemptions": ("num_preemptions",),
    "drafts": ("spec_decode_num_drafts",),
    "draft_tokens": ("spec_decode_num_draft_tokens",),
    "accepted_tokens": ("spec_decode_num_accepted_tokens",),
    "requests_done": ("request_success",),
    "step_tokens": ("iteration_tokens_total",),
    "ttft": ("time_to_first_token_seconds",),
    "itl": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "e2e": ("e2e_request_latency_seconds",),
    "queue_time": ("request_queue_time_seconds",),
}
SGLANG: Families = {
    "running": ("num_running_reqs",),
    "waiting": ("num_queue_reqs",),
    "kv_used_share": ("token_usage",),
    "cache_hit_share": ("cache_hit_rate",),
    "accept_length": ("spec_accept_length",),
    "prompt_tokens": ("prompt_tokens",),
    "cached_tokens": ("cached_tokens",),
    "output_tokens": ("generation_tokens",),
    "requests_done": ("num_requests",),
    "preemptions": ("num_retracted_requests", "num_retracted_reqs"),
    "ttft": ("time_to_first_token_seconds",),
    "itl": ("inter_token_latency_seconds", "time_per_output_token_seconds"),
    "e2e": ("e2e_request_latency_seconds",),
    "queue_time": ("queue_time_seconds",),
}
LLAMA_CPP: Families = {
    "running": ("requests_processing",),
    "waiting": ("requests_deferred",),
    "kv_used_share": ("kv_cache_usage_ratio",),
    "prompt_tokens": ("prompt_tokens+prompt_tokens_cached", "prompt_tokens"),  # its prompt_tokens are those computed
    "cached_tokens": ("prompt_tokens_cached",),
    "output_tokens": ("tokens_predicted",),
    "drafts": ("spec_decode_num_drafts",),
    "draft_tokens": ("spec_decode_num_draft_tokens",),
    "accepted_tokens": ("spec_decode_num_accepted_tokens",),
    "prompt_s": ("prompt_seconds",),
    "decode_s": ("tokens_predicted_seconds",),
    "steps": ("n_decode",),
}
ENGINES: dict[str, tuple[str, Families]] = {
    "vLLM": ("vllm:", VLLM),
    "SGLang": ("sglang:", SGLANG),
    "llama.cpp": ("llamacpp:", LLAMA_CPP),
}
"""Engine -> what its metrics' names begin with, and its families."""
OURS, OUR_PREFIX = "ServeScope", "servescope_"
MEANS = ("kv_used_share", "cache_hit_share", "accept_length")
"""States of which the mean over an engine's ranks is taken; of others the sum."""


def engine_of(page: Page) -> tuple[str, str, Families] | None:
    """Engine, prefix and families of a page; None where no metric of it is known. The lab's own door tells vLLM's
    families, and is named by what it has besides.
    """
    for engine, (prefix, families) in ENGINES.items():
        if any(name.startswith(prefix) for name in page):
            ours = engine == "vLLM" and any(name.startswith(OUR_PREFIX) for name in page)
            return (OURS if ours else engine), prefix, families
    return None
