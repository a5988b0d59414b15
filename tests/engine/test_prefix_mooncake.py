"""A real trace: what the prefix cache finds equals what the trace's own block names say."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from engine.config import PrefixSharing
from tests.engine.prefix_scheduling import make_request, make_scheduler, prefill_tokens, serve_in_turn

ROOT = Path(__file__).resolve().parents[2]
TRACES = Path(os.environ.get("SERVESCOPE_TRACES", ROOT.parent / "shared" / "traces"))
TRACE = TRACES / "mooncake_conversation_3000.jsonl"
BLOCK, TRACE_BLOCK = 4, 512
REQUESTS = 1500


@pytest.mark.skipif(not TRACE.is_file(), reason="the Mooncake trace is not here")
def test_hits_on_the_mooncake_trace_equal_a_count_from_its_hash_ids():
    """Every block of 512 trace tokens becomes one block of 4 tokens that spell its name."""
    lines = [json.loads(line) for line in TRACE.read_text().splitlines()[:REQUESTS]]
    requests, expected, seen = [], [], set()
    for index, line in enumerate(lines):
        length = max(1, line["input_length"] * BLOCK // TRACE_BLOCK)
        text = [token for name in line["hash_ids"] for token in (name, name + 1, name + 2, name + 3)][:length]
        requests.append(make_request(index, text))
        prefixes = [tuple(line["hash_ids"][:n]) for n in range(1, len(text) // BLOCK + 1)]
        hits = next((n for n, prefix in enumerate(prefixes) if prefix not in seen), len(prefixes))
        expected.append(min(hits * BLOCK, (len(text) - 1) // BLOCK * BLOCK))
        seen.update(prefixes)
    scheduler = make_scheduler(blocks=60_000, block_size=BLOCK, budget=10**6, sharing=PrefixSharing(copy_partial=False))
    plans = serve_in_turn(scheduler, requests, check=False)
    assert [r.cached_tokens for r in requests] == expected
    assert sum(expected) > 0.2 * sum(r.num_prompt_tokens for r in requests)
    assert prefill_tokens(plans) == sum(r.num_prompt_tokens for r in requests) - sum(expected)
    scheduler.check_integrity()
