"""``config.json`` as transformers 4 or 5 writes it, with the meaning that transformers 5 gives it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field

from engine.config.errors import EngineError
from engine.model.reading import Context, Factor, Keys, Layers, One, Positive, Size, TokenId, read_keys, shortened

FILE = "config.json"
KIND = "bad-model-config"
LLAMA, MISTRAL, QWEN2, QWEN3 = "LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"
COVERED = {
    LLAMA: "Llama 2, Llama 3.x and SmolLM2",
    MISTRAL: "Mistral without sliding window",
    QWEN2: "Qwen2 and Qwen2.5",
    QWEN3: "Qwen3",
}
#: Who may say yes; Qwen2 always has biases on q, k and v, whatever it says.
_BIASED = {"attention_bias": (LLAMA, QWEN2, QWEN3), "mlp_bias": (LLAMA,)}
_MODEL_TYPES = {"llama": LLAMA, "mistral": MISTRAL, "qwen2": QWEN2, "qwen3": QWEN3}

#: Keys that the computation does not depend on: bookkeeping, training, and what ``generate`` of transformers samples
#: with.
_HARMLESS = frozenset(
    [
        "transformers_version",
        "transformers.js_config",
        "torch_dtype",
        "dtype",
        "name_or_path",
        "architectures",
        "model_type",
        "tokenizer_class",
        "task_specific_params",
        "finetuning_task",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "is_llama_config",
        "unsloth_version",
        "unsloth_fixed",
        "initializer_range",
        "attention_dropout",
        "hidden_dropout",
        "embd_pdrop",
        "resid_pdrop",
        "classifier_dropout",
        "neftune_noise_alpha",
        "use_cache",
        "pretraining_tp",
        "output_attentions",
        "output_hidden_states",
        "output_scores",
        "return_dict",
        "return_dict_in_generate",
        "torchscript",
        "attn_implementation",
        "chunk_size_feed_forward",
        "is_decoder",
        "tie_encoder_decoder",
        "cross_attention_hidden_size",
        "use_bfloat16",
        "tf_legacy_loss",
        "pad_token_id",
        "unk_token_id",
        "sep_token_id",
        "decoder_start_token_id",
        "prefix",
        "max_sequence_length",
        "model_max_length",
        "seq_length",
        "max_length",
        "min_length",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "epsilon_cutoff",
        "eta_cutoff",
        "repetition_penalty",
        "encoder_repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "bad_words_ids",
        "num_return_sequences",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "assistant_confidence_threshold",
        "assistant_lookbehind",
        "target_lookbehind",
        "num_assistant_tokens",
        "num_assistant_tokens_schedule",
    ]
)

_Scaling = Literal["default", "linear", "llama3"]
_SCALING = "Covered are default, linear and llama3."


def _as_list(value: Any) -> Any:
    return [] if value is None else value if isinstance(value, list) else [value]


_TokenIds = Annotated[list[TokenId], BeforeValidator(_as_list)]


class RopeKeys(Keys):
    """``rope_parameters``, or ``rope_scaling`` as it was before transformers 5."""

    rope_type: _Scaling | None = Field(None, description=_SCALING)
    type: _Scaling | None = Field(None, description=_SCALING)
    rope_theta: Positive = Field(10_000.0, description="Give a finite number above 0.")
    factor: Factor = Field(1.0, description="Give a finite number of at least 1.")
    low_freq_factor: Positive = Field(1.0, description="Give a finite number above 0.")
    high_freq_factor: Positive = Field(4.0, description="Give a finite number above low_freq_factor.")
    original_max_position_embeddings: Size | None = Field(None, description="Give a number of tokens.")
    partial_rotary_factor: One | None = Field(None, description="Choose a model that rotates whole heads.")


class ConfigKeys(Keys):
    """The keys that are used; those that must hold one value to mean what is computed here stand at the end."""

    quantization_config: None = Field(None, description="Use the full-precision checkpoint or a GGUF file.")
    vocab_size: Size = Field(description="It is the number of tokens.")
    hidden_size: Size = Field(description="It is the width of the residual stream.")
    intermediate_size: Size = Field(description="It is the width of the MLP.")
    num_hidden_layers: Layers = Field(description="It is the number of layers.")
    num_attention_heads: Size = Field(description="It is the number of query heads.")
    num_key_value_heads: Size | None = Field(None, description="It is the number of key and value heads.")
    head_dim: Size | None = Field(None, description="It is the width of a head: an even number.")
    max_position_embeddings: Context = Field(2048, description="It is the longest context in tokens.")
    hidden_act: Literal["silu", "swish"] = Field("silu", description="Choose a model whose activation is silu.")
    rms_norm_eps: Annotated[float, Field(gt=0, lt=1)] = Field(1e-6, description="Give a small number above 0.")
    rope_theta: Positive = Field(10_000.0, description="Give a finite number above 0.")
    rope_scaling: RopeKeys | None = Field(None, description=_SCALING)
    rope_parameters: RopeKeys | None = Field(None, description=_SCALING)
    original_max_position_embeddings: Size | None = Field(None, description="Give a number of tokens.")
    tie_word_embeddings: bool = Field(False, description="Give true or false, without quotes.")
    attention_bias: bool = Field(False, description="Give true or false, without quotes.")
    mlp_bias: bool = Field(False, description="Give true or false, without quotes.")
    sliding_window: Size | None = Field(None, description="Give a number of tokens, or null for none.")
    use_sliding_window: bool = Field(False, description="Give true or false, without quotes.")
    max_window_layers: Annotated[int, Field(ge=0)] = Field(28, description="Give a number of layers.")
    layer_types: list[Literal["full_attention", "sliding_attention"]] | None = Field(
        None, description="Give one for each layer, or null."
    )
    eos_token_id: _TokenIds = Field([], description="Give the id of a token of the vocabulary, or a list of ids.")
    bos_token_id: TokenId | None = Field(None, description="Give the id of a token, or null.")

    partial_rotary_factor: One | None = Field(None, description="Choose a model that rotates whole heads.")
    rope_interleaved: Literal[False] = Field(False, description="Choose a model that rotates halves of heads.")
    use_mrope: Literal[False] = Field(False, description="Choose a model of text only.")
    is_encoder_decoder: Literal[False] = Field(False, description="Choose a decoder-only model.")
    add_cross_attention: Literal[False] = Field(False, description="Choose a decoder-only model.")
    pruned_heads: Annotated[dict[str, Any], Field(max_length=0)] | None = Field(
        None, description="Choose a model with all its heads."
    )


class GenerationKeys(Keys):
    """What is read of ``generation_config.json``; how to sample is said by a run."""

    model_config = ConfigDict(extra="ignore")

    eos_token_id: _TokenIds = Field([], description="Give the id of a token of the vocabulary, or a list of ids.")


def bad(field: str, value: Any, message: str, mend: str = "Check the model's config.json.") -> EngineError:
    """An error about a key that makes no sense together with others."""
    return EngineError(KIND, f"{FILE}: {field}", shortened(value), message, mend)


def read_config(config: Mapping[str, Any]) -> tuple[str, ConfigKeys]:
    """Architecture and keys of a ``config.json``.

    Raises:
        EngineError: a key that is not covered, has the wrong type, or contradicts another one.
    """
    architecture = _architecture(config)
    used = {key: value for key, value in config.items() if key not in _HARMLESS and not key.startswith("_")}
    keys = read_keys(ConfigKeys, used, KIND, FILE)
    for name, covered in _BIASED.items():
        if getattr(keys, name) and architecture not in covered:
            raise bad(name, True, f"{architecture} has no such biases.", "Set it to false if the weights have none.")
    _check_window(architecture, keys)
    return architecture, keys


def read_stop_tokens(keys: ConfigKeys, generation: Mapping[str, Any] | None) -> tuple[int, ...]:
    """Ids that end a text: those of ``generation_config.json`` where it names some, else those of ``config.json``."""
    file = "generation_config.json"
    generated = read_keys(GenerationKeys, generation or {}, KIND, file).eos_token_id
    ids, file = (generated, file) if generated else (keys.eos_token_id, FILE)
    for token in ids:
        if token >= keys.vocab_size:
            message = f"The vocabulary has {keys.vocab_size} tokens: a text would never end."
            raise EngineError(
                KIND, f"{file}: eos_token_id", token, message, "Give the id of a token of the vocabulary."
            )
    return tuple(ids)


def context(architecture: str, keys: ConfigKeys) -> int:
    """The longest context in tokens."""
    default = {LLAMA: 2048, MISTRAL: 131_072}.get(architecture, 32_768)
    return keys.max_position_embeddings if keys.has("max_position_embeddings") else default


def heads(architecture: str, keys: ConfigKeys) -> tuple[int, int, int]:
    """Query heads, key and value heads, and their width."""
    count, hidden = keys.num_attention_heads, keys.hidden_size
    kv_heads, head_dim = keys.num_key_value_heads, keys.head_dim
    if not keys.has("num_key_value_heads"):
        kv_heads = {LLAMA: count, MISTRAL: 8}.get(architecture, 32)
    kv_heads = kv_heads or count
    if count % kv_heads:
        said = "" if keys.has("num_key_value_heads") else f", what {architecture} has where nothing is said,"
        raise bad("num_key_value_heads", kv_heads, f"This{said} does not divide num_attention_heads = {count}.")
    if architecture == QWEN3 and head_dim is None:
        if keys.has("head_dim"):
            raise bad("head_dim", None, "Qwen3 needs a number here.", "Give the width of a head, or leave it out: 128.")
        head_dim = 128
    if architecture == LLAMA and hidden % count:
        raise bad("hidden_size", hidden, f"It is no multiple of num_attention_heads = {count}.")
    head_dim = head_dim or hidden // count
    if head_dim < 2 or head_dim % 2:
        raise bad("head_dim", head_dim, "Rotary embeddings need an even head size.")
    return count, kv_heads, head_dim


def rope(keys: ConfigKeys, longest: int) -> tuple[float, RopeKeys, _Scaling, int]:
    """Base, keys, kind of scaling, and the context of the training, of rotary embeddings.

    ``rope_scaling`` stands in for the whole of ``rope_parameters`` where both are there, as in transformers 5.
    """
    where = "rope_scaling" if keys.rope_scaling and keys.rope_scaling.model_fields_set else "rope_parameters"
    rope_keys = getattr(keys, where) or RopeKeys()
    theta = rope_keys.rope_theta if rope_keys.has("rope_theta") else keys.rope_theta
    kind = rope_keys.rope_type or rope_keys.type or "default"
    wanted = {"default": (), "linear": ("factor",), "llama3": ("factor", "low_freq_factor", "high_freq_factor")}[kind]
    for name in ("factor", "low_freq_factor", "high_freq_factor"):
        if name in wanted and not rope_keys.has(name):
            raise bad(f"{where}.{name}", None, f"{kind} scaling needs it.")
        if name not in wanted and rope_keys.has(name):
            message = f"{kind} scaling does not use it."
            raise bad(
                f"{where}.{name}", getattr(rope_keys, name), message, "Name the rope_type that does, or take it out."
            )
    if kind == "llama3" and rope_keys.low_freq_factor >= rope_keys.high_freq_factor:
        message = f"It must be larger than low_freq_factor = {rope_keys.low_freq_factor}."
        raise bad(f"{where}.high_freq_factor", rope_keys.high_freq_factor, message)
    original = keys.original_max_position_embeddings or rope_keys.original_max_position_embeddings or longest
    return theta, rope_keys, kind, original


def _architecture(config: Mapping[str, Any]) -> str:
    """The class transformers would take: it goes by ``model_type``; ``architectures`` must not say another."""
    names, kind = config.get("architectures"), config.get("model_type")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise bad("architectures", names, "A list with one name is needed here.", f'Such as ["{LLAMA}"].')
    if kind is not None and not isinstance(kind, str):
        raise bad("model_type", kind, "A text is needed here.", f"Such as {next(iter(_MODEL_TYPES))}.")
    by_type = _MODEL_TYPES.get(kind or "")
    name = names[0] if names else by_type or kind
    if name is None:
        raise bad("architectures", None, "The file does not say what the model is.", f'Such as ["{LLAMA}"].')
    if name not in COVERED or (names and len(names) > 1):
        covered = "; ".join(f"{key} ({families})" for key, families in COVERED.items())
        raise EngineError(
            "unknown-architecture",
            "model",
            shortened(name if not names or len(names) == 1 else names),
            "This architecture is not covered.",
            f"Choose a model of one of these: {covered}.",
        )
    if kind is not None and by_type != name:
        message = f"architectures says {name}."
        raise bad("model_type", kind, message, "Both must name the same kind of model.")
    return name


def _check_window(architecture: str, keys: ConfigKeys) -> None:
    """Full attention is all there is here; a window as long as the model's context is the same thing."""
    if keys.layer_types is not None and len(keys.layer_types) != keys.num_hidden_layers:
        message = f"It has {len(keys.layer_types)} entries for {keys.num_hidden_layers} layers."
        raise bad("layer_types", keys.layer_types, message)
    if architecture == LLAMA:
        return
    longest, window = context(architecture, keys), keys.sliding_window
    given = keys.has("sliding_window")
    if architecture == MISTRAL:
        window = window if given else 4096
    else:
        window = (window if given else 4096) if keys.use_sliding_window else None
        which_layers = keys.max_window_layers if keys.has("max_window_layers") else 0  # on from this one
        windowed = window is not None and which_layers < keys.num_hidden_layers
        if keys.layer_types is not None:
            windowed = "sliding_attention" in keys.layer_types
            if windowed and window is None:
                message = "There is no sliding_window to it, or use_sliding_window is false."
                raise bad("layer_types", "sliding_attention", message)
        window = window if windowed else None
    if window is None or window >= longest:
        return
    raise bad(
        "sliding_window",
        window if given else None,
        f"Attention over a sliding window{'' if given else f' (of {window} tokens where none is given)'} shorter than "
        f"the context ({longest} tokens) is not covered.",
        "Choose a model without it (for Mistral: version 0.2 or later, where it is null).",
    )
