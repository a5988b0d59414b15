"""Tier codecs: the stream gives back exactly what was rounded, every level loses what its bins say, and who cannot use
one is told."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config import ConfigError, EngineConfig, EngineError, KVTiers, PrefixSharing, apply_overrides
from engine.kv.disk_tier import DiskTier
from engine.kv.tier_codecs import TIER_CODECS, BlockForm, DeltaCodec, make_tier_codec
from engine.kv.tier_codecs.entropy import LIMIT, SymbolCoder
from engine.model.load import load, resolve
from engine.quality.reading import Reader
from engine.quality.tier_codecs import measure_tier_codec
from telemetry.json_file import plain
from telemetry.status import Summary
from tests.engine.drawn import random_llama
from tests.engine.test_tiers import TWO_BLOCKS, rows_of, serve, spoil
from tests.examples import examples


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory):
    directory = tmp_path_factory.mktemp("llama")
    return random_llama(directory, seed=5, vocab_size=200, initializer_range=0.4), directory


SEEDS = st.integers(0, 2**32 - 1)
FORMS = st.builds(
    BlockForm,
    layers=st.integers(1, 5),
    kv_heads=st.integers(1, 3),
    block_size=st.sampled_from([1, 2, 8, 16, 40]),
    head_dim=st.sampled_from([2, 8, 24]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
)


def block_of(form: BlockForm, seed: int) -> np.ndarray:
    """Keys and values as bytes: channels of very different sizes, some heads whose tokens are alike, some empty."""
    dice = np.random.default_rng(seed)
    layers, _, heads, _, width = form.shape
    scale = np.exp(dice.normal(size=(layers, 2, heads, 1, width)) * 2) * 10.0 ** dice.integers(-3, 3)
    common = dice.normal(size=(layers, 2, heads, 1, width)) * 5 * dice.integers(0, 2, (layers, 2, heads, 1, 1))
    x = (dice.normal(size=form.shape) + common) * scale * (dice.random((layers, 2, heads, 1, 1)) < 0.9)
    content = np.zeros(x.size * form.dtype.itemsize, np.uint8)
    form.fill(content, x.astype(np.float32))
    return content


@given(form=FORMS, level=st.sampled_from(sorted(TIER_CODECS)), seeds=st.lists(SEEDS, min_size=1, max_size=5))
@settings(max_examples=examples(40), deadline=None)
def test_a_stream_gives_back_exactly_what_was_rounded(form: BlockForm, level: str, seeds: list[int]) -> None:
    codec = TIER_CODECS[level](form)
    assert isinstance(codec, DeltaCodec)
    blocks = [block_of(form, seed) for seed in seeds]
    streams = [codec.encode(block) for block in blocks]  # statistics change in between
    for block, stream in zip(blocks, streams, strict=True):
        rounded, back = np.empty_like(block), np.full_like(block, 7)
        form.fill(rounded, codec.values(codec.round(form.numbers(block))))
        codec.decode(stream, back)
        assert (back == rounded).all()


@given(seed=SEEDS, channels=st.integers(1, 9), blocks=st.integers(1, 9))
@settings(max_examples=examples(40), deadline=None)
def test_the_entropy_coder_loses_nothing(seed: int, channels: int, blocks: int) -> None:
    dice, coder, streams = np.random.default_rng(seed), SymbolCoder(channels), []
    for _ in range(blocks):
        of = dice.integers(0, channels, 50)
        numbers = np.clip(np.rint(dice.standard_cauchy(50) * 10.0 ** (of % 4 - 1)), -LIMIT, LIMIT).astype(np.int32)
        streams.append((numbers, of, coder.encode(numbers, of)))
    for numbers, of, stream in streams:
        assert (coder.decode(stream, of) == numbers).all()


def test_channels_of_one_size_take_about_what_their_entropy_says() -> None:
    """A uniform coder would take nine bits for each."""
    of = np.repeat([0, 1], 20_000)
    numbers = np.rint(np.random.default_rng(0).laplace(size=40_000) * np.array([0.2, 4.0])[of]).astype(np.int32)
    entropy = 0.0
    for channel in (0, 1):
        _, counts = np.unique(numbers[of == channel], return_counts=True)
        entropy -= float((counts * np.log2(counts / counts.sum())).sum())
    bits = 8 * SymbolCoder(2).encode(numbers, of).nbytes
    assert entropy < bits < 1.05 * entropy


def test_finer_levels_lose_less_and_take_more_and_deeper_layers_lose_more() -> None:
    form = BlockForm(6, 2, 16, 32, torch.float32)
    errors, sizes = [], []
    for level in TIER_CODECS:
        codec = make_tier_codec(level, form)
        assert codec is not None
        for seed in range(4):
            x = np.random.default_rng(seed).normal(size=form.shape).astype(np.float32)
            codec.encode(x.ravel().view(np.uint8))
        about = codec.describe()
        errors.append(np.mean(about["key_error"] + about["value_error"]))
        sizes.append(about["stored_bytes"] / about["bytes"])
        assert about["key_error"][0] < about["key_error"][3] < about["key_error"][5]
    assert errors == sorted(errors)
    assert sizes == sorted(sizes, reverse=True)
    assert make_tier_codec("none", form) is None


def test_neighbours_that_are_alike_take_less() -> None:
    form = BlockForm(2, 2, 16, 32, torch.float32)
    dice, sizes = np.random.default_rng(1), []
    for likeness in (0.0, 30.0):
        x = dice.normal(size=form.shape) + likeness * dice.normal(size=(2, 2, 2, 1, 32))
        content = np.zeros(x.size * 4, np.uint8)
        form.fill(content, (x / np.sqrt(np.mean(x**2))).astype(np.float32))
        sizes.append(TIER_CODECS["delta-medium"](form).encode(content).nbytes)
    assert sizes[1] < 0.6 * sizes[0]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_block_that_is_not_finite_is_kept_as_it_is(value: float) -> None:
    form = BlockForm(1, 1, 4, 8, torch.float32)
    content = block_of(form, 0)
    content.view(np.float32)[5] = value
    codec, back = TIER_CODECS["delta-fine"](form), np.zeros_like(content)
    codec.decode(codec.encode(content), back)
    assert (back == content).all()


def test_the_disk_budget_counts_bytes_after_the_codec(tmp_path: Path) -> None:
    form = BlockForm(4, 2, 16, 32, torch.float32)
    block = block_of(form, 3)
    disk = DiskTier(tmp_path, 10**9, codec=make_tier_codec("delta-coarse", form))
    assert disk.write(1, stream := disk.encode(block))
    assert disk.used == disk.bytes_of(1) == stream.nbytes < block.nbytes / 4
    assert disk.read(1, back := np.empty_like(block))
    assert not (back == block).all()
    disk.drop(1)
    assert disk.used == 0


def test_a_run_with_a_codec_says_what_it_lost_and_what_it_spared(llama, tmp_path: Path) -> None:
    asked = KVTiers(host_mib=TWO_BLOCKS, disk_mib=64, load="always", codec="delta-fine")
    prepared, _, summary = serve(llama, tmp_path, asked)
    assert "lossy tier codec" in prepared.notices
    assert plain(Summary.model_validate(summary)) == summary, "status.json has it whole"
    assert [r.cached_tokens for r in prepared.requests] == [0, 0, 0, 40, 40, 40]
    about = summary["tier_codec"]
    assert about["stored_bytes"] < about["bytes"] / 3
    assert about["encode_ns"] > 0 < about["decode_ns"]
    assert len(about["key_error"]) == len(about["value_error"]) == 2
    assert all(0 < error < 0.2 for error in about["key_error"] + about["value_error"])
    loads = [row for row in rows_of(tmp_path, "load") if row["tier"] == "disk"]
    assert loads
    assert all(0 < row["stored_bytes"] < row["bytes"] / 3 for row in loads)
    assert all(0 < row["codec_ns"] < row["duration_ns"] for row in loads)
    stores = [row for row in rows_of(tmp_path, "store") if row["tier"] == "disk"]
    assert sum(row["stored_bytes"] for row in stores) == about["stored_bytes"]


def test_without_a_codec_bytes_are_stored_as_they_are(llama, tmp_path: Path) -> None:
    prepared, _, summary = serve(llama, tmp_path, KVTiers(host_mib=TWO_BLOCKS, disk_mib=64, load="always"))
    assert summary["tier_codec"] is None
    assert "lossy tier codec" not in prepared.notices
    moved = [row for action in ("store", "load") for row in rows_of(tmp_path, action)]
    assert all((row["stored_bytes"], row["codec_ns"]) == (row["bytes"], 0) for row in moved)


def test_a_damaged_bitstream_is_computed_again_and_said(llama, tmp_path: Path) -> None:
    asked = KVTiers(host_mib=TWO_BLOCKS, disk_mib=64, load="always", codec="delta-medium")
    prepared, _, summary = serve(llama, tmp_path, asked, spoil("flipped"))
    assert summary["tier_damaged"] > 0
    assert prepared.requests[3].cached_tokens < 40
    assert all(r.end_reason is not None for r in prepared.requests)


def test_packed_blocks_are_refused_by_name_with_the_reason() -> None:
    words = {"prefix_sharing": "on", "kv_tiers.codec": "delta-medium", "kv_quantization.codec": "int4"}
    with pytest.raises(ConfigError, match=r"kv_tiers.codec delta-medium .* kv_quantization.codec int4 leaves codes"):
        apply_overrides(EngineConfig(), {**words, "kv_tiers.disk_mib": "64"})
    apply_overrides(EngineConfig(), words)  # no disk tier, so nothing is encoded


def test_a_machine_without_the_coder_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "constriction", None)
    form = BlockForm(1, 1, 4, 8, torch.float32)
    with pytest.raises(EngineError, match="package constriction, which is not installed") as refused:
        make_tier_codec("delta-fine", form)
    assert refused.value.field == "kv_tiers.codec"
    assert make_tier_codec("none", form) is None


def test_the_setting_is_read_only_beside_a_disk_tier() -> None:
    assert not KVTiers(codec="delta-fine").loses
    assert not KVTiers(codec="delta-fine").reads("codec")
    assert KVTiers(codec="delta-fine", disk_mib=8).loses
    assert EngineConfig(prefix_sharing=PrefixSharing(), kv_tiers=KVTiers(codec="delta-fine", disk_mib=8)).kv_tiers


def test_what_a_level_costs_is_measured_on_a_text_that_is_read_on(llama) -> None:
    _, directory = llama
    model = load(resolve(str(directory)), torch.device("cpu"), torch.float32, seed=0)
    reader, ids = Reader(model, 8), list(range(10, 90))
    form = BlockForm(model.shape.layers, model.shape.kv_heads, 8, model.shape.head_dim, torch.float32)
    costs = [measure_tier_codec(reader, make(form), ids, 44) for make in TIER_CODECS.values()]
    assert 0 < costs[0].kl < costs[1].kl < costs[2].kl
    assert costs[0].ratio < costs[1].ratio < costs[2].ratio
    assert all(0 <= cost.agreement <= 1 and cost.encode_ms > 0 < cost.decode_ms for cost in costs)
    assert len(costs[0].key_error) == form.layers
    whole = reader.hidden(ids)[44:]
    assert torch.allclose(reader.read_on(ids, 44, lambda cache: None), whole, atol=1e-4)
    with pytest.raises(ValueError, match="nothing to encode"):
        measure_tier_codec(reader, TIER_CODECS["delta-fine"](form), ids, 4)
