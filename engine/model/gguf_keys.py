"""The keys of a GGUF file, with the meaning llama.cpp gives them: each is used, known to change nothing, or refused by
name."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from engine.config.errors import EngineError
from engine.model.gguf_header import KIND, Header
from engine.model.reading import Context, Keys, Layers, One, Positive, Size, TokenId, read_keys, shortened

ARCHITECTURES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}

#: What a file says of where it comes from and how it was made. ``general.architecture`` and two more are read.
_HARMLESS = ("general.", "quantize.", "imatrix.", "mradermacher.", "split.")
#: Forms of the tokenizer that llama.cpp does not read either, and marks for filling in the middle.
_HARMLESS_TOKENIZER = (
    *("chat_template.", "chat_templates", "huggingface.json", "ggml.fim_"),
    *("ggml.prefix_token_id", "ggml.suffix_token_id", "ggml.middle_token_id"),
)
_NotScaled = Annotated[float, Field(ge=0, le=0)]
_None = Annotated[int, Field(ge=0, le=0)]
_Scale = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_COMPLETE = "It is part of every model."
_DENSE = "Use a dense Llama or Qwen model."
_ID = "Give the id of a token of the vocabulary."


def _key(name: str, default: Any, description: str) -> Any:
    return Field(default, alias=name, description=description)


class ModelKeys(Keys):
    """Keys under the architecture's name; those that must hold one value to mean what is computed here stand at the
    end."""

    block_count: Layers = Field(description=_COMPLETE)
    context_length: Context = Field(description=_COMPLETE)
    embedding_length: Size = Field(description=_COMPLETE)
    feed_forward_length: Size = Field(description=_COMPLETE)
    heads: Size = _key("attention.head_count", ..., _COMPLETE)
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = _key("attention.layer_norm_rms_epsilon", ..., _COMPLETE)
    kv_heads: Size | None = _key("attention.head_count_kv", None, "Give one number for all layers.")
    head_dim: Size | None = _key("attention.key_length", None, "Give the width of a head: an even number.")
    value_dim: Size | None = _key("attention.value_length", None, "Give what attention.key_length is.")
    vocab_size: Size | None = Field(None, description="Give the number of rows of token_embd.weight.")
    rotated: Size | None = _key("rope.dimension_count", None, "Use a model that rotates whole heads.")
    theta: Positive = _key("rope.freq_base", 10_000.0, "Give a finite number above 0.")
    scaling: Literal["none", "linear"] | None = _key(
        "rope.scaling.type", None, "Covered are none, linear and Llama 3's."
    )
    factor: _Scale | None = _key("rope.scaling.factor", None, "Give a finite number of at least 1, or 0 for none.")
    old_factor: _Scale | None = _key("rope.scale_linear", None, "Give a finite number of at least 1, or 0 for none.")
    trained_context: Size | None = _key("rope.scaling.original_context_length", None, "Give a number of tokens.")
    finetuned: bool | None = _key("rope.scaling.finetuned", None, "Give true or false.")
    window: Annotated[int, Field(ge=0)] | None = _key("attention.sliding_window", None, "Use a model without it.")
    scale: _Scale | None = _key("attention.scale", None, "Use a model that scales by the root of the head's width.")

    attention_factor: One = _key("rope.scaling.attn_factor", 1.0, "Only 1 is covered.")
    layout: Literal["Meta AI original pth"] | None = _key(
        "tensor_data_layout", None, "Use a file of llama.cpp's converter."
    )
    causal: Literal[True] = _key("attention.causal", True, "Use a model that generates text.")
    alibi: _NotScaled = _key("attention.max_alibi_bias", 0.0, _DENSE)
    clamp: _NotScaled = _key("attention.clamp_kqv", 0.0, _DENSE)
    parallel: Literal[False] = _key("use_parallel_residual", False, _DENSE)
    experts: _None = _key("expert_count", 0, _DENSE)
    experts_used: _None = _key("expert_used_count", 0, _DENSE)
    pooling: _None = _key("pooling_type", 0, "Use a model that generates text.")


class TokenizerKeys(Keys):
    """Keys under ``tokenizer``; ids are places in ``tokens``."""

    model: Literal["llama", "gpt2"] = _key(
        "ggml.model", ..., "Covered are llama (SentencePiece) and gpt2 (byte-level BPE)."
    )
    splitting: str | None = _key("ggml.pre", None, "Give the name of how text is split.")
    tokens: Annotated[list[str], Field(min_length=1, fail_fast=True)] = _key(
        "ggml.tokens", ..., "Use a file made for text generation."
    )
    types: Annotated[list[Annotated[int, Field(ge=0, le=6)]], Field(fail_fast=True)] | None = _key(
        "ggml.token_type", None, "Give one of 1 to 6 per token."
    )
    scores: Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(fail_fast=True)] | None = _key(
        "ggml.scores", None, "Give one per token."
    )
    merges: Annotated[list[str], Field(fail_fast=True)] | None = _key(
        "ggml.merges", None, "Give pairs of tokens with a space between them."
    )
    bos: TokenId | None = _key("ggml.bos_token_id", None, _ID)
    eos: TokenId | None = _key("ggml.eos_token_id", None, _ID)
    eot: TokenId | None = _key("ggml.eot_token_id", None, _ID)
    eom: TokenId | None = _key("ggml.eom_token_id", None, _ID)
    unknown: TokenId | None = _key("ggml.unknown_token_id", None, _ID)
    padding: TokenId | None = _key("ggml.padding_token_id", None, _ID)
    separator: TokenId | None = _key("ggml.seperator_token_id", None, _ID)
    cls: TokenId | None = _key("ggml.cls_token_id", None, _ID)
    mask: TokenId | None = _key("ggml.mask_token_id", None, _ID)
    add_bos: bool | None = _key("ggml.add_bos_token", None, "Give true or false.")
    add_eos: bool = _key("ggml.add_eos_token", False, "Give true or false.")
    add_prefix: bool = _key("ggml.add_space_prefix", True, "Give true or false.")
    template: str | None = _key("chat_template", None, "Give the template as a text.")

    add_sep: Literal[False] = _key("ggml.add_sep_token", False, _DENSE)
    squeeze: Literal[False] = _key("ggml.remove_extra_whitespaces", False, _DENSE)

    @property
    def stop_tokens(self) -> list[int]:
        """Ids that end a text: of the sequence, of a turn, of a message."""
        return list(dict.fromkeys(token for token in (self.eos, self.eot, self.eom) if token is not None))


@dataclass(frozen=True)
class GgufKeys:
    """What a GGUF file says of its model and of its tokenizer."""

    path: Path
    kind: str  # llama, qwen2 or qwen3
    model: ModelKeys
    tokenizer: TokenizerKeys

    def bad(self, key: str, value: Any, message: str, mend: str) -> EngineError:
        """An error about a key by its name in the file."""
        return EngineError(KIND, f"{self.path.name}: {key}", shortened(value), message, mend)


def read_gguf_keys(path: Path, header: Header) -> GgufKeys:
    """
    Raises:
        EngineError: another architecture, one part of several, or a key that is not covered, has the wrong type or
            contradicts another one.
    """
    keys = header.keys
    _refuse_parts(path, keys)
    kind = keys.get("general.architecture")
    if kind not in ARCHITECTURES:
        mend = f"Covered are: {', '.join(ARCHITECTURES)}."
        raise EngineError("unknown-architecture", "model", str(kind), "This GGUF architecture is not covered.", mend)
    what = keys.get("general.type", "model")
    if what != "model":
        message, mend = "This file is not a whole model.", "Use the file of the model itself."
        raise EngineError(KIND, f"{path.name}: general.type", shortened(what), message, mend)
    groups: dict[str, dict[str, Any]] = {kind: {}, "tokenizer": {}}
    for key, value in keys.items():
        group, _, name = key.partition(".")
        if group in groups:
            if not (group == "tokenizer" and name.startswith(_HARMLESS_TOKENIZER)):
                groups[group][name] = value
        elif not key.startswith(_HARMLESS):
            message = "This key is not known: what it changes would be left out."
            raise EngineError(KIND, f"{path.name}: {key}", shortened(value), message, _DENSE)
    model = read_keys(ModelKeys, groups[kind], KIND, path.name, f"{kind}.")
    tokenizer = read_keys(TokenizerKeys, groups["tokenizer"], KIND, path.name, "tokenizer.")
    gguf = GgufKeys(path, kind, model, tokenizer)
    _check_model(gguf)
    _check_tokenizer(gguf)
    return gguf


def _refuse_parts(path: Path, keys: dict[str, Any]) -> None:
    parts, number = keys.get("split.count", 1), keys.get("split.no", 0)
    if parts in (0, 1):
        return
    said = f"part {number + 1} of {parts}" if isinstance(number, int) else f"one of {parts} parts"
    mend = "Merge the parts into one file (llama-gguf-split --merge of llama.cpp does it), and give that."
    raise EngineError(KIND, f"{path.name}: split.count", shortened(parts), f"This file is {said} of a model.", mend)


def _check_model(gguf: GgufKeys) -> None:
    model, prefix = gguf.model, f"{gguf.kind}."
    head_dim = model.head_dim or model.embedding_length // model.heads
    for key, value in (("attention.value_length", model.value_dim), ("rope.dimension_count", model.rotated)):
        if value not in (None, head_dim):
            message = f"The heads are {head_dim} wide."
            raise gguf.bad(prefix + key, value, message, "Use a model whose heads are rotated whole and of one width.")
    if model.scale not in (None, 0.0) and abs(model.scale * head_dim**0.5 - 1) > 1e-5:
        message = f"The heads are {head_dim} wide: 1 / sqrt({head_dim}) is covered."
        raise gguf.bad(f"{prefix}attention.scale", model.scale, message, _DENSE)
    if model.window and model.window < model.context_length:
        message = f"Attention over a window shorter than the context ({model.context_length} tokens) is not covered."
        raise gguf.bad(f"{prefix}attention.sliding_window", model.window, message, "Use a model without it.")
    if model.factor and model.old_factor and model.factor != model.old_factor:
        message = f"rope.scaling.factor says {model.factor}."
        raise gguf.bad(f"{prefix}rope.scale_linear", model.old_factor, message, "Keep one of them.")
    if model.scaling == "linear" and not (model.factor or model.old_factor):
        message = "rope.scaling.type is linear."
        raise gguf.bad(f"{prefix}rope.scaling.factor", model.factor, message, "Give a number of at least 1.")
    if model.vocab_size not in (None, len(gguf.tokenizer.tokens)):
        message = f"tokenizer.ggml.tokens has {len(gguf.tokenizer.tokens)} entries."
        raise gguf.bad(f"{prefix}vocab_size", model.vocab_size, message, "Both must be the same.")


def _check_tokenizer(gguf: GgufKeys) -> None:
    keys, size = gguf.tokenizer, len(gguf.tokenizer.tokens)
    for name, field in TokenizerKeys.model_fields.items():
        value, key = getattr(keys, name), f"tokenizer.{field.alias}"
        if isinstance(value, int) and key.endswith("_token_id") and value >= size:
            raise gguf.bad(key, value, f"The vocabulary has {size} tokens.", _ID)
        if isinstance(value, list) and name in ("types", "scores") and len(value) != size:
            raise gguf.bad(key, f"{len(value)} entries", f"The vocabulary has {size} tokens.", "Give one for each.")
    if len(set(keys.tokens)) < size:
        twice = Counter(keys.tokens).most_common(1)[0][0]
        raise gguf.bad("tokenizer.ggml.tokens", twice, "This token is there twice.", "Give every token one id.")
    for name, flag, token in (("bos", keys.add_bos, keys.bos), ("eos", keys.add_eos, keys.eos)):
        if flag and token is None:
            message = f"tokenizer.ggml.add_{name}_token is true."
            raise gguf.bad(f"tokenizer.ggml.{name}_token_id", None, message, _ID)
