"""The quality meter: what each codec costs the embedded model's real weights, and which axis is the right one (in make soak); its own workings
on random ones."""

from __future__ import annotations

import math
from statistics import mean

import pytest
import torch

from engine.config import EngineConfig, KVQuantization
from engine.config.errors import EngineError
from engine.quality import QualityMeter, QualitySpec

pytestmark = pytest.mark.slow
KIVI = {"codec": "kivi", "residual": 32}
CODECS = {
    "int8": KVQuantization(codec="int8"),
    "int4": KVQuantization(codec="int4"),
    "int4 plain": KVQuantization(codec="int4", rotate=False, centre=False),
    "int4, 4 bits a key": KVQuantization(codec="int4", wide_keys=False),
    "int4 smooth": KVQuantization(codec="int4", rotate=False, centre=False, smooth=0.5),
    "2 bits": KVQuantization(**KIVI),
    "2 bits, keys per token": KVQuantization(**KIVI, key_axis="token"),
}
TOKENS, PROMPTS, NEW = 512, 2, 12


@pytest.fixture(scope="module")
def measured() -> dict:
    engine = EngineConfig(device="cpu", dtype="float32")
    spec = QualitySpec(engine=engine, codecs=CODECS, needle_tokens=0, tokens=TOKENS, prompts=PROMPTS, new_tokens=NEW)
    heard: list[tuple[str, float]] = []
    result = QualityMeter(spec, lambda phase, share: heard.append((phase, share))).measure()
    assert [share for _, share in heard] == sorted(share for _, share in heard)
    return result


def of(measured: dict, name: str) -> dict:
    return next(codec for codec in measured["codecs"] if codec["name"] == name)


@pytest.mark.rare
def test_int8_costs_half_a_percent_of_perplexity_at_most(measured) -> None:
    assert 8 < measured["full"]["perplexity"] < 20, "a real language model on English prose"
    assert abs(of(measured, "int8")["perplexity_change"]) < 0.005


@pytest.mark.rare
def test_int4_costs_three_percent_of_perplexity_at_most(measured) -> None:
    assert abs(of(measured, "int4")["perplexity_change"]) < 0.03


@pytest.mark.rare
def test_int4_costs_no_more_than_that_on_longer_text_far_from_its_start() -> None:
    engine = EngineConfig(device="cpu", dtype="float32")
    codecs = {"int4": KVQuantization(codec="int4")}
    spec = QualitySpec(engine=engine, codecs=codecs, tokens=1280, prompts=0, needle_tokens=0)
    codec = QualityMeter(spec).measure()["codecs"][0]
    assert codec["bits"] == 5
    assert codec["perplexity_change"] < 0.03
    assert codec["kl"] < 0.025


@pytest.mark.rare
def test_per_channel_keys_beat_per_token_keys_at_two_bits(measured) -> None:
    right, wrong = of(measured, "2 bits"), of(measured, "2 bits, keys per token")
    assert flat(right["key_error"]) < flat(wrong["key_error"]) / 2
    assert right["perplexity"] < wrong["perplexity"]
    assert right["kl"] < wrong["kl"]


@pytest.mark.rare
def test_centring_and_rotating_keys_is_worth_it(measured) -> None:
    assert flat(of(measured, "int4")["key_error"]) < flat(of(measured, "int4 plain")["key_error"])
    assert of(measured, "int4")["kl"] < of(measured, "int4 plain")["kl"]


@pytest.mark.rare
def test_a_fifth_bit_halves_the_error_of_keys_and_leaves_values_alone(measured) -> None:
    wide, narrow = of(measured, "int4"), of(measured, "int4, 4 bits a key")
    assert flat(wide["key_error"]) == pytest.approx(flat(narrow["key_error"]) * 15 / 31, rel=0.05)
    assert wide["value_error"] == narrow["value_error"]
    assert wide["kl"] < narrow["kl"]
    assert wide["bits"] - narrow["bits"] == 0.5


@pytest.mark.rare
def test_smoothing_lowers_the_error_of_keys(measured) -> None:
    assert flat(of(measured, "int4 smooth")["key_error"]) < flat(of(measured, "int4 plain")["key_error"])


@pytest.mark.rare
def test_figures_are_what_they_say(measured) -> None:
    assert (measured["tokens"], measured["layers"], measured["kv_heads"]) == (TOKENS, 30, 3)
    for codec in measured["codecs"]:
        assert codec["kl"] > 0
        assert 0 < codec["agreement"] < 1
        assert len(codec["first_divergence"]) == PROMPTS
        assert all(0 <= place <= NEW for place in codec["first_divergence"])
        assert codec["greedy_agreement"] == pytest.approx(mean(codec["first_divergence"]) / NEW)
        for side in ("key_error", "value_error"):
            assert len(codec[side]) == 30
            assert all(len(row) == 3 and all(0 < error < 1.5 for error in row) for row in codec[side])
        assert codec["capacity"] == pytest.approx(32 / codec["bits"])


def flat(errors: list[list[float]]) -> float:
    return mean(error for row in errors for error in row)


def tiny(**changes) -> QualitySpec:
    engine = EngineConfig(model="random:tiny", device="cpu", dtype="float32", threads=1)
    return QualitySpec(**({"engine": engine, "codecs": {"int8": KVQuantization()}, "tokens": 64} | changes))


def test_a_hidden_fact_is_looked_for_at_every_depth() -> None:
    result = QualityMeter(tiny(needle_tokens=400, prompts=1, new_tokens=3)).measure()
    assert [needle["depth"] for needle in result["full"]["needles"]] == [0.1, 0.3, 0.5, 0.7, 0.9]
    for needle in (*result["full"]["needles"], *result["codecs"][0]["needles"]):
        assert math.isfinite(needle["log_probability"])
        assert needle["found"] == (needle["tokens_right"] == 1)
    assert result["labels"] == ["random weights"]


def test_fp8_on_a_cpu_is_labelled_emulated() -> None:
    codecs = {"fp8": KVQuantization(codec="fp8")}
    assert "fp8 emulated" in QualityMeter(tiny(codecs=codecs, needle_tokens=0, prompts=0)).measure()["labels"]


def test_a_codec_that_loses_nothing_would_be_seen_to_lose_nothing(monkeypatch) -> None:
    """The meter against itself: with the cache's own numbers handed back unchanged, everything measured is zero."""
    from engine.kv.codecs.forms import Symmetric8

    monkeypatch.setattr(Symmetric8, "code_dtype", torch.float32, raising=True)
    monkeypatch.setattr(Symmetric8, "encode", lambda self, x, scale=None: (x.float(), x[..., :1].to(torch.float16)))
    monkeypatch.setattr(Symmetric8, "decode", lambda self, codes, meta, dtype, scale=None: codes.to(dtype))
    codecs = {"int8": KVQuantization(rotate=False, centre=False)}
    codec = QualityMeter(tiny(codecs=codecs, needle_tokens=0, new_tokens=8)).measure()["codecs"][0]
    assert codec["kl"] < 1e-9
    assert codec["agreement"] == codec["greedy_agreement"] == 1
    assert abs(codec["perplexity_change"]) < 1e-6
    assert max(max(row) for row in codec["key_error"]) == 0


@pytest.mark.parametrize("field", ["tokens", "needle_tokens"])
def test_more_text_than_the_model_reads_is_refused(field: str) -> None:
    with pytest.raises(EngineError) as caught:
        QualityMeter(tiny(**{field: 4000}))
    assert caught.value.field == field
    assert "2048 or less" in caught.value.mend
