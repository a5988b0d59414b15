"""The tokenizer inside a GGUF file, written out as the files Hugging Face tools read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from engine.errors import EngineError

_CONTROL_TOKEN = 3  # llama.cpp's token type for control tokens such as <|im_end|>


def write_tokenizer(gguf_path: Path, metadata: Mapping[str, Any], directory: Path) -> None:
    """Write tokenizer.json and tokenizer_config.json (special tokens, chat template) into ``directory``.

    The byte-level BPE of the SmolLM family is built from the file's own vocabulary and merges. Other kinds go through
    transformers' conversion, which is imported here and nowhere else.
    """
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise EngineError(
            "bad-gguf",
            "model",
            str(gguf_path),
            "The file has no tokenizer.",
            "Use a GGUF file made for text generation.",
        )
    known = metadata.get("tokenizer.ggml.model") == "gpt2" and metadata.get("tokenizer.ggml.pre") == "smollm"
    tokenizer = _smollm(metadata) if known else _by_transformers(gguf_path)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for key in ("bos", "eos", "unknown", "padding"):
        token_id = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if token_id is not None:
            settings[{"unknown": "unk", "padding": "pad"}.get(key, key) + "_token"] = tokens[token_id]
    if template := metadata.get("tokenizer.chat_template"):
        settings["chat_template"] = template
    (directory / "tokenizer_config.json").write_text(json.dumps(settings, indent=1, ensure_ascii=False), "utf-8")


def _smollm(metadata: Mapping[str, Any]) -> Tokenizer:
    """GPT-2's byte-level BPE, except that every digit stands alone."""
    tokens = metadata["tokenizer.ggml.tokens"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(  # type: ignore[assignment]
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    kinds = metadata.get("tokenizer.ggml.token_type") or [0] * len(tokens)
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


def _by_transformers(gguf_path: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(str(gguf_path.parent), gguf_file=gguf_path.name)
    except Exception as error:  # transformers raises whatever its readers raise
        raise EngineError(
            "bad-gguf",
            "model",
            str(gguf_path),
            f"The tokenizer in the file cannot be read: {error}.",
            "Use the model's original directory (config.json, tokenizer.json, *.safetensors).",
        ) from error
    return loaded.backend_tokenizer
