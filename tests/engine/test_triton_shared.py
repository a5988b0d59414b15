"""Shared prefixes under the custom kernels: the values of ordinary attention, every place read as often as it should be, no token changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.attention.groups import GroupRule
from engine.attention.reference import ReferenceAttention
from engine.batch import build_batch
from engine.config import ChunkedPrefill, EngineConfig, PrefixSharing, RequestSpec, Sampling
from engine.gpu.attention import TritonAttention
from engine.gpu.attention.configs import Tile, stretch_for
from engine.gpu.attention.prefixes import PrefixGroups, PrefixPasses, WorkSize
from engine.gpu.batch import SharedRows
from engine.gpu.graphs import Graphs
from engine.gpu.ragged import RaggedBuilder
from engine.gpu.tables import BlockTables
from engine.kv.cache import KVCache
from engine.scheduling.plan import Plan
from engine.start.build import make_cache
from engine.start.prepare import prepare
from engine.start.warmup import warm_up
from telemetry.spool import SpoolReader, spool_path
from tests.engine.serving import make_spec, serve
from tests.engine.test_graphs import make_request
from tests.engine.test_shared_attention import BATCHES, decode_plan
from tests.engine.test_triton_packed import USUAL, packed_cache
from tests.examples import examples

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 5e-3}
BLOCKS = 64  # of the pool
LONG = {
    "more rows than a tile, more places than a stretch": [([*range(1, 12), 20 + i % 3], 1 + i) for i in range(11)],
    "one row's suffix is the token it writes": [([1, 2, 3, 4], 1), *(([1, 2, 3, 4, 10 + i], 9) for i in range(3))],
}


def slots_in_use(plan: Plan, size: int) -> torch.Tensor:
    used = torch.zeros(BLOCKS * size, dtype=torch.bool, device=DEVICE)
    for part in plan.slices:
        for place in range(part.context_len + part.tokens):
            used[part.request.block_table[place // size] * size + place % size] = True
    return used


def both(
    rows, heads, dtype: torch.dtype, *, size: int = 16, chunk: bool = False, rule: GroupRule, cache=None, monkeypatch
):
    """(ordinary, shared, places spared): the reference, and the kernels where whatever nobody may read is not a number."""
    num_heads, kv_heads, width = heads
    torch.manual_seed(width + len(rows))
    plan = decode_plan(rows, chunk, size)
    tokens = sum(part.tokens for part in plan.slices)
    q, k, v = (torch.randn(tokens, count, width).to(DEVICE, dtype) for count in (num_heads, kv_heads, kv_heads))
    if cache is None:
        cache = KVCache(2, kv_heads, width, BLOCKS, size, dtype, DEVICE)
        cache.data.copy_(torch.randn(cache.data.shape))
    reference = ReferenceAttention(cache, *heads)
    reference.begin(build_batch(plan, size, DEVICE).attention)
    want = reference.forward(1, q, k, v)
    unused = ~slots_in_use(plan, size)
    if cache.codec is None:
        cache.data.view(*cache.data.shape[:3], -1, width)[:, :, :, unused] = float("nan")
    else:
        for packed in (cache.packed_keys[1], cache.packed_values[1]):
            packed.codes.flatten(1, 2)[:, unused] = 127
            if packed.meta is not None:
                packed.meta.flatten(1, 2)[:, unused] = float("nan")
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *a, **o: poisoned(empty(*a, **o)))
    kernels = TritonAttention(cache, *heads, rule=rule)
    kernels.begin(RaggedBuilder(size, DEVICE, kernels.passes).build(plan).attention)
    out = kernels.forward(1, q, k, v)
    monkeypatch.undo()
    return want.float(), out.float(), kernels.spared_tokens


def poisoned(fresh: torch.Tensor) -> torch.Tensor:
    return fresh.fill_(float("nan")) if fresh.is_floating_point() else fresh


def close(out: torch.Tensor, want: torch.Tensor, tolerance: float) -> bool:
    return bool(((out - want).abs() <= tolerance * (1 + want.abs())).all())


@pytest.mark.parametrize(("tree", "chunk"), [(False, False), (True, True)], ids=["one level", "tree, with a chunk"])
@pytest.mark.parametrize("rows", [r for n, r in {**BATCHES, **LONG}.items() if n != "no prefix"])
@pytest.mark.sampled(3)
def test_it_equals_ordinary_attention(rows, tree: bool, chunk: bool, monkeypatch: pytest.MonkeyPatch):
    want, out, spared = both(
        rows, (4, 2, 16), torch.float32, chunk=chunk, rule=GroupRule(tree), monkeypatch=monkeypatch
    )
    assert spared > 0
    assert close(out, want, 1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("heads", [(4, 1, 80), (9, 3, 64), (3, 1, 96), (16, 1, 128), (5, 1, 256), (2, 2, 64)], ids=str)
@pytest.mark.sampled(3)
def test_every_head_size_and_group_equals_ordinary_attention(
    heads, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
):
    want, out, spared = both(BATCHES["a tree"], heads, dtype, rule=GroupRule(tree=True), monkeypatch=monkeypatch)
    assert spared > 0
    assert close(out, want, TOLERANCE[dtype])


@pytest.mark.parametrize("size", [4, 24, 64])
def test_every_block_size_equals_ordinary_attention(size: int, monkeypatch: pytest.MonkeyPatch):
    rows = [([1, 2, 3, 10 + i], 1 + i) for i in range(4)]
    want, out, _ = both(rows, (6, 2, 64), torch.float32, size=size, rule=GroupRule(), monkeypatch=monkeypatch)
    assert close(out, want, 1e-5)


@pytest.mark.parametrize("name", USUAL)
def test_packed_caches_are_read_as_the_reference_reads_them(name: str, monkeypatch: pytest.MonkeyPatch):
    heads = (4, 2, 64)
    cache = packed_cache(name, heads, BLOCKS, torch.float32)
    every = torch.arange(BLOCKS * 16, device=DEVICE)
    cache.store(1, every, *(torch.randn(BLOCKS * 16, 2, 64, device=DEVICE) for _ in "kv"))
    rule = GroupRule(tree=True)
    want, out, spared = both(BATCHES["a tree"], heads, torch.float32, rule=rule, cache=cache, monkeypatch=monkeypatch)
    assert spared > 0
    assert close(out, want, 1e-4)


@pytest.mark.parametrize("name", BATCHES)
@pytest.mark.parametrize("tree", [False, True], ids=["one level", "tree"])
def test_what_is_spared_is_what_the_plain_path_spares(name: str, tree: bool):
    paths = [blocks for blocks, _ in BATCHES[name]]
    rule = GroupRule(tree)
    spared = sum(piece.spared_blocks for piece in rule.find(paths))
    assert sum(p.spared_blocks for p in rule.find([np.array(blocks, np.int32) for blocks in paths])) == spared
    kernels = TritonAttention(KVCache(1, 1, 16, BLOCKS, 4, torch.float32, DEVICE), 1, 1, 16, rule=rule)
    batch = RaggedBuilder(4, DEVICE, kernels.passes).build(decode_plan(BATCHES[name], False))
    kernels.begin(batch.attention)
    assert kernels.spared_tokens == 4 * spared
    assert (batch.attention.shared is not None) == (spared > 0)


# ---------------------------------------------------------------------- the host's plan


def make_passes(
    rule: GroupRule, group: int = 4, kv_heads: int = 2, size: int = 16, processors: int = 132
) -> PrefixPasses:
    return PrefixPasses(
        rule,
        block_size=size,
        group=group,
        kv_heads=kv_heads,
        element_bytes=2,
        padded_dim=128,
        processors=processors,
    )


@given(data=st.data())
@settings(max_examples=examples(100), deadline=None)
def test_every_place_of_a_prefix_is_one_item_of_each_of_its_rows(data: st.DataObject):
    """Whatever is shared and however it is cut: a row's items cover its prefixes end to end, through a table that holds the same
    blocks, and leave their results next to each other, where nobody else leaves any."""
    rule = GroupRule(data.draw(st.booleans(), label="tree"), data.draw(st.integers(2, 4)), data.draw(st.integers(1, 2)))
    stems = data.draw(st.lists(st.lists(st.integers(0, 1), max_size=60), min_size=1, max_size=4), label="stems")
    numbers: dict[tuple[int, ...], int] = {}
    paths = []
    for index in range(data.draw(st.integers(2, 40), label="rows")):
        stem = data.draw(st.sampled_from(stems))
        names = [*stem[: data.draw(st.sampled_from([len(stem), len(stem) // 2]))], *([100 + index] * (index % 3))]
        paths.append([numbers.setdefault(tuple(names[: i + 1]), len(numbers)) for i in range(len(names))])
    pieces = rule.find([np.array(path, np.int32) for path in paths])
    if not pieces:
        return
    size, group = data.draw(st.sampled_from([16, 64])), data.draw(st.sampled_from([1, 3, 16]))
    passes = make_passes(rule, group=group, size=size, processors=data.draw(st.sampled_from([1, 16, 132])))
    groups = PrefixGroups(passes, pieces, len(paths))
    padded = len(paths) + data.draw(st.integers(0, 9), label="padding")
    work = groups.work(padded)
    arrays, tile = work.arrays, passes.tile(padded)
    items = arrays["items"].reshape(-1, 5).tolist()
    seen: list[list[tuple[int, int, int]]] = [[] for _ in paths]
    for first, count, start, stop, part in items:
        assert 0 < count <= tile.block_m // group
        assert 0 <= start < stop
        rows = arrays["members"][first : first + count].tolist()
        for row in rows:
            assert paths[row][start // size : stop // size] == paths[rows[0]][start // size : stop // size]
            seen[row].append((start, stop, part))
    taken = set()
    for row, spans in enumerate(seen):
        spans.sort()
        at = 0
        for number, (start, stop, part) in enumerate(spans):
            assert (start, part) == (at, number)
            at = stop
        assert at == groups.covered[row] <= len(paths[row]) * size
        assert len(spans) == arrays["shared_parts"][row]
        begin = int(arrays["part_starts"][row])
        places = range(begin, begin + len(spans) + passes.segments(padded))
        assert taken.isdisjoint(places)
        taken.update(places)
    assert max(taken) < work.extent.parts
    if not rule.tree:
        assert groups.fits(padded)


def test_a_prefix_is_read_once_where_its_rows_fit_a_tile_and_fills_the_device():
    passes = make_passes(GroupRule(), group=4, kv_heads=8)
    pieces = passes.rule.find([np.array([*range(256), 1000 + i], np.int32) for i in range(32)])
    items = PrefixGroups(passes, pieces, 32).work(32).arrays["items"].reshape(-1, 5)
    assert (items[:, 1] == 32).all()
    assert int((items[:, 3] - items[:, 2]).sum()) == 4096
    assert len(items) * 8 >= 120  # programs, for 132 processors


def test_stretches_are_no_shorter_than_their_results_are_worth():
    assert stretch_for(Tile(128, 64, 8, 3), longest=64, wanted=1) == 4
    assert stretch_for(Tile(16, 64, 4, 3), longest=64, wanted=1) == 1
    assert stretch_for(Tile(16, 64, 4, 3), longest=6400, wanted=1) == 100


def test_groups_are_found_anew_only_when_they_may_have_changed(monkeypatch: pytest.MonkeyPatch):
    passes, calls = make_passes(GroupRule(), size=4), []
    find = GroupRule.find
    monkeypatch.setattr(GroupRule, "find", lambda rule, paths: calls.append(paths) or find(rule, paths))
    tables, requests = BlockTables(), [make_request(index) for index in range(2)]

    def groups(*kv_lens: int) -> PrefixGroups | None:
        arrays = [tables.of(r, -(-n // 4)) for r, n in zip(requests, kv_lens, strict=True)]
        return passes.of([tables.version(r) for r in requests], arrays, np.array(kv_lens, np.int32))

    for request in requests:
        request.block_table = [5, 6, 10 + request.index]
    first = groups(9, 10)
    assert first is not None
    assert first.covered.tolist() == [8, 8]
    for request in requests:
        request.block_table.append(20 + request.index)
    assert groups(13, 14) is first
    assert len(calls) == 1
    requests[1].block_table = [5, 7, 11, 21]
    assert groups(13, 14).covered.tolist() == [4, 4]
    assert len(calls) == 2
    assert groups(4, 14) is None  # back in its first block: nothing lies before the one it writes
    assert len(calls) == 3


# ---------------------------------------------------------------------- in the engine

STEM = tuple(range(8, 21))


def iterations(run_dir: Path) -> list[dict]:
    return pa.Table.from_batches([p.batch for p in SpoolReader(spool_path(run_dir, "iteration")).read()]).to_pylist()


def run(run_dir: Path, attention: str, **changes) -> tuple[list[list[int]], list[dict]]:
    """Tokens and iteration rows of four requests behind one prefix, some of which share more."""
    asked = [
        RequestSpec(
            request_id=str(i),
            prompt_token_ids=STEM + tuple(range(100 + 40 * (i % 2), 105 + 40 * (i % 2))) + (60 + i,) * (1 + i),
            max_tokens=4,
        )
        for i in range(4)
    ]
    config: dict = {
        "model": "random:tiny",
        "device": str(DEVICE),
        "dtype": "float32",
        "block_size": 4,
        "kv_blocks": 64,
        "max_num_seqs": 4,
        "max_model_len": 64,
        "prefix_sharing": PrefixSharing(attention=attention, min_group=2, min_prefix_tokens=4),
        "sampling": Sampling(ignore_eos=True),
        "check_integrity": True,
        "attention_backend": "triton",
        "overlap": "off",
    }
    served = serve(make_spec(EngineConfig(**config | changes), asked), run_dir)
    return [r.output_token_ids for r in served], iterations(run_dir)


@pytest.fixture(scope="module")
def ordinary(telling, tmp_path_factory: pytest.TempPathFactory):
    """Without shared-prefix attention, on the plain path."""
    return run(tmp_path_factory.mktemp("plain"), "off", attention_backend="gathered")


def test_the_tokens_depend_on_what_is_attended_to(ordinary):
    tokens, _ = ordinary
    assert len({tuple(output) for output in tokens}) == len(tokens)
    assert all(len(set(output)) > 1 for output in tokens)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(("attention", "overlap"), [("one-level", "off"), ("tree", "on")])
@pytest.mark.sampled(2)
def test_no_token_changes_and_rows_say_what_graph_ran_and_what_was_spared(
    attention: str, overlap: str, ordinary, tmp_path: Path
):
    tokens, plain_rows = ordinary
    out, rows = run(tmp_path / "kernels", attention, cuda_graphs=True, overlap=overlap)
    assert out == tokens
    shared = [row for row in rows if row["kv_bytes_spared"]]
    decodes = [row for row in shared if not row["prefill_tokens"]]
    assert len(decodes) >= 2
    assert all((row["graph_size"] or 0) >= row["decode_tokens"] for row in decodes)
    if overlap == "off":  # the same iterations as on the plain path
        _, gathered = run(tmp_path / "gathered", attention, attention_backend="gathered")
        assert [r["kv_bytes_spared"] for r in rows] == [r["kv_bytes_spared"] for r in gathered]
        assert [r["bytes"] + r["kv_bytes_spared"] for r in rows] == [r["bytes"] for r in plain_rows]


@pytest.mark.rare
def test_prefixes_a_graph_has_no_room_for_run_without_one(ordinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(PrefixPasses, "most", lambda passes, rows: WorkSize(1, 1, 1))
    recorded = []
    replay = Graphs.replay
    monkeypatch.setattr(Graphs, "replay", lambda graphs, batch: recorded.append(batch) or replay(graphs, batch))
    tokens, rows = run(tmp_path, "tree", cuda_graphs=True)
    assert tokens == ordinary[0]
    assert any(row["kv_bytes_spared"] for row in rows)
    assert all(row["graph_size"] is None for row in rows if row["kv_bytes_spared"])
    assert len(recorded) == sum(row["graph_size"] is not None for row in rows)


@pytest.mark.rare
def test_the_warm_up_compiles_every_tile_of_a_shared_prefix(monkeypatch: pytest.MonkeyPatch):
    tiles = set()
    passes_of = TritonAttention._prefixes

    def noting(attention: TritonAttention, shared: SharedRows, rows: int, *rest) -> None:
        tiles.add(attention.passes.tile(rows))
        passes_of(attention, shared, rows, *rest)

    monkeypatch.setattr(TritonAttention, "_prefixes", noting)
    sharing = PrefixSharing(attention="tree", min_prefix_tokens=64)
    config = EngineConfig(
        model="random:tiny", device=str(DEVICE), dtype="float32", block_size=4, kv_blocks=64, max_num_seqs=10,
        chunked_prefill=ChunkedPrefill(token_budget=6), prefix_sharing=sharing, attention_backend="triton",
    )  # fmt: skip
    prepared = prepare(make_spec(config, [RequestSpec(request_id="0", prompt_token_ids=(1, 2), max_tokens=2)]))
    warm_up(prepared)
    passes = TritonAttention(make_cache(prepared, 1, None), 4, 2, 16, GroupRule()).passes
    assert tiles == {passes.tile(rows) for rows in range(2, 11)}
    assert len(tiles) == 2
