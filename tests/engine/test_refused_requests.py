"""One bad request never costs the others: it is refused by name, its row says why, and everybody else is served as without it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
from pydantic import ValidationError

from engine.config import EngineConfig, RequestSpec, RunSpec, Sampling, Speculation
from engine.config.errors import EngineError
from engine.loop import Engine
from engine.start.build import build_engine
from engine.start.prepare import prepare
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.serving import make_spec

WORDS = ["a", "b", "c", "d", *(f"w{i}" for i in range(56))]
TEMPLATE = (
    "{% if 'c' in messages[-1].content %}{{ raise_exception('no c, please') }}{% endif %}{{ messages[-1].content }}"
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama whose tokenizer drops spaces, knows few words and fails at others, and whose template forbids one."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=58,  # two words fewer than the tokenizer has
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
        initializer_range=0.4,
        tie_word_embeddings=False,
        eos_token_id=57,
        bos_token_id=None,
    )
    directory = tmp_path_factory.mktemp("model")
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval().save_pretrained(directory)
    vocabulary = {word: i for i, word in enumerate(WORDS)}
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="nowhere"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\s"), "removed")
    backend.save(str(directory / "tokenizer.json"))
    (directory / "chat_template.jinja").write_text(TEMPLATE)
    return directory


BAD = {
    "no tokens": ({"prompt": "   "}, "prompt", "no tokens"),
    "no tokens, of a length": ({"prompt": "   ", "prompt_tokens": 5}, "prompt", "no tokens"),
    "no tokens in a chat": ({"prompt": "  ", "chat": True}, "prompt", "no tokens"),
    "text the tokenizer fails at": ({"prompt": "a strange word"}, "prompt", "cannot read it"),
    "a failing template": ({"prompt": "a c", "chat": True}, "chat", "no c, please"),
    "a length the template cannot have": ({"prompt": "a", "chat": True, "system": "-", "prompt_tokens": 100}, "prompt", "no room for an answer"),
    "too long": ({"prompt": "a " * 64}, "prompt", "no room for an answer"),
    "too long, as token ids": ({"prompt_token_ids": (1,) * 64}, "prompt", "no room for an answer"),
    "an id beyond the vocabulary": ({"prompt_token_ids": (1, 58)}, "prompt_token_ids", "not in the model's vocabulary"),
    "a negative id": ({"prompt_token_ids": (1, -1)}, "prompt_token_ids", "not in the model's vocabulary"),
    "a word beyond the model's vocabulary": ({"prompt": "a w55"}, "prompt_token_ids", "not in the model's vocabulary"),
}  # fmt: skip
GOOD = {
    "plain": {"prompt": "a b a b a b"},
    "chat": {"prompt": "a b d", "chat": True, "prompt_tokens": 9},
    "longer than the model can give": {"prompt": "b a", "max_tokens": 100_000},
    "one token short of too long": {"prompt_token_ids": (1,) * 63},
    "hot, with a stop string": {"prompt": "a d", "sampling": Sampling(temperature=1.0, stop=("w9", "zzz")), "seed": 4},
    "the hottest and the coldest": {"prompt": "d", "sampling": Sampling(temperature=1e-38, top_p=1e-9, min_p=1.0), "seed": 5},
}  # fmt: skip


def asked(about: dict[str, dict]) -> list[RequestSpec]:
    return [RequestSpec(request_id=name, **({"max_tokens": 12} | values)) for name, values in about.items()]


def serve(spec: RunSpec, run_dir: Path) -> tuple[dict, Engine]:
    """Requests by name, and the engine that served them."""
    prepared = prepare(spec)
    with Recorder(run_dir, spec.engine.recording, clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        engine.run(prepared.requests)
    engine.scheduler.check_integrity()
    assert engine.scheduler.pool.num_used == 0
    return {request.request_id: request for request in prepared.requests}, engine


WAYS = {
    "plain loop": {"overlap": "off"},
    "overlapped loop": {"overlap": "on"},
    "guesses": {"speculation": Speculation(control="fixed", k=3, ngram_min=1)},
    "one place": {"max_num_seqs": 1, "policy": "static"},
}


@pytest.mark.parametrize("way", WAYS)
def test_a_refused_request_costs_nobody_else(way: str, model: Path, tmp_path: Path) -> None:
    values = {"device": "cpu", "dtype": "float32", "threads": 1, "kv_blocks": 64, "check_integrity": True}
    config = EngineConfig(model=str(model), **values, **WAYS[way])
    about = {name: values for name, (values, _, _) in BAD.items()}
    good, _ = serve(make_spec(config, asked(GOOD)), tmp_path / "good")
    mixed = dict(sorted((GOOD | about).items()))  # the good ones among the bad ones
    mixed = {name: mixed[name] for name in [*GOOD, *about]} if way != "plain loop" else mixed
    served, engine = serve(make_spec(config, asked(mixed)), tmp_path / "mixed")
    for name in GOOD:
        assert served[name].end_reason in ("length", "stop", "stop_string"), name
        if served[name].sampling_state.generator is None or served[name].spec.seed is not None:
            assert served[name].output_token_ids == good[name].output_token_ids, name
    for name, (_, field, reason) in BAD.items():
        request = served[name]
        assert request.end_reason == "failed", name
        assert request.output_token_ids == [], name
        assert request.refusal.field == f"requests[{name}].{field}"
        assert reason in request.refusal.message
    totals = engine.totals
    assert (totals.requests_ended, totals.requests_finished, totals.requests_failed) == (
        len(mixed),
        len(GOOD),
        len(BAD),
    )
    assert totals.prompt_tokens == sum(good[name].num_prompt_tokens for name in GOOD)


def test_what_was_asked_beyond_the_models_length_ends_at_it(model: Path, tmp_path: Path) -> None:
    """It needs no more of the pool than the model can fill, so it is not refused for what it will never hold."""
    config = EngineConfig(model=str(model), device="cpu", dtype="float32", threads=1, kv_blocks=4, block_size=16)
    sampling = Sampling(ignore_eos=True)
    long = [RequestSpec(request_id="long", prompt="a b", max_tokens=100_000, sampling=sampling)]
    request = serve(make_spec(config, long), tmp_path)[0]["long"]
    assert (request.end_reason, request.num_known_tokens) == ("length", 64)


def test_a_request_that_never_fits_the_pool_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    config = EngineConfig(model=str(model), device="cpu", dtype="float32", threads=1, kv_blocks=2, block_size=16)
    values = {"large": {"prompt": "a", "max_tokens": 40}, "small": {"prompt": "a", "max_tokens": 4}}
    served, _ = serve(make_spec(config, asked(values)), tmp_path)
    assert served["small"].end_reason in ("length", "stop")
    assert served["large"].end_reason == "failed"
    assert "'large' may grow to 40 tokens, 3 blocks of 16; the pool has 2" in served["large"].refusal.message


def test_whoever_waits_for_a_refused_request_comes_all_the_same(model: Path, tmp_path: Path) -> None:
    config = EngineConfig(model=str(model), device="cpu", dtype="float32", threads=1, kv_blocks=64)
    values = {
        "bad": {"prompt": "  "},
        "bad again": {"prompt": "  ", "after": "bad"},
        "good": {"prompt": "a", "after": "bad again", "arrival_ns": 1000},
    }
    served, _ = serve(make_spec(config, asked(values)), tmp_path)
    assert [served[name].end_reason for name in ("bad", "bad again")] == ["failed", "failed"]
    assert served["good"].end_reason in ("length", "stop")


def test_a_run_whose_every_request_is_refused_does_not_start(model: Path) -> None:
    config = EngineConfig(model=str(model), device="cpu", dtype="float32", threads=1, kv_blocks=64)
    bad = asked({name: values for name, (values, _, _) in BAD.items()})
    with pytest.raises(EngineError) as caught:
        prepare(make_spec(config, bad))
    assert caught.value.field == "requests[no tokens].prompt"


def test_refused_requests_are_a_label_of_the_run(model: Path) -> None:
    config = EngineConfig(model=str(model), device="cpu", dtype="float32", threads=1, kv_blocks=64)
    prepared = prepare(make_spec(config, asked({"good": {"prompt": "a"}, "bad": {"prompt": " "}})))
    assert "1 of 2 requests refused" in prepared.notices
    assert [request.request_id for request in prepared.servable] == ["good"]
    assert replace(prepared, requests=[]).servable == []


def test_requests_that_wait_in_vain_are_found_before_the_run_starts(model: Path) -> None:
    config = EngineConfig(model=str(model), device="cpu", dtype="float32", threads=1, kv_blocks=64)
    with pytest.raises(EngineError, match="does not exist"):
        prepare(make_spec(config, asked({"a": {"prompt": "a"}, "b": {"prompt": "a", "after": "nobody"}})))


@pytest.mark.parametrize(
    ("sampling", "field"),
    [({"stop": ("x", "")}, "stop"), ({"temperature": float("nan")}, "temperature"), ({"top_p": 0}, "top_p")],
)
def test_bad_sampling_is_refused_by_name_before_there_is_a_run(sampling: dict, field: str) -> None:
    good = {"request_id": "good", "prompt": "a"}
    bad = {"request_id": "bad", "prompt": "a", "sampling": sampling}
    with pytest.raises(ValidationError) as caught:
        RunSpec(run_id="r", scenario="s", requests=(good, bad))
    assert caught.value.errors()[0]["loc"][:4] == ("requests", 1, "sampling", field)
