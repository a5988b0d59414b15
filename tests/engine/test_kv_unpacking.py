"""What attention over a packed cache takes is measured before a run; never what it must be, for that depends on the machine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from engine.config import EngineConfig, KVQuantization, RequestSpec, RunSpec
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from engine.start.reading_cost import ReadingSize, measure_attention
from engine.worker import run
from telemetry.spool import SpoolReader, spool_path

SMALL = ReadingSize(2, (16, 32), 1 << 20, 0.0)


def prepared(codec: KVQuantization | None, **engine: object) -> Prepared:
    settings = {
        "model": "random:tiny",
        "device": "cpu",
        "threads": 1,
        "kv_blocks": 64,
        "kv_quantization": codec,
    } | engine
    request = RequestSpec(request_id="r", prompt_token_ids=tuple(range(1, 20)), max_tokens=8)
    return prepare(
        RunSpec(run_id="r", scenario="test", engine=EngineConfig.model_validate(settings), requests=(request,))
    )


@pytest.mark.parametrize(
    "asked",
    [
        KVQuantization(codec="int8"),
        KVQuantization(codec="int4", rotate=False, centre=False),
        KVQuantization(codec="fp8"),
        KVQuantization(codec="kivi", residual=32),
    ],
)
def test_both_forms_are_timed_at_two_contexts(asked: KVQuantization) -> None:
    timings = measure_attention(prepared(asked), SMALL)
    assert timings is not None
    assert timings["context_tokens"] == [32, 64]
    assert all(len(timings[form]) == 2 and min(timings[form]) > 0 for form in ("packed", "plain"))
    json.dumps(timings)


def test_the_contexts_stay_within_what_the_model_reads() -> None:
    timings = measure_attention(prepared(KVQuantization(), max_model_len=30), ReadingSize(3, (16, 64), 1 << 20, 0.0))
    assert timings is not None
    assert timings["context_tokens"] == [3 * 7, 3 * 30]


def test_at_full_precision_there_is_nothing_to_measure() -> None:
    assert measure_attention(prepared(None)) is None


def test_a_run_keeps_what_was_measured_and_does_without_where_it_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def model_of(name: str) -> dict[str, object]:
        spec = prepared(KVQuantization(codec="int4")).spec.model_copy(update={"run_id": name})
        (tmp_path / name).mkdir()
        (tmp_path / name / "spec.json").write_text(spec.model_dump_json())
        assert run(tmp_path / name) == 0
        (start, _) = [
            row for item in SpoolReader(spool_path(tmp_path / name, "run")).read() for row in item.batch.to_pylist()
        ]
        return dict(json.loads(start["model"]))

    model = model_of("whole")
    assert set(model["kv_attention_s"]) == {"context_tokens", "packed", "plain"}
    assert model["mean_request_tokens"] == 19 + 8
    assert model["kv_bits"] > 4

    def refuse(prepared: Prepared) -> None:
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr("engine.worker.measure_attention", refuse)
    assert "kv_attention_s" not in model_of("without")


@pytest.mark.rare
def test_the_custom_kernels_are_timed_where_they_are_not_interpreted() -> None:
    kernels = prepared(KVQuantization(codec="int4"), attention_backend="triton", cuda_graphs=False, overlap="off")
    assert kernels.backend == "triton"
    assert measure_attention(kernels) is None or torch.cuda.is_available()
    timings = measure_attention(kernels, SMALL)  # interpreted: that it runs is what is shown
    assert timings is not None
    assert min(timings["packed"]) > 0
