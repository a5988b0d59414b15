"""Padded batches give the tokens of packed ones, and every row of padding is computed and counted."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from engine.config import EngineConfig, RequestSpec, Sampling
from engine.model.decoder import Decoder
from engine.start.build import build_engine
from engine.start.prepare import prepare
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from telemetry.spool import SpoolReader, spool_path
from tests.engine.serving import make_spec

PROMPTS = (3, 12, 5, 9, 4)
ANSWERS = (2, 6, 4, 1, 3)


def config(policy: str, **changes) -> EngineConfig:
    values = {
        "model": "random:tiny",
        "device": "cpu",
        "dtype": "float32",
        "max_num_seqs": 3,
        "chunked_prefill": None,
        "policy": policy,
        "sampling": Sampling(temperature=1.0, ignore_eos=True),
        "check_integrity": True,
    }
    return EngineConfig(**(values | changes))


def asked() -> list[RequestSpec]:
    return [
        RequestSpec(request_id=str(i), prompt_token_ids=tuple(range(1, prompt + 1)), max_tokens=answer, seed=i)
        for i, (prompt, answer) in enumerate(zip(PROMPTS, ANSWERS, strict=True))
    ]


def serve(policy: str, folder: Path, **changes) -> tuple[list[list[int]], list[tuple[int, int]]]:
    """Each request's tokens, and each step's real rows and rows of padding."""
    prepared = prepare(make_spec(config(policy, **changes), asked()))
    with Recorder(folder, clock=(clock := RunClock())) as recorder:
        build_engine(prepared, recorder, clock).run(prepared.requests)
    rows = pa.Table.from_batches([p.batch for p in SpoolReader(spool_path(folder, "iteration")).read()]).to_pylist()
    steps = [(row["prefill_tokens"] + row["decode_tokens"] + row["draft_tokens"], row["padded_tokens"]) for row in rows]
    return [r.token_ids for r in prepared.requests], steps


@pytest.mark.parametrize("policy", ["padded", "padded-sorted"])
def test_padding_never_changes_a_token(policy: str, tmp_path: Path):
    assert serve(policy, tmp_path / policy)[0] == serve("orca", tmp_path / "orca")[0]


def test_prompts_are_padded_to_the_longest_and_ended_requests_keep_their_rows(tmp_path: Path):
    _, steps = serve("padded", tmp_path)
    first = [(20, 3 * 12 - 20), (3, 0), (2, 1), (2, 1), (1, 2), (1, 2)]  # answers of 2, 6 and 4 tokens
    second = [(13, 2 * 9 - 13), (1, 1), (1, 1)]  # of 1 and 3
    assert steps == first + second


def test_sorting_by_length_leaves_less_to_pad(tmp_path: Path):
    _, steps = serve("padded-sorted", tmp_path)
    assert steps[0] == (3 + 4 + 5, 3)
    _, unsorted = serve("padded", tmp_path / "unsorted")
    assert sum(pad for rows, pad in steps if rows > 3) < sum(pad for rows, pad in unsorted if rows > 3)


@pytest.mark.parametrize("policy", ["static", "orca"])
def test_other_policies_pad_nothing(policy: str, tmp_path: Path):
    assert {pad for _, pad in serve(policy, tmp_path)[1]} == {0}


def test_the_model_computes_as_many_rows_as_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    computed = []
    forward = Decoder.forward

    def counting(self: Decoder, token_ids: torch.Tensor, *rest) -> torch.Tensor:
        computed.append(len(token_ids))
        return forward(self, token_ids, *rest)

    monkeypatch.setattr(Decoder, "forward", counting)
    _, steps = serve("padded", tmp_path)
    assert computed[-len(steps) :] == [rows + pad for rows, pad in steps]
