"""The custom kernels in the engine: padding to recorded sizes, and the tokens of the plain path whatever is switched on."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from engine.config import ChunkedPrefill, EngineConfig, RequestSpec, Sampling
from engine.config.errors import EngineError
from engine.gpu.layout import Layout
from engine.gpu.step_forms import StepForm, padded_sizes
from engine.gpu.tables import BlockTables
from engine.request import Request
from engine.start.attention import choose_backend, fitting_head
from tests.engine.serving import make_spec, serve

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
PROMPTS = [(5, 9, 40, 77, 12, 300, 8), (17, 3, 9), (44, 45, 46, 47, 48)]


@pytest.mark.parametrize("most", [1, 3, 8, 16, 60, 200, 256, 300, 1000])
def test_every_number_of_rows_has_a_size_that_wastes_little(most: int):
    sizes = padded_sizes(most)
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == most
    for rows in range(1, most + 1):
        size = next(s for s in sizes if s >= rows)
        assert size - rows <= max(8, rows // 4)


def tokens_of(config: EngineConfig, run_dir: Path) -> list[list[int]]:
    asked = [RequestSpec(request_id=str(i), prompt_token_ids=p, max_tokens=3 + i % 2) for i, p in enumerate(PROMPTS)]
    return [r.output_token_ids for r in serve(make_spec(config, asked), run_dir)]


@pytest.mark.timeout(900)
def test_kernels_and_graphs_change_no_token(telling, tmp_path: Path):
    common = {
        "model": "random:tiny",
        "device": DEVICE,
        "dtype": "float32",
        "kv_blocks": 8,
        "max_num_seqs": 3,
        "max_model_len": 64,
        "chunked_prefill": ChunkedPrefill(token_budget=6),
        "sampling": Sampling(ignore_eos=True),
        "check_integrity": True,
    }
    plain = tokens_of(EngineConfig(**common, attention_backend="reference"), tmp_path / "plain")
    for graphs, overlap in ((False, "off"), (True, "on")):
        config = EngineConfig(**common, attention_backend="triton", cuda_graphs=graphs, overlap=overlap)
        assert tokens_of(config, tmp_path / str(graphs)) == plain


def test_heads_without_a_tile_are_refused_or_served_without_kernels():
    assert fitting_head("triton", "auto", 256) == ("triton", None)
    assert fitting_head("gathered", "gathered", 512) == ("gathered", None)
    backend, told = fitting_head("triton", "auto", 320)
    assert backend == "gathered"
    assert told is not None
    assert "320" in told
    with pytest.raises(EngineError) as refused:
        fitting_head("triton", "triton", 320)
    assert refused.value.field == "attention_backend"
    assert "320 channels" in refused.value.message


def test_padding_sends_nothing_beyond_the_tables_in_use():
    memory = torch.full((400,), 7, dtype=torch.int32)
    layout = Layout.padded(StepForm(8), 200, memory)
    starts = [start for start, _ in layout.places.values()]
    assert all(start % 4 == 0 for start in starts)
    assert starts == sorted(starts)
    assert list(layout.places)[-1] == "blocks"


def make_request(index: int) -> Request:
    return Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * 8, Sampling(), 1)


def test_a_block_table_is_followed_as_it_grows_and_read_anew_when_replaced():
    tables, request = BlockTables(), make_request(0)
    request.block_table = [4, 9]
    assert tables.of(request, 2).tolist() == [4, 9]
    request.block_table += list(range(100, 160))
    assert tables.of(request, 62).tolist() == request.block_table
    request.block_table = [8, 1]
    assert tables.of(request, 2).tolist() == [8, 1]


def test_a_cpu_has_no_custom_kernels_unless_they_are_interpreted(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    assert choose_backend("auto", torch.device("cpu")) == ("native", None)
    with pytest.raises(EngineError, match="they need a GPU"):
        choose_backend("triton", torch.device("cpu"))


@pytest.mark.parametrize(("capability", "name"), [((7, 5), "gathered"), ((8, 0), "triton"), ((9, 0), "triton")])
def test_an_old_gpu_serves_without_kernels_and_says_so(monkeypatch: pytest.MonkeyPatch, capability, name: str):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    backend, notice = choose_backend("auto", torch.device("cuda:0"))
    assert backend == name
    assert (notice is None) == (name == "triton")
    assert name == "triton" or "7.5" in str(notice)


def test_without_triton_a_gpu_serves_without_kernels_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    backend, notice = choose_backend("auto", torch.device("cuda:0"))
    assert backend == "gathered"
    assert "Triton is not installed" in str(notice)
