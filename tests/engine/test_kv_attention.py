"""Attention over packed caches against attention written out: what a token sees depends on its place alone."""

from __future__ import annotations

import pytest
import torch

from engine.attention.groups import GroupRule
from engine.backends import make_attention
from engine.batch import build_batch
from engine.config import RequestSpec, Sampling
from engine.config.errors import EngineError
from engine.config.techniques import KVQuantization
from engine.kv.codecs import Codec, make_codec
from engine.kv.pool import BlockPool
from engine.kv.quantized import QuantizedCache
from engine.request import Request
from engine.scheduling.plan import Plan, Slice

SIZE = 8
CODECS = {
    "int8": {"codec": "int8"},
    "int4": {"codec": "int4"},
    "int4 in groups": {"codec": "int4", "group": 16},
    "int4, 4 bits a key": {"codec": "int4", "wide_keys": False},
    "fp8": {"codec": "fp8"},
    "kivi": {"codec": "kivi", "residual": 16},
    "kivi, 4 and 2 bits": {"codec": "kivi", "residual": 32, "key_bits": 4, "group": 8},
    "kivi, wrong axes": {"codec": "kivi", "residual": 16, "key_axis": "token", "value_axis": "channel"},
    "kivi, nothing exact": {"codec": "kivi", "residual": 0, "key_axis": "token"},
}
HEADS = [(4, 4, 16), (9, 3, 64), (4, 2, 80)]
STEPS = {
    "at once": [[50], [9], [33]],
    "in chunks": [[7, 20, 23], [9], [16, 16, 1]],
    "in chunks that end with windows": [[16, 16, 16, 2], [8, 1], [32, 1]],
    "token by token": [[1] * 50, [1] * 9, [1] * 33],
    "a prompt, then decodes": [[40, *[1] * 10], [3, *[1] * 6], [30, 1, 1, 1]],
}


def sees(codec: Codec, x: torch.Tensor, side: int, place: int, scale: torch.Tensor) -> torch.Tensor:
    """What the token at ``place`` sees of keys or values x [tokens, kv_heads, head_dim]: [kv_heads, place + 1, head_dim]."""
    x = x[: place + 1].transpose(0, 1)
    scale = scale[side][:, None, None] if codec.fixed_scales else None
    if not codec.window:
        return codec.round_trip(x, side, scale)
    begin = place // codec.window * codec.window
    windows = [codec.round_trip(part, side) for part in x[:, :begin].split(codec.window, 1) if begin]
    return torch.cat([*windows, x[:, begin:]], 1)


def expected(
    codec: Codec, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, place: int, scale: torch.Tensor
) -> torch.Tensor:
    keys, values = (sees(codec, x, side, place, scale).double() for side, x in enumerate((k, v)))
    group = q.shape[0] // keys.shape[0]
    out = [
        torch.softmax(keys[h // group] @ q[h].double() / q.shape[1] ** 0.5, 0) @ values[h // group]
        for h in range(q.shape[0])
    ]
    return torch.cat(out)


@torch.inference_mode()
def run(backend: str, settings: dict, heads, steps: list[list[int]]) -> float:
    """Largest error over all tokens of three sequences that are computed side by side, in these steps."""
    num_heads, kv_heads, width = heads
    codec = make_codec(KVQuantization(**{"rotate": False} | settings), width, SIZE)
    torch.manual_seed(1)
    lengths = [sum(parts) for parts in steps]
    data = [tuple(torch.randn(n, h, width) for h in (num_heads, kv_heads, kv_heads)) for n in lengths]
    for _, k, _ in data:
        k[..., 5] *= 10
    pool = BlockPool(sum(-(-n // SIZE) for n in lengths) + 3, SIZE)
    pool.free(pool.allocate(3, 99, 0), 99)
    cache = QuantizedCache(
        codec, 2, kv_heads, width, pool.num_blocks, SIZE, torch.float32, torch.device("cpu"), tails=3
    )
    scale = torch.rand(2, kv_heads) / 20 + 0.05
    if codec.fixed_scales:
        cache.set_scales(torch.stack((scale + 1, scale)))
    attention = make_attention(backend, cache, num_heads, kv_heads, width)
    requests = []
    for index, n in enumerate(lengths):
        request = Request(index, RequestSpec(request_id=str(index), prompt="-"), [0] * n, Sampling(), 1)
        request.block_table = pool.allocate(pool.blocks_for(n), index, 0)[::-1]
        request.tail = 2 - index
        requests.append(request)
    done, worst = [0] * len(lengths), 0.0
    for turn in range(max(map(len, steps))):
        slices = [
            Slice(requests[i], parts[turn], done[i], turn == 0) for i, parts in enumerate(steps) if turn < len(parts)
        ]
        order = sorted(slices, key=lambda s: (s.tokens > 1, s.context_len if s.tokens == 1 else 0))
        batch = build_batch(Plan(slices), SIZE, torch.device("cpu"))
        rows = [slice(s.context_len, s.context_len + s.tokens) for s in order]
        q, k, v = (
            torch.cat([data[s.request.index][side][r] for s, r in zip(order, rows, strict=True)]) for side in range(3)
        )
        attention.begin(batch.attention)
        out, row = attention.forward(1, q, k, v), 0
        for part in order:
            own = data[part.request.index]
            for place in range(part.context_len, part.context_len + part.tokens):
                want = expected(codec, own[0][place], own[1], own[2], place, scale)
                worst = max(worst, float((out[row].double() - want).abs().max()))
                row += 1
            done[part.request.index] += part.tokens
    return worst


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("name", CODECS)
def test_a_token_sees_what_its_place_says(name: str, heads, steps) -> None:
    assert run("gathered", CODECS[name], heads, steps) < 2e-4


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("name", ["int8", "int4", "fp8", "kivi, nothing exact"])
def test_the_reference_reads_what_is_stored(name: str, steps) -> None:
    assert run("reference", CODECS[name], (9, 3, 64), steps) < 2e-4


@pytest.mark.parametrize("steps", STEPS.values(), ids=STEPS)
@pytest.mark.parametrize("name", ["int8", "int4", "int4 in groups", "int4, 4 bits a key", "fp8"])
def test_native_kernels_read_what_is_stored(name: str, steps) -> None:
    assert run("native", CODECS[name], (9, 3, 64), steps) < 2e-4


@pytest.mark.parametrize("codec", ["int8", "int4"])
def test_rotating_channels_back_and_forth_changes_only_what_is_lost(codec: str) -> None:
    """With a codec that loses nothing much, rotated attention is attention; the rotation itself is exact."""
    rotated_error = run_against_exact({"codec": codec, "rotate": True})
    assert rotated_error < {"int8": 0.03, "int4": 0.5}[codec]
    assert rotated_error < run_against_exact({"codec": codec})  # keys here have an outlier channel


@torch.inference_mode()
def run_against_exact(settings: dict) -> float:
    """Root mean square error of one chunk's output against unquantised attention."""
    codec = make_codec(KVQuantization(**{"rotate": False} | settings), 64, SIZE)
    torch.manual_seed(2)
    q, k, v = torch.randn(64, 4, 64), torch.randn(64, 2, 64), torch.randn(64, 2, 64)
    k[..., 7] *= 20
    cache = QuantizedCache(codec, 1, 2, 64, 8, SIZE, torch.float32, torch.device("cpu"))
    attention = make_attention("gathered", cache, 4, 2, 64)
    request = Request(0, RequestSpec(request_id="0", prompt="-"), [0] * 64, Sampling(), 1)
    request.block_table = list(range(8))
    attention.begin(build_batch(Plan([Slice(request, 64, 0, True)]), SIZE, torch.device("cpu")).attention)
    out = attention.forward(0, q, k, v).view(64, 4, 64)
    keys, values = (x.repeat_interleave(2, 1).transpose(0, 1)[None] for x in (k, v))
    want = torch.nn.functional.scaled_dot_product_attention(q.transpose(0, 1)[None], keys, values, is_causal=True)
    return float((out - want[0].transpose(0, 1)).square().mean().sqrt())


@pytest.mark.parametrize(
    ("settings", "rule"),
    [({"codec": "int4"}, None), ({"codec": "int4"}, GroupRule()), ({"codec": "kivi", "residual": 16}, None)],
    ids=str,
)
def test_an_exact_prefill_sees_its_own_chunk_as_it_was(settings, rule: GroupRule | None) -> None:
    codec = make_codec(KVQuantization(**{"rotate": False} | settings), 64, SIZE)
    torch.manual_seed(2)
    q, k, v = torch.randn(64, 4, 64), torch.randn(64, 2, 64), torch.randn(64, 2, 64)
    keys, values = (x.repeat_interleave(2, 1).transpose(0, 1)[None] for x in (k, v))
    want = torch.nn.functional.scaled_dot_product_attention(q.transpose(0, 1)[None], keys, values, is_causal=True)
    outs, caches = [], []
    for exact in (True, False):
        cache = QuantizedCache(codec, 1, 2, 64, 8, SIZE, torch.float32, torch.device("cpu"), tails=1)
        attention = make_attention("gathered", cache, 4, 2, 64, exact_prefill=exact, rule=rule)
        request = Request(0, RequestSpec(request_id="0", prompt="-"), [0] * 64, Sampling(), 1)
        request.block_table, request.tail = list(range(8)), 0
        attention.begin(build_batch(Plan([Slice(request, 60, 0, True)]), SIZE, torch.device("cpu")).attention)
        outs.append(attention.forward(0, q[:60], k[:60], v[:60]).view(60, 4, 64))
        caches.append(cache)
    assert torch.allclose(outs[0], want[0].transpose(0, 1)[:60], atol=1e-5)
    assert not torch.allclose(outs[1], want[0].transpose(0, 1)[:60], atol=1e-3)
    # what is stored is the same, whatever was seen
    assert torch.equal(caches[0].packed_keys[0].codes, caches[1].packed_keys[0].codes)
    assert torch.equal(caches[0].tail_keys[0], caches[1].tail_keys[0])


@pytest.mark.parametrize("name", CODECS)
def test_a_copied_block_reads_like_its_source(name: str) -> None:
    codec = make_codec(KVQuantization(**CODECS[name]), 16, SIZE)
    cache = QuantizedCache(codec, 2, 2, 16, 6, SIZE, torch.float32, torch.device("cpu"), tails=1)
    if codec.fixed_scales:
        cache.set_scales(torch.full((2, 2, 2), 0.1))
    torch.manual_seed(0)
    for layer in range(2):
        cache.store(layer, torch.arange(SIZE * 3, SIZE * 4), torch.randn(SIZE, 2, 16), torch.randn(SIZE, 2, 16))
    cache.copy_block(3, 5)
    for rows in (*cache.key_rows, *cache.value_rows):
        source, copy = rows.index_select(0, torch.tensor([3, 9])), rows.index_select(0, torch.tensor([5, 11]))
        assert torch.equal(source, copy)
        assert source.abs().sum() > 0


def test_a_smaller_codec_takes_the_bytes_it_says() -> None:
    for settings in CODECS.values():
        codec = make_codec(KVQuantization(**{"rotate": False} | settings), 64, SIZE)
        cache = QuantizedCache(codec, 2, 3, 64, 10, SIZE, torch.float32, torch.device("cpu"), tails=2)
        held = [rows.codes.nbytes + (rows.meta.nbytes if rows.meta is not None else 0) for rows in
                (*cache.packed_keys, *cache.packed_values)]  # fmt: skip
        tails = [tail.nbytes for tail in (*cache.tail_keys, *cache.tail_values)]
        assert cache.nbytes == sum(held) + sum(tails)
        assert cache.tail_bytes == sum(tails)


@pytest.mark.parametrize(
    ("backend", "settings"),
    [
        ("reference", {"codec": "kivi"}),
        ("reference", {"prefill": "exact"}),
        ("native", {"codec": "kivi"}),
        ("native", {"prefill": "exact"}),
    ],
)
def test_a_backend_that_cannot_read_a_codec_refuses_by_name(backend: str, settings) -> None:
    from engine.attention.packed import check_reads

    asked = KVQuantization(**settings)
    with pytest.raises(EngineError) as caught:
        check_reads(backend, make_codec(asked, 64, 16), exact_prefill=asked.prefill == "exact")
    assert caught.value.field == "attention_backend"
    assert caught.value.value == backend
