"""What the engine does on a GPU only, with stand-ins where the driver would be asked; and what must be ready before a run is measured."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.config import ChunkedPrefill, EngineConfig, PrefixSharing, RequestSpec, Sampling
from engine.gpu.attention import TritonAttention
from engine.gpu.kernels import sample
from engine.loop import DeviceMarks
from engine.model.device import device_uuid
from engine.start.prepare import prepare
from engine.start.warmup import warm_up
from tests.engine.serving import make_spec, serve

GPU = torch.device("cuda:0")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Event:
    """Like CUDA's: its time is known once it was waited for."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.recorded = self.ended = False

    def record(self) -> None:
        self.recorded = True

    def synchronize(self) -> None:
        self.ended = self.recorded

    def elapsed_time(self, end: Event) -> float:
        if not end.ended:
            raise RuntimeError("CUDA error: device not ready")
        return 1.5


def test_a_step_that_fetches_no_token_is_waited_for_before_it_is_timed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "Event", Event)
    marks = DeviceMarks(GPU)
    marks.end()
    assert marks.elapsed_ns() == 1_500_000


def test_a_gpu_is_named_by_its_uuid_and_a_cpu_is_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1a-2b"))
    assert device_uuid(GPU) == "1a-2b"
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace())
    assert device_uuid(GPU) is None
    assert device_uuid(torch.device("cpu")) is None


@pytest.mark.timeout(900)
@pytest.mark.rare
def test_a_run_launches_no_kernel_that_the_warm_up_has_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Chunks of several lengths, few and many decodes, some behind one prefix: every form of the attention was there before, and the draw."""
    forms: set[object] = set()
    launch, prefixes, draw = TritonAttention._launch, TritonAttention._prefixes, sample.sample_tokens

    def launched(attention: TritonAttention, part, *rest) -> None:
        forms.add((part.tile, part.singles, part.split, part.shared is not None))
        launch(attention, part, *rest)

    def shared(attention: TritonAttention, rows, count: int, *rest) -> None:
        forms.add(attention.passes.tile(count))
        prefixes(attention, rows, count, *rest)

    def drawn(*arguments) -> torch.Tensor:
        forms.add("draw")
        return draw(*arguments)

    monkeypatch.setattr(TritonAttention, "_launch", launched)
    monkeypatch.setattr(TritonAttention, "_prefixes", shared)
    monkeypatch.setattr(sample, "sample_tokens", drawn)
    config = EngineConfig(
        model="random:tiny", device=DEVICE, dtype="float32", block_size=4, kv_blocks=64, max_num_seqs=9, max_model_len=32,
        chunked_prefill=ChunkedPrefill(token_budget=16), attention_backend="triton", overlap="off", cuda_graphs=False,
        prefix_sharing=PrefixSharing(attention="tree", min_group=2, min_prefix_tokens=4),
        sampling=Sampling(temperature=0.7, ignore_eos=True),
    )  # fmt: skip
    prompts = [(20 + i,) for i in range(9)] + [(*range(60, 66), *range(90, 92 + 4 * i)) for i in range(2)]
    requests = [RequestSpec(request_id=str(i), prompt_token_ids=p, max_tokens=3) for i, p in enumerate(prompts)]
    spec = make_spec(config, requests)
    warm_up(prepare(spec))
    warmed, seen = set(forms), len(forms)
    forms.clear()
    serve(spec, tmp_path)
    assert len(forms) >= 4
    assert forms <= warmed, f"{forms - warmed} of {seen}"
