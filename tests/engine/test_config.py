"""Settings given as text: what is accepted, and what a person reads when it is not."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Literal, get_args

import pytest
from pydantic import BaseModel, Field, ValidationError
from pydantic.fields import FieldInfo

from engine.config import (
    LARGEST_COUNT,
    ChunkedPrefill,
    ConfigError,
    EngineConfig,
    KVQuantization,
    RequestSpec,
    RunSpec,
    Sampling,
    Settings,
    apply_overrides,
    check_settings,
)
from engine.config.schema import field_place
from telemetry.buffers import ObjectBuffer
from telemetry.rows import RequestRow, columns


class Draft(Settings):
    """A technique as later ones will look."""

    proposer: Literal["prompt-lookup", "model"] = "prompt-lookup"
    k: int = Field(4, ge=1, le=16)


class Widened(EngineConfig):
    """The engine's settings with one more technique, without any change to the override code."""

    speculation: Draft | None = None


def changed(**overrides: str) -> EngineConfig:
    return apply_overrides(EngineConfig(), {name.replace("__", "."): text for name, text in overrides.items()})


def refusal(config: Settings, **overrides: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(config, {name.replace("__", "."): text for name, text in overrides.items()})
    return caught.value


def test_a_technique_is_switched_off_and_on():
    off = changed(chunked_prefill="off")
    assert off.chunked_prefill is None
    assert off.resolved_policy == "prefill-first"
    assert apply_overrides(off, {"chunked_prefill": "on"}).chunked_prefill == ChunkedPrefill()


def test_setting_a_part_switches_the_technique_on():
    off = changed(chunked_prefill="off")
    on = apply_overrides(off, {"chunked_prefill.token_budget": "32"})
    assert on.chunked_prefill == ChunkedPrefill(token_budget=32)


def test_on_keeps_the_settings_a_technique_already_has():
    tuned = changed(chunked_prefill__token_budget="32")
    assert apply_overrides(tuned, {"chunked_prefill": "on"}) == tuned


@pytest.mark.parametrize("off", ["off", "none", "False", " no "])
@pytest.mark.parametrize("technique", ["chunked_prefill", "prefix_sharing", "speculation", "kv_quantization"])
def test_a_technique_switched_off_with_a_part_of_it_set_is_refused_by_name_in_either_order(technique: str, off: str):
    part = next(iter(choices_of(technique)))
    both = {technique: off, f"{technique}.{part}": "1"}
    for asked in (both, dict(reversed(both.items()))):
        with pytest.raises(ConfigError, match=f"contradicts {technique}={off}") as caught:
            apply_overrides(EngineConfig(), asked)
        assert (caught.value.field, caught.value.value) == (f"{technique}.{part}", "1")
        assert "Leave one of them out" in caught.value.mend


def choices_of(technique: str) -> list[str]:
    """The names of a technique's own settings."""
    (settings,) = field_place(EngineConfig, technique).models
    return list(settings.model_fields)


@pytest.mark.parametrize("short", ["fp32", "bf16", "fp16", "BF16"])
def test_number_formats_have_short_names_wherever_one_is_asked(short: str):
    names = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
    word = names[short.lower()]
    assert changed(dtype=short).dtype == word
    assert EngineConfig(dtype=short).dtype == word
    assert check_settings(EngineConfig, {"dtype": short}, strict=True).dtype == word
    assert changed(kv_quantization__metadata=short).kv_quantization == KVQuantization(metadata=word)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("dtype", "fp33", "no such choice. It must be one of auto, float32, bfloat16, float16 (fp32, bf16, fp16 for short)."),
        ("policy", "fifo", "It must be one of stall-free, prefill-first, orca, chunk-only, splitfuse, static, padded, padded-sorted, or none."),
        ("kv_quantization.key_bits", "3", "It must be one of 2, 4, 8."),
        ("max_num_seqs", "0", "too small. It must be a whole number, at least 1, at most 4096."),
        ("sampling.top_p", "2", "too large. It must be a number, above 0, at most 1."),
        ("kv_blocks", "9999999999", "too large. It must be a whole number, at least 1, or none, 2147483647 at most."),
        ("seed", "many", "It must be a whole number, at least 0"),
        ("device", "toaster", "It must be auto, cpu, cuda, or one GPU as cuda:0."),
        ("speculation", "maybe", "It must be on or off"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_a_setting_must_be(name: str, value: str, words: str):
    error = refusal(EngineConfig(), **{name.replace(".", "__"): value})
    assert words in f"{error.message} {error.mend}"
    assert (error.field, error.value) == (name, value)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("kv_blocks", "64", 64),
        ("kv_blocks", "none", None),
        ("kv_memory_fraction", "0.5", 0.5),
        ("keep_text", "off", False),
        ("keep_text", "True", True),
        ("policy", "Orca", "orca"),
        ("policy", "none", None),
        ("model", "none", "none"),
        ("device", "cuda:1", "cuda:1"),
        ("seed", str(2**63 - 1), 2**63 - 1),
    ],
)
def test_text_is_read_by_the_type_of_the_field(name: str, text: str, value: object):
    assert getattr(apply_overrides(EngineConfig(), {name: text}), name) == value


@pytest.mark.parametrize("text", ["a,b", " a , b ", '["a", "b"]'])
def test_lists_take_commas_or_json(text: str):
    assert changed(sampling__stop=text).sampling.stop == ("a", "b")


def test_overrides_leave_the_original_alone():
    config = EngineConfig()
    apply_overrides(config, {"sampling.temperature": "0.7", "kv_blocks": "9"})
    assert config == EngineConfig()


def test_no_overrides_change_nothing():
    config = changed(chunked_prefill__token_budget="7", sampling__stop="x,y")
    assert apply_overrides(config, {}) == config


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("chunked_prefil", "chunked_prefill"),
        ("chunked_prefill.token_budgt", "chunked_prefill.token_budget"),
        ("sampling.temprature", "sampling.temperature"),
        ("token_budget", "chunked_prefill.token_budget"),
        ("temperature", "sampling.temperature"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name: str, nearest: str):
    with pytest.raises(ConfigError) as caught:
        apply_overrides(EngineConfig(), {name: "1"})
    assert caught.value.field == name
    assert nearest in caught.value.mend


@pytest.mark.parametrize(
    ("overrides", "field", "words"),
    [
        ({"codec": "kivi", "group": "48"}, "kv_quantization", "of 128 tokens is not a multiple of the group of 48"),
        ({"codec": "kivi", "group": "32"}, "block_size", "does not divide block_size (16)"),
        ({"codec": "kivi", "residual": "40"}, "block_size", "is not a multiple of block_size (16)"),
        ({"codec": "kivi", "residual": "0"}, "kv_quantization", "packs several tokens at once"),
        ({"codec": "kivi", "key_bits": "3"}, "kv_quantization.key_bits", "one of 2, 4, 8"),
        ({"codec": "int3"}, "kv_quantization.codec", "one of int8, int4, fp8, kivi"),
        ({"smooth": "2"}, "kv_quantization.smooth", "at most 1"),
    ],
)
def test_a_codec_that_cannot_be_is_refused(overrides: dict[str, str], field: str, words: str):
    with pytest.raises(ConfigError) as caught:
        apply_overrides(EngineConfig(), {f"kv_quantization.{name}": text for name, text in overrides.items()})
    assert caught.value.field == field
    assert words.lower() in f"{caught.value.message} {caught.value.mend}".lower()


def test_codecs_that_fit_their_blocks_are_taken():
    taken = changed(kv_quantization__codec="kivi", kv_quantization__group="32", block_size="32").kv_quantization
    assert (taken.codec, taken.group, taken.residual) == ("kivi", 32, 128)
    assert changed(kv_quantization="on").kv_quantization.codec == "int8"
    assert changed(kv_quantization="off").kv_quantization is None


@pytest.mark.parametrize(
    ("name", "text", "range_words"),
    [
        ("kv_blocks", "abc", "a whole number, at least 1, or none"),
        ("kv_blocks", "0", "at least 1"),
        ("chunked_prefill.token_budget", "0", "at least 1"),
        ("kv_memory_fraction", "1.5", "above 0, at most 0.95"),
        ("sampling.temperature", "-1", "at least 0"),
        ("sampling.top_p", "nan", "above 0"),
        ("policy", "fastest", "stall-free, prefill-first"),
        ("keep_text", "maybe", "on or off"),
        ("device", "gpu", "cuda"),
    ],
)
def test_a_wrong_value_is_answered_with_what_is_allowed(name: str, text: str, range_words: str):
    with pytest.raises(ConfigError) as caught:
        apply_overrides(EngineConfig(), {name: text})
    error = caught.value
    assert error.field == name
    assert error.value == text
    assert range_words in error.mend
    assert name in str(error)
    assert text in str(error)


def test_a_technique_takes_no_bare_value():
    assert "chunked_prefill.token_budget" in refusal(EngineConfig(), chunked_prefill="64").mend
    assert "sampling.temperature" in refusal(EngineConfig(), sampling="0.7").mend


def test_a_plain_setting_has_no_parts():
    assert refusal(EngineConfig(), model__size="7b").field == "model.size"


def test_a_later_technique_needs_no_line_here():
    assert apply_overrides(Widened(), {"speculation": "on"}).speculation == Draft()
    assert apply_overrides(Widened(), {"speculation.k": "8"}).speculation == Draft(k=8)
    assert apply_overrides(Widened(speculation=Draft()), {"speculation": "off"}).speculation is None
    assert "at most 16" in refusal(Widened(), speculation__k="99").mend
    assert "prompt-lookup" in refusal(Widened(), speculation__proposer="prompt-lookp").mend


def test_a_file_may_switch_techniques_by_true_and_false():
    assert check_settings(EngineConfig, {"chunked_prefill": False}).chunked_prefill is None
    assert check_settings(EngineConfig, {"chunked_prefill": True}).chunked_prefill == ChunkedPrefill()


def test_strict_settings_take_no_text_for_numbers():
    with pytest.raises(ConfigError) as caught:
        check_settings(EngineConfig, {"max_num_seqs": "16"}, strict=True)
    assert caught.value.field == "max_num_seqs"


@pytest.mark.parametrize(
    "prompt", [{}, {"prompt": ""}, {"prompt_token_ids": ()}, {"prompt": "a", "prompt_token_ids": (1,)}]
)
def test_a_request_has_exactly_one_prompt(prompt: dict[str, object]):
    with pytest.raises(ConfigError):
        check_settings(RequestSpec, {"request_id": "a", **prompt})


def test_the_workload_hash_is_over_what_is_asked_and_not_over_how_it_is_served():
    def spec(**engine: object) -> RunSpec:
        requests = (RequestSpec(request_id="a", prompt="Hello", max_tokens=4),)
        return RunSpec(run_id="a", scenario="s", engine=EngineConfig(**engine), requests=requests)

    plain = spec().workload_hash
    assert spec(chunked_prefill=None, kv_blocks=7).workload_hash == plain
    assert spec(sampling=Sampling(temperature=1.0)).workload_hash != plain
    assert spec(seed=1).workload_hash != plain


def test_a_run_spec_survives_its_file():
    requests = (RequestSpec(request_id="a", prompt_token_ids=(1, 2), after=None, sampling=Sampling(stop=("x",))),)
    spec = RunSpec(run_id="a", scenario="s", requests=requests)
    assert RunSpec.model_validate_json(spec.model_dump_json()) == spec


@pytest.mark.parametrize(
    ("stored", "wide_keys", "group"),
    [
        ({"codec": "int4", "group": None}, False, 32),
        ({"codec": "int4", "group": 64}, False, 64),
        ({"codec": "int4", "group": None, "wide_keys": True}, True, None),
        ({"codec": "kivi", "group": None}, None, None),
    ],
    ids=["the usual group of that time", "a group of its own", "stored with the setting", "not about int4"],
)
def test_a_spec_stored_before_keys_could_be_wide_is_read_as_what_was_served(
    stored: dict[str, object], wide_keys: bool | None, group: int | None
):
    engine = {"kv_quantization": stored, "kv_blocks": 64}
    spec = {"run_id": "a", "scenario": "s", "engine": engine, "requests": [{"request_id": "a", "prompt": "Hello"}]}
    read = RunSpec.model_validate_json(json.dumps({"spec_version": 1, **spec})).engine.kv_quantization
    default = KVQuantization().wide_keys
    assert (read.wide_keys, read.group) == (default if wide_keys is None else wide_keys, group)
    assert RunSpec.model_validate_json(json.dumps({"spec_version": 1, **spec, "engine": {}})).engine == EngineConfig()
    if "wide_keys" not in stored:
        written_today = RunSpec.model_validate(spec)
        assert written_today.spec_version == 2
        assert written_today.engine.kv_quantization.wide_keys, "left out by who asks now: the default"
        assert RunSpec.model_validate_json(written_today.model_dump_json()) == written_today


def whole_numbers(model: type[BaseModel], before: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Each field below ``model`` that takes a whole number, by its dotted name."""
    for name, field in model.model_fields.items():
        kinds = (field.annotation, *get_args(field.annotation))
        if int in kinds:
            yield before + name, field
        for kind in kinds:
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from whole_numbers(kind, f"{before}{name}.")


@pytest.mark.parametrize("model", [EngineConfig, RequestSpec, RunSpec])
def test_no_whole_number_is_larger_than_the_column_it_may_reach(model: type[BaseModel]):
    fields = dict(whole_numbers(model))
    assert fields
    for name, field in fields.items():
        bounds = {key: getattr(bound, key) for bound in field.metadata for key in ("ge", "le") if hasattr(bound, key)}
        in_nanoseconds = name.endswith("_ns") or name.endswith("seed")
        assert bounds.get("le", 2**70) <= (2**63 - 1 if in_nanoseconds else LARGEST_COUNT), name
        assert bounds.get("ge", -(2**70)) >= -LARGEST_COUNT, name


def test_the_largest_priority_has_a_row_and_a_larger_one_is_refused():
    buffer = ObjectBuffer("request")
    values = {name: 0 for name, column in columns(RequestRow).items() if not column.nullable}
    buffer.append(values | {"priority": RequestSpec(request_id="a", prompt="b", priority=LARGEST_COUNT).priority})
    assert buffer.batch(buffer.drain()[0]).column("priority").to_pylist() == [LARGEST_COUNT]
    with pytest.raises(ValidationError, match="priority"):
        RequestSpec(request_id="a", prompt="b", priority=2**31)


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ([{"prompt": "a"}] * 20_001, "20000 items"),
        ([{"prompt": "a", "prompt_tokens": 2_000_001}] * 10, "20,000,010 tokens together; a run takes 20,000,000"),
        ([{"prompt": "a" * 1_000_000, "chat": True, "system": "b"}] * 100, "100,000,100 characters together"),
    ],
    ids=["requests", "prompt tokens", "characters"],
)
def test_a_run_takes_only_so_much(asked: list[dict[str, object]], said: str) -> None:
    requests = [{"request_id": str(index), **request} for index, request in enumerate(asked)]
    with pytest.raises(ValidationError, match=said):
        RunSpec.model_validate({"run_id": "r", "scenario": "s", "requests": requests})
    assert RunSpec.model_validate({"run_id": "r", "scenario": "s", "requests": requests[:9]})


def test_what_other_rooms_import_of_the_engine_loads_nothing_heavy():
    """Settings are read by the page, the command line and scenarios, none of which computes."""
    heavy = ("torch", "numpy", "tokenizers", "huggingface_hub", "jinja2")
    code = (
        "import pkgutil, importlib, sys, engine.config as face\n"
        "for part in pkgutil.walk_packages(face.__path__, 'engine.config.'): importlib.import_module(part.name)\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_tokenizer_is_read_without_torch():
    """The page shows a run's text; it would hold torch's memory for it."""
    code = "import sys; from engine.config.text import tokenizer_of; tokenizer_of('random:tiny', 64); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
