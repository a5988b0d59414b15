"""Shared-prefix attention gives what ordinary attention gives, and says what it did not read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.attention.base import AttentionBackend
from engine.attention.gathered import GatheredAttention
from engine.attention.groups import GroupRule, find_pieces
from engine.attention.reference import ReferenceAttention
from engine.attention.shared import SharedPrefixAttention, attend
from engine.batch import build_batch
from engine.config import ConfigError, EngineConfig, PrefixSharing, RequestSpec, Sampling, apply_overrides
from engine.kv.cache import KVCache
from engine.request import Request
from engine.scheduling.plan import Plan, Slice
from tests.engine.serving import Verdict, check_greedy, make_spec, serve
from tests.engine.test_prefix_tokens import tiny  # noqa: F401
from tests.examples import examples

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
HEADS = [(4, 4, 16), (9, 3, 64), (8, 1, 32)]
SIZE = 4
# per decoding row: its whole blocks before the one it writes, and tokens in the one it writes
BATCHES = {
    "one prefix": [([1, 2, 3, 10 + i], 1 + i % SIZE) for i in range(8)],
    "no prefix": [([10 + 3 * i, 11 + 3 * i, 12 + 3 * i], 2) for i in range(5)],
    "nothing but the prefix": [([1, 2, 3], 1) for _ in range(6)],
    "two groups and a loner": [
        *(([1, 2, 10 + i], 3) for i in range(4)),
        *(([5, 6, 7, 8], 1 + i) for i in range(4)),
        ([30], 1),
    ],
    "a tree": [
        *(([1, 2, 3, 4, 10 + i], 2) for i in range(3)),
        *(([1, 2, 3, 5], 1) for i in range(3)),
        *(([1, 20 + i], 4) for i in range(3)),
        ([], 1),
    ],
    "very different lengths": [([1, *range(10, 10 + n)], 1) for n in (0, 1, 5, 20)],
}


def decode_plan(rows: list[tuple[list[int], int]], with_chunk: bool, size: int = SIZE) -> Plan:
    """Decodes whose tables share blocks as given; the block each writes is its own."""
    slices = []
    for index, (blocks, written) in enumerate(rows):
        context = len(blocks) * size + written - 1
        spec = RequestSpec(request_id=str(index), prompt="-")
        request = Request(index, spec, [0] * (context + 1), Sampling(), 1)
        request.block_table = [*blocks, 40 + index]
        slices.append(Slice(request, 1, context, False))
    if with_chunk:
        request = Request(99, RequestSpec(request_id="chunk", prompt="-"), [0] * 3 * size, Sampling(), 1)
        request.block_table = [1, 2, 60]
        slices.append(Slice(request, size, 2 * size, True))
    return Plan(slices)


def outputs(rows, dtype, heads, with_chunk: bool, ordinary: type[AttentionBackend] = ReferenceAttention, **find):
    """(shared, ordinary, tokens spared) for one layer over the same random cache."""
    num_heads, kv_heads, width = heads
    batch = build_batch(decode_plan(rows, with_chunk), SIZE, torch.device("cpu"))
    total = batch.token_ids.numel()
    torch.manual_seed(0)
    content = torch.randn(1, 2, kv_heads, 64, SIZE, width)
    q, k, v = (
        torch.randn(total, num_heads, width),
        torch.randn(total, kv_heads, width),
        torch.randn(total, kv_heads, width),
    )
    results, spared = [], []
    for backend, extra in ((SharedPrefixAttention, {"rule": GroupRule(**find)}), (ordinary, {})):
        cache = KVCache(1, kv_heads, width, 64, SIZE, dtype, torch.device("cpu"))
        cache.data.copy_(content)
        attention = backend(cache, num_heads, kv_heads, width, **extra)
        attention.begin(batch.attention)
        results.append(attention.forward(0, q.to(dtype), k.to(dtype), v.to(dtype)).float())
        spared.append(attention.spared_tokens)
    assert spared[1] == 0
    return (*results, spared[0])


@pytest.mark.parametrize("with_chunk", [False, True], ids=["decodes", "with a chunk"])
@pytest.mark.parametrize("tree", [False, True], ids=["one level", "tree"])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("heads", HEADS, ids=str)
@pytest.mark.parametrize("rows", [r for n, r in BATCHES.items() if n != "no prefix"])
def test_it_equals_ordinary_attention(rows, heads, dtype: torch.dtype, tree: bool, with_chunk: bool):
    shared, ordinary, _ = outputs(rows, dtype, heads, with_chunk, tree=tree)
    tolerance = TOLERANCE[dtype]
    assert ((shared - ordinary).abs() <= tolerance * (1 + ordinary.abs())).all()


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_where_nothing_is_shared_it_is_gathered_attention_to_the_bit(dtype: torch.dtype):
    shared, ordinary, _ = outputs(BATCHES["no prefix"], dtype, (9, 3, 64), True, ordinary=GatheredAttention)
    assert torch.equal(shared, ordinary)


@pytest.mark.parametrize(
    ("name", "tree", "spared_blocks"),
    [
        ("one prefix", False, 7 * 3),
        ("no prefix", True, 0),
        ("two groups and a loner", False, 3 * 2 + 3 * 4),
        ("a tree", False, 2 * 4 + 2 * 4 + 2 * 1),
        ("a tree", True, 8 * 1 + 5 * 2 + 2 * 1 + 2 * 1),
    ],
)
def test_what_is_not_read_again_is_counted(name: str, tree: bool, spared_blocks: int):
    _, _, spared = outputs(BATCHES[name], torch.float32, (4, 4, 16), False, tree=tree)
    assert spared == spared_blocks * SIZE


@pytest.mark.parametrize("tree", [False, True], ids=["one level", "tree"])
@pytest.mark.parametrize("name", ["one prefix", "two groups and a loner", "a tree"])
def test_shared_blocks_are_read_once(name: str, tree: bool, monkeypatch: pytest.MonkeyPatch):
    """Keys handed to the products, padding left out: what ordinary attention reads less what is spared."""
    read = []

    def counting(q, keys, values, mask):
        visible = keys.shape[1] * keys.shape[2] if mask is None else int((mask == 0).sum()) * keys.shape[0]
        read.append(visible if mask is not None else keys.shape[0] * visible)
        return attend(q, keys, values, mask)

    monkeypatch.setattr("engine.attention.shared.attend", counting)
    heads = (4, 2, 16)
    shared, ordinary, spared = outputs(BATCHES[name], torch.float32, heads, False, tree=tree)
    everything = sum(len(blocks) * SIZE + written for blocks, written in BATCHES[name])
    assert sum(read) == heads[1] * (everything - spared)
    assert (shared - ordinary).abs().max() <= TOLERANCE[torch.float32]


def test_small_groups_and_short_prefixes_are_left_alone():
    paths = [list(blocks) for blocks, _ in BATCHES["two groups and a loner"]]
    pieces = find_pieces(paths, tree=False, min_rows=2, min_blocks=3)
    assert [(sorted(p.rows), p.blocks) for p in pieces] == [([4, 5, 6, 7], (5, 6, 7, 8))]
    assert find_pieces(paths, tree=False, min_rows=5, min_blocks=1) == []


@given(
    st.lists(st.lists(st.integers(0, 2), max_size=6), min_size=1, max_size=10),
    st.booleans(),
    st.integers(2, 4),
    st.integers(1, 3),
)
@settings(max_examples=examples(150), deadline=None)
def test_pieces_lie_end_to_end_and_hold_what_their_rows_hold(names, tree: bool, min_rows: int, min_blocks: int):
    # a block's number stands for its whole prefix, as in a pool
    numbers: dict[tuple, int] = {}
    paths = [[numbers.setdefault(tuple(row[: i + 1]), len(numbers)) for i in range(len(row))] for row in names]
    covered = [0] * len(paths)
    pieces = find_pieces(paths, tree=tree, min_rows=min_rows, min_blocks=min_blocks)
    for piece in sorted(pieces, key=lambda p: p.first):
        assert len(piece.rows) >= min_rows
        assert len(piece.blocks) >= min_blocks
        for row in piece.rows:
            assert piece.first == covered[row]
            assert tuple(paths[row][piece.first : piece.first + len(piece.blocks)]) == piece.blocks
            covered[row] += len(piece.blocks)


def test_log_sum_exp_is_natural_and_float32():
    q, k, v = torch.randn(2, 3, 5, 16), torch.randn(2, 3, 40, 16), torch.randn(2, 3, 40, 16)
    result, lse = attend(q, k, v, None)
    scores = (q.double() @ k.double().transpose(-1, -2)) / 4
    assert lse.dtype == torch.float32
    assert (lse - scores.logsumexp(-1)).abs().max() < 1e-5
    assert (result - scores.softmax(-1) @ v.double()).abs().max() < 1e-5


@pytest.mark.parametrize("mode", ["one-level", "tree"])
def test_the_engine_gives_the_same_tokens_with_it(mode: str, tiny, tmp_path: Path):  # noqa: F811
    model, directory = tiny
    stem = tuple(range(8, 50))
    asked = [
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=stem + tuple(range(100 + 40 * (i % 2), 120 + 40 * (i % 2))) + (60 + i,),
            max_tokens=16,
        )
        for i in range(7)
    ]
    config = EngineConfig(
        model=str(directory), device="cpu", dtype="float32", threads=1, block_size=4, kv_blocks=120,
        prefix_sharing=PrefixSharing(attention=mode, min_group=2, min_prefix_tokens=8),
        sampling=Sampling(ignore_eos=True), check_integrity=True,
    )  # fmt: skip
    verdict = sum((check_greedy(model, r) for r in serve(make_spec(config, asked), tmp_path)), Verdict())
    assert (verdict.tokens, verdict.ties) == (7 * 16, 0)


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"prefix_sharing.attention": "tree", "prefix_sharing.min_prefix_tokens": "8"}, "block_size", "less than one block"),
        ({"prefix_sharing.attention": "tree", "prefix_sharing.share_memory": "off"}, "prefix_sharing", "needs share_memory"),
        ({"prefix_sharing.attention": "tree", "attention_backend": "reference"}, "prefix_sharing", "gathered or triton, not reference"),
        ({"prefix_sharing.min_group": "1"}, "prefix_sharing.min_group", "too small"),
    ],
)  # fmt: skip
def test_settings_that_cannot_work_are_refused(changes: dict[str, str], field: str, words: str):
    with pytest.raises(ConfigError, match=words) as caught:
        apply_overrides(EngineConfig(), changes)
    assert caught.value.field == field
