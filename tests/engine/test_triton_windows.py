"""Codecs with exact windows, and prompts that read themselves as they were, under the custom kernels: what is packed is what the plain
path packs, bit for bit; what is kept exact is kept; what is read is what the plain path reads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from engine.attention.packed import check_reads
from engine.backends import make_attention
from engine.batch import build_batch
from engine.config import (
    ChunkedPrefill,
    EngineConfig,
    KVQuantization,
    PrefixSharing,
    RequestSpec,
    Sampling,
    Speculation,
)
from engine.gpu.attention import TritonAttention
from engine.gpu.kernels.forms import KernelForm
from engine.gpu.kernels.rope_pack import rope_pack
from engine.gpu.kernels.rope_store import rope_store
from engine.gpu.ragged import RaggedBuilder
from engine.kv.codecs import make_codec
from engine.kv.pool import BlockPool
from engine.kv.quantized import QuantizedCache
from engine.loop import Engine
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from engine.speculation.base import Draft
from engine.speculation.lookup import PromptLookup
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.start.sizing import Room
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.serving import make_spec
from tests.engine.test_triton_attention import distance
from tests.engine.test_triton_packed import packed_cache, projected
from tests.engine.test_triton_packed import sides as sides_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
KIVI = {"codec": "kivi", "residual": 16}
CODECS = {
    "2 bits": KIVI,
    "4 and 2 bits, small groups": KIVI | {"key_bits": 4, "group": 8},
    "8 and 4 bits, float32 steps": KIVI | {"key_bits": 8, "value_bits": 4, "metadata": "float32"},
    "2 and 8 bits, bfloat16 steps": KIVI | {"value_bits": 8, "metadata": "bfloat16"},
    "a window is two blocks": KIVI | {"residual": 32, "group": 16},
    "both per channel": KIVI | {"value_axis": "channel", "group": 4},
    "both per token": KIVI | {"key_axis": "token", "key_bits": 4},
    "nothing exact": {"codec": "kivi", "residual": 0, "key_axis": "token", "value_bits": 4},
}
HEADS = [(2, 2, 64), (4, 1, 80), (3, 1, 96), (16, 1, 128), (2, 1, 256), (9, 3, 64)]
# new tokens of each of three sequences, step by step: prompts whole and in chunks, decodes, guesses to verify, across ends of windows
STEPS = [
    [(31, True), (9, True), None],
    [(1, False), (4, False), (18, True)],
    [(4, False), (4, False), (1, False)],
]
GUESSES = 3  # that a step may have to take back


@dataclass
class Sides:
    """The same numbers through the plain path and through the kernels, each on its own cache."""

    asked: KVQuantization
    heads: tuple[int, int, int]
    dtype: torch.dtype = torch.float32
    size: int = 16
    processors: int = 1  # of the device, as far as splitting is concerned
    longest: int = 70  # tokens of a sequence

    def __post_init__(self) -> None:
        _, kv_heads, width = self.heads
        self.codec = make_codec(self.asked, width, self.size)
        self.blocks = 3 * -(-self.longest // self.size)
        dimensions = (2, kv_heads, width, self.blocks, self.size, self.dtype, DEVICE)
        self.caches = [QuantizedCache(self.codec, *dimensions, tails=3, spare=GUESSES) for _ in range(2)]
        for cache in self.caches:
            if self.codec.fixed_scales:
                cache.set_scales(torch.full((2, 2, kv_heads), 0.02))
        exact = self.asked.prefill == "exact"
        self.plain = make_attention("gathered", self.caches[0], *self.heads, exact_prefill=exact)
        self.kernels = make_attention("triton", self.caches[1], *self.heads, exact_prefill=exact)
        assert isinstance(self.kernels, TritonAttention)
        self.kernels._processors = self.processors
        self.builder = RaggedBuilder(
            self.size, DEVICE, tail_tokens=self.kernels.tail_tokens, tells_prefills=self.kernels.exact_prefill
        )
        pool = BlockPool(self.blocks, self.size)
        self.requests = []
        for index in range(3):
            request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * self.longest, Sampling(), 1)
            request.block_table = pool.allocate(pool.blocks_for(self.longest), index, 0)[::-1]
            request.tail = 2 - index
            self.requests.append(request)
        self.done = [0] * 3

    def step(self, parts: list[tuple[int, bool] | None]) -> float:
        """One step through both; the distance of what they return."""
        num_heads, kv_heads, width = self.heads
        slices = [
            Slice(request, part[0], done, part[1])
            for request, part, done in zip(self.requests, parts, self.done, strict=True)
            if part
        ]
        tokens = sum(s.tokens for s in slices)
        q, k, v = (
            torch.randn(tokens, count, width).to(DEVICE, self.dtype) for count in (num_heads, kv_heads, kv_heads)
        )
        k[..., 5] *= 9
        self.poison()
        self.plain.begin(build_batch(Plan(slices), self.size, DEVICE).attention)
        self.kernels.begin(self.builder.build(Plan(slices)).attention)
        apart = distance(self.kernels.forward(1, q, k, v), self.plain.forward(1, q, k, v))
        for index, part in enumerate(parts):
            self.done[index] += part[0] if part else 0
        return apart

    def complete(self) -> torch.Tensor:
        """Slots of what is packed by now."""
        slots = []
        for request, done in zip(self.requests, self.done, strict=True):
            for place in range(done // max(1, self.codec.window) * max(1, self.codec.window)):
                slots.append(request.block_table[place // self.size] * self.size + place % self.size)
        return torch.tensor(slots, dtype=torch.int64, device=DEVICE)

    def kept(self) -> torch.Tensor:
        """Places in the tails of what is not packed yet."""
        size, places = self.caches[0].tail_tokens, []
        for request, done in zip(self.requests, self.done, strict=True):
            for place in range(done // self.codec.window * self.codec.window, done):
                places.append(request.tail * size + place % size)
        return torch.tensor(places, dtype=torch.int64, device=DEVICE)

    def poison(self) -> None:
        """What nobody may read would show."""
        cache = self.caches[1]
        unused = torch.ones(self.blocks * self.size, dtype=torch.bool, device=DEVICE)
        unused[self.complete()] = False
        for rows in (cache.packed_keys[1], cache.packed_values[1]):
            rows.codes.flatten(1, 2)[:, unused] = 127
            if rows.meta is not None:
                rows._meta_slots[:, unused.view(-1, rows.form.span).all(1)] = float("nan")
        if self.codec.window:
            unused = torch.ones(cache.tail_keys[1].shape[1], dtype=torch.bool, device=DEVICE)
            unused[self.kept()] = False
            for tail in (cache.tail_keys[1], cache.tail_values[1]):
                tail[:, unused] = float("nan")

    def check_caches(self) -> None:
        """What is packed, and what is kept exact, is the same on both sides to the bit."""
        for name in ("packed_keys", "packed_values"):
            want, got = (getattr(cache, name)[1] for cache in self.caches)
            slots = self.complete()
            codes = [rows.codes.flatten(1, 2).index_select(1, slots) for rows in (want, got)]
            assert torch.equal(*codes)
            if want.meta is not None:
                spans = slots[:: want.form.span] // want.form.span
                assert torch.equal(*(rows._meta_slots.index_select(1, spans) for rows in (want, got)))
        if self.codec.window:
            for name in ("tail_keys", "tail_values"):
                assert torch.equal(*(getattr(cache, name)[1].index_select(1, self.kept()) for cache in self.caches))


@pytest.mark.parametrize(
    ("name", "heads", "dtype"),
    [
        *[(name, HEADS[i % 2], torch.float32) for i, name in enumerate(CODECS) if "bfloat16" not in name],
        ("2 and 8 bits, bfloat16 steps", HEADS[0], torch.bfloat16),
    ],
    ids=str,
)
@pytest.mark.sampled(3)
def test_windows_are_packed_kept_and_read_as_on_the_plain_path(name: str, heads, dtype: torch.dtype):
    torch.manual_seed(sum(heads))
    sides = Sides(KVQuantization(**CODECS[name]), heads, dtype)
    for parts in STEPS:
        assert sides.step(parts) < (1e-4 if dtype == torch.float32 else 1.5e-2)
        sides.check_caches()
    assert len(sides.complete()) >= 32


def test_a_part_that_holds_nothing_for_a_token_is_no_part_of_it():
    """The first tokens of a tile are in their sequence's first window, which the last ones read packed, in more parts than are merged at once."""
    torch.manual_seed(6)
    sides = Sides(KVQuantization(codec="kivi", residual=576), (2, 1, 64), processors=32, longest=592)
    for name in ("tail_keys", "tail_values"):
        exact = torch.randn_like(sides.caches[0].tail_keys[1])
        for cache in sides.caches:
            getattr(cache, name)[1].copy_(exact)
    sides.done[0] = 572
    assert sides.step([(8, True), None, None]) < 1e-4
    sides.check_caches()


def test_rows_of_a_long_chunk_do_not_take_each_others_places_in_the_tail():
    asked = RequestSpec(request_id="0", prompt="-")
    requests = [Request(index, asked, [0] * 40, Sampling(), 1, tail=2 - index) for index in range(2)]
    for request in requests:
        request.block_table = [1, 0, 2]
    plan = Plan([Slice(requests[0], 13, 3, True), Slice(requests[1], 1, 21, False)])
    batch = RaggedBuilder(16, DEVICE, tail_tokens=8).build(plan).attention
    assert batch.slots.tolist() == [1 * 8 + 21 % 8, *[-1] * 5, *(2 * 8 + place % 8 for place in range(8, 16))]
    assert batch.tails.tolist() == [1, 2]


def test_a_split_context_is_read_whole():
    torch.manual_seed(5)
    sides = Sides(KVQuantization(**KIVI), (2, 1, 64), processors=16)
    for parts in ([(59, True), None, (20, True)], [(1, False), None, (4, False)]):
        assert sides.step(parts) < 1e-4
    assert {launch.segments for launch in sides.kernels._launches} == {64}


@pytest.mark.parametrize("heads", HEADS[1:], ids=str)
def test_every_head_size_is_packed_and_read(heads: tuple[int, int, int]):
    torch.manual_seed(sum(heads))
    sides = Sides(KVQuantization(**CODECS["4 and 2 bits, small groups"]), heads)
    for parts in ([(20, True), (9, True), None], [(1, False), (4, False), None]):
        assert sides.step(parts) < 1e-4
        sides.check_caches()


@pytest.mark.parametrize(
    "asked",
    [{"codec": "int8"}, {"codec": "int4"}, {"codec": "fp8"}, KIVI, CODECS["nothing exact"]],
    ids=lambda asked: asked["codec"] + str(asked.get("residual", "")),
)
def test_an_exact_prefill_reads_its_own_chunk_as_it_was(asked: dict):
    torch.manual_seed(7)
    sides = Sides(KVQuantization(**asked, prefill="exact"), (4, 2, 64))
    for parts in ([(19, True), (9, True), None], [(1, False), (19, True), (4, False)]):
        assert sides.step(parts) < 1e-4
        sides.check_caches()


def test_groups_that_fill_no_whole_step_of_the_kernel():
    torch.manual_seed(48)
    asked = KVQuantization(codec="kivi", residual=48, group=24, key_bits=4, value_axis="channel")
    sides = Sides(asked, (2, 1, 64), size=48)
    for parts in ([(60, True), None, None], [(1, False), None, (3, False)]):
        assert sides.step(parts) < 1e-4
        sides.check_caches()


@pytest.mark.parametrize("heads", [(4, 2, 64), (4, 1, 80)], ids=str)
def test_what_a_kernel_leaves_beside_the_cache_is_what_it_stores(heads: tuple[int, int, int]):
    """The batch's own keys and values, rotated: those of the plain cache, and as they were before packing."""
    torch.manual_seed(1)
    num_heads, kv_heads, width = heads
    qkv, positions, slots, table = projected(heads, torch.float32)
    plain, partly = (torch.zeros(kv_heads, 64, width, device=DEVICE) for _ in range(2))
    own, packed_own = (tuple(torch.empty(2, 5, kv_heads, width, device=DEVICE)) for _ in range(2))
    q = rope_store(qkv, positions, slots, table, plain, plain.clone(), num_heads, own=own)
    stored = slots[slots >= 0].long()
    assert torch.equal(plain.index_select(1, stored), own[0][slots >= 0].transpose(0, 1))
    alone = rope_store(qkv, positions, slots, table, partly, partly.clone(), num_heads, stored=2)
    assert torch.equal(alone, q)
    assert torch.equal(partly[:, slots[:2].long()], plain[:, slots[:2].long()])
    assert not partly[:, slots[2:].clamp(min=0).long()].any()
    cache = packed_cache("int4", heads, 4, torch.float32)
    form = KernelForm.of(cache.codec, width)
    rope_pack(qkv, positions, slots, table, *sides_of(cache), form, num_heads, own=packed_own)
    for got, want in zip(packed_own, own, strict=True):
        assert torch.equal(got, want)


IDS = tuple((i * 37 + 11) % 500 for i in range(40))
GROWING = [IDS[20:35], IDS[5:20], IDS[:19]]  # two will need a block more while the third holds the last
ALIKE = [IDS[:16], IDS[:19], IDS[20:34]]  # two begin with the same window


@pytest.fixture
def unsplit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One multiprocessor has enough to do: contexts are not cut, and less is interpreted."""
    monkeypatch.setattr("engine.gpu.attention.backend.INTERPRETED_PROCESSORS", 1)


def serve(prompts: list[tuple[int, ...]], config: EngineConfig, run_dir: Path, blocks: int) -> Engine:
    asked = [RequestSpec(request_id=str(i), prompt_token_ids=p, max_tokens=5) for i, p in enumerate(prompts)]
    prepared = prepare(make_spec(config, asked))
    prepared = replace(prepared, pool=replace(prepared.pool, taken=Room(blocks, 3)))
    with Recorder(run_dir, config.recording, clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    engine.served = [r.token_ids for r in prepared.requests]
    return engine


def settings(asked: dict, backend: str, **changes) -> EngineConfig:
    values = {
        "model": "random:tiny",
        "device": str(DEVICE),
        "dtype": "float32",
        "block_size": 16,
        "kv_blocks": 12,
        "max_num_seqs": 3,
        "max_model_len": 64,
        "attention_backend": backend,
        "cuda_graphs": False,
        "overlap": "off",
        "kv_quantization": KVQuantization(**asked),
        "chunked_prefill": ChunkedPrefill(token_budget=20),
        "sampling": Sampling(ignore_eos=True),
        "check_integrity": True,
        "recording": "off",
    }
    return EngineConfig(**values | changes)


@pytest.mark.rare
def test_graphs_overlap_and_preemption_change_no_token_over_windows(telling, unsplit, tmp_path: Path):
    plain = serve(GROWING, settings(KIVI, "gathered"), tmp_path / "plain", 12)
    changes = {"cuda_graphs": True, "overlap": "on"}
    kernels = serve(GROWING, settings(KIVI, "triton", **changes), tmp_path / "kernels", 5)
    assert kernels.served == plain.served
    assert kernels.totals.preemptions > plain.totals.preemptions == 0
    assert kernels.executor.graphs is not None
    exact = serve(GROWING, settings(KIVI, "gathered", kv_quantization=None), tmp_path / "exact", 12)
    assert plain.served != exact.served, "nothing that was read from windows mattered"


@pytest.mark.rare
def test_guesses_and_sharing_change_no_token_over_windows(
    telling, unsplit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked = KIVI | {"key_bits": 4}
    plain = serve(ALIKE, settings(asked, "gathered"), tmp_path / "plain", 12)

    def half_right(self: PromptLookup, requests: list[Request], lengths: list[int]) -> list[Draft]:
        drafts = []
        for request, length in zip(requests, lengths, strict=True):
            known, right = len(request.token_ids), (request.index + len(request.token_ids)) % 4
            truth = plain.served[request.index][known : known + length]
            drafts.append(Draft([t if i < right else (t + 1) % 200 for i, t in enumerate(truth)]))
        return drafts

    monkeypatch.setattr(PromptLookup, "propose", half_right)
    changes = {"speculation": Speculation(control="fixed", k=GUESSES), "prefix_sharing": PrefixSharing()}
    kernels = serve(ALIKE, settings(asked, "triton", **changes), tmp_path / "kernels", 12)
    assert kernels.served == plain.served
    assert kernels.totals.prefix_hit_tokens > 0
    assert 0 < kernels.totals.accepted_tokens < kernels.totals.draft_tokens


@pytest.mark.parametrize("asked", [KIVI, {"codec": "int4"}], ids=["kivi", "int4"])
@pytest.mark.sampled(2)
def test_an_exact_prefill_has_the_tokens_of_the_plain_path(asked: dict, telling, unsplit, tmp_path: Path):
    asked = asked | {"prefill": "exact"}
    plain, kernels = (
        serve(ALIKE, settings(asked, backend), tmp_path / backend, 12) for backend in ("gathered", "triton")
    )
    assert kernels.served == plain.served
    stored = serve(ALIKE, settings(asked | {"prefill": "stored"}, "gathered"), tmp_path / "stored", 12)
    assert plain.served != stored.served, "nothing that was read exactly mattered"


def test_no_codec_and_no_prefill_is_refused_by_the_kernels():
    for asked in (*CODECS.values(), {"codec": "int8"}, {"codec": "int4"}, {"codec": "fp8"}):
        for exact in (True, False):
            check_reads("triton", make_codec(KVQuantization(**asked), 64, 16), exact_prefill=exact)
