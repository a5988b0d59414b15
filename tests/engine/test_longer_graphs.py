"""Steps with chunks of prompts and with guesses in recorded forms: which form, where a batch lies in it, and the same tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from engine.config import (
    ChunkedPrefill,
    EngineConfig,
    KVQuantization,
    PrefixSharing,
    RequestSpec,
    Sampling,
    Speculation,
)
from engine.gpu.ragged import RaggedBuilder
from engine.gpu.step_forms import StepForm, padded, prompt_forms, verify_forms
from engine.request import Draft, Request
from engine.scheduling.plan import Plan, Slice
from engine.speculation.lookup import PromptLookup
from engine.start.build import longer_steps
from engine.start.prepare import prepare
from telemetry.spool import SpoolReader, spool_path
from tests.engine.serving import make_spec, serve
from tests.engine.test_graphs import DEVICE, make_request

CPU = torch.device("cpu")


@given(st.integers(1, 300), st.integers(2, 5000), st.data())
def test_every_step_that_is_to_be_recorded_has_a_form_that_wastes_little(max_num_seqs: int, most: int, data):
    forms = prompt_forms(max_num_seqs, most)
    rows = data.draw(st.integers(2, most))
    singles = data.draw(st.integers(0, max_num_seqs - 1))
    form = min((f for f in forms if f.holds(StepForm(singles, rows, 1, rows))), key=lambda f: f.total_rows)
    assert form.rows <= max(8, 2 * rows)
    assert form.singles <= max(4, 4 * singles)
    assert form.sequences <= max_num_seqs


@given(st.integers(1, 300), st.integers(2, 9), st.data())
def test_guesses_have_forms_of_their_own_in_which_single_tokens_lie_too(max_num_seqs: int, longest: int, data):
    forms = verify_forms(max_num_seqs, longest, max_num_seqs * longest)
    longer = data.draw(st.integers(1, max_num_seqs))
    singles = data.draw(st.integers(0, max_num_seqs - longer))
    needed = StepForm(singles, longer * longest, longer, longest, mixes=True)
    form = next(form for form in forms if form.holds(needed))
    assert form.rows <= max(8, 2 * needed.total_rows)
    assert form.longest == longest
    assert not any(form.holds(StepForm(0, 2, 1, 2)) for form in forms), "a part of a prompt is none of theirs"


lengths = st.lists(st.tuples(st.integers(1, 6), st.integers(0, 20)), min_size=1, max_size=8)


@given(lengths, st.booleans(), st.integers(0, 5), st.integers(0, 5), st.integers(0, 9))
def test_padding_moves_every_row_and_sequence_together(parts, mixes: bool, singles: int, sequences: int, rows: int):
    """Read back from a padded batch: each sequence's tokens, places and slots, and what is sampled."""
    slices = []
    for index, (tokens, context) in enumerate(parts):
        request = make_request(index)
        request.token_ids[:] = [100 * index + at for at in range(context + tokens)]
        request.block_table = [10 * index + at for at in range(8)]
        slices.append(Slice(request, tokens, context, False))
    plan = Plan(slices)
    plain = RaggedBuilder(4, CPU).build(plan)
    extent = plain.attention
    alone = StepForm(extent.num_singles, extent.num_tokens - extent.num_singles)
    more = len(parts) - extent.num_singles
    if mixes:
        form = StepForm(0, len(plain.token_ids) + rows, len(parts) + sequences, 6, mixes=True)
    else:
        form = StepForm(extent.num_singles + singles, alone.rows + rows + 1, more + sequences + 1, 6)

    class Only:
        def fit(self, needed, groups=None):
            return form

        def layout(self, form):
            from engine.gpu.layout import Layout

            return Layout.padded(form, 200, torch.full((3000,), 7, dtype=torch.int32))

    builder = RaggedBuilder(4, CPU)
    builder.graphs = Only()
    batch = builder.build(plan)
    starts, kv_lens = batch.attention.query_starts.tolist(), batch.attention.kv_lens.tolist()
    assert len(starts) == form.total_sequences + 1
    assert starts == sorted(starts)
    found = [
        (batch.token_ids[a:b].tolist(), batch.positions[a:b].tolist(), batch.attention.slots[a:b].tolist(), kv_len)
        for a, b, kv_len in zip(starts, starts[1:], kv_lens, strict=False)
        if kv_len
    ]
    starts, kv_lens = plain.attention.query_starts.tolist(), plain.attention.kv_lens.tolist()
    expected = [
        (plain.token_ids[a:b].tolist(), plain.positions[a:b].tolist(), plain.attention.slots[a:b].tolist(), kv_len)
        for a, b, kv_len in zip(starts, starts[1:], kv_lens, strict=False)
    ]
    assert found == expected
    assert batch.token_ids[batch.sample_rows.long()].tolist() == plain.token_ids[plain.sample_rows.long()].tolist()
    stored = batch.attention.slots >= 0
    assert int(stored.sum()) == len(plain.token_ids), "padding stores nothing"
    assert (
        batch.attention.places()
        == [p if s else 0 for p, s in zip(batch.positions.tolist(), stored.tolist(), strict=True)][
            : len(batch.attention.places())
        ]
    )


def test_a_batch_without_longer_parts_is_moved_nowhere():
    arrays = {"token_ids": np.arange(3, dtype=np.int32)}
    assert padded(arrays, StepForm(3), StepForm(8)) == arrays


PROMPTS = [(5, 9, 40, 77, 12, 5, 9, 40, 77, 12, 5, 9, 40), (17, 3, 9, 17, 3, 9, 17), (44,), tuple(range(60, 81))]
KIVI = {"codec": "kivi", "residual": 16, "group": 16}
CASES = {
    "guesses": {"speculation": Speculation(proposer="prompt-lookup", control="fixed", k=2)},
    "chunks, overlapped": {"overlap": "on"},
    "whole prompts": {"chunked_prefill": None},
    "kivi, exact prefills": {"kv_quantization": KVQuantization(**KIVI, prefill="exact")},
    "int4": {"kv_quantization": KVQuantization(codec="int4")},
    "guesses over kivi": {
        "kv_quantization": KVQuantization(**KIVI),
        "speculation": Speculation(proposer="prompt-lookup", control="fixed", k=2),
    },
    "shared prefixes": {
        "block_size": 4,
        "prefix_sharing": PrefixSharing(attention="tree", min_group=2, min_prefix_tokens=4),
    },
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.timeout(900)
@pytest.mark.sampled(10)
def test_recorded_longer_steps_change_no_token(case: str, telling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def guess(self: PromptLookup, requests: list[Request], lengths: list[int]) -> list[Draft]:
        return [
            Draft([5, 9][: length if request.index else 0]) for request, length in zip(requests, lengths, strict=True)
        ]

    monkeypatch.setattr(PromptLookup, "propose", guess)
    common = {
        "model": "random:tiny",
        "device": DEVICE,
        "dtype": "float32",
        "block_size": 16,
        "kv_blocks": 16,
        "max_num_seqs": 3,
        "max_model_len": 64,
        "attention_backend": "triton",
        "overlap": "off",
        "chunked_prefill": ChunkedPrefill(token_budget=8),
        "sampling": Sampling(ignore_eos=True),
        "check_integrity": True,
        **CASES[case],
    }
    asked = [RequestSpec(request_id=str(i), prompt_token_ids=p, max_tokens=4) for i, p in enumerate(PROMPTS)]
    tokens, rows = {}, {}
    for longer in (False, True):
        spec = make_spec(EngineConfig(**common, graphs_of_longer_steps=longer), asked)
        folder = tmp_path / str(longer)
        tokens[longer] = [r.output_token_ids for r in serve(spec, folder)]
        read = SpoolReader(spool_path(folder, "iteration")).read()
        rows[longer] = pa.Table.from_batches([part.batch for part in read]).to_pylist()
    assert tokens[True] == tokens[False]
    with_prompts = [row for row in rows[True] if row["prefill_tokens"]]
    assert with_prompts
    shared = [row for row in with_prompts if row["kv_bytes_spared"]]
    assert all(row["graph_size"] is not None for row in with_prompts if row not in shared)
    assert all(row["graph_size"] is None for row in rows[False] if row["prefill_tokens"])
    if "speculation" in common:
        guessed = [row for row in rows[True] if row["draft_tokens"]]
        assert guessed
        assert all(row["graph_size"] is not None for row in guessed)


def test_what_is_recorded_follows_the_run():
    config = EngineConfig(
        model="random:tiny", device="cpu", max_num_seqs=3, kv_blocks=16, block_size=16, max_model_len=64,
        chunked_prefill=ChunkedPrefill(token_budget=32), speculation=Speculation(proposer="prompt-lookup", k=4),
    )  # fmt: skip
    asked = [RequestSpec(request_id="0", prompt_token_ids=(1,) * 5, max_tokens=4)]
    longer = longer_steps(prepare(make_spec(config, asked)))
    assert longer.prompt_rows == 8, "its prompt's 5 tokens and 3 places"
    assert (longer.verify_rows, longer.longest) == (15, 5)
