"""The tokenizer inside a GGUF file, written out as the files Hugging Face tools read."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from engine.model.gguf_keys import GgufKeys

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _BYTE = 1, 2, 3, 4, 6  # llama.cpp's types of tokens
_SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # what SentencePiece writes for a space
_TOKEN_NAMES = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}

# What byte-level tokenizers look for in a text, first come first served.
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
_REST = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SIGNS_AND_SLASHES = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"


@dataclass(frozen=True)
class _Splitting:
    """How text is split before byte-pair encoding."""

    pattern: str | None = None  # None takes GPT-2's
    digits_apart: bool = False  # with GPT-2's pattern: every number character stands alone
    composed: bool = False  # text is normalised (NFC) first
    whole_words: bool = False  # a piece that is a token is that token, whatever the merges say
    add_bos: bool = False  # where the file does not say


_LLAMA3 = _Splitting("|".join((_CONTRACTIONS, _WORD, r"\p{N}{1,3}", _SIGNS, _REST)), whole_words=True, add_bos=True)
_QWEN2 = "|".join((_CONTRACTIONS, _WORD, r"\p{N}", _SIGNS, _REST))
_SPLITTINGS = {  # by llama.cpp's names
    "gpt-2": _Splitting(),
    "smollm": _Splitting(digits_apart=True),
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _Splitting(_QWEN2, composed=True),
    "deepseek-r1-qwen": _Splitting(_QWEN2),
    "tekken": _Splitting("|".join((_CASED, r"\p{N}", _SIGNS_AND_SLASHES, _REST)), whole_words=True, add_bos=True),
}


def tokenizer_files(keys: GgufKeys) -> dict[str, str]:
    """Contents of tokenizer.json and tokenizer_config.json (special tokens, chat template), by name.

    Raises:
        EngineError: the file's kind of tokenizer or of splitting is not covered, or its tables do not fit together.
    """
    known = keys.tokenizer
    build = _sentencepiece if known.model == "llama" else _byte_level
    tokenizer, add_bos = build(keys)
    types = known.types or [_NORMAL] * len(known.tokens)
    for number, kind in enumerate(types):
        special = kind in (_CONTROL, _UNKNOWN)
        if special or kind == _USER_DEFINED:
            token = AddedToken(_content(known.tokens[number], kind), special=special, normalized=False)
            (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([token])
    ends = [(known.bos, add_bos if known.add_bos is None else known.add_bos), (known.eos, known.add_eos)]
    for name, (token_id, wanted) in zip(("bos", "eos"), ends, strict=True):
        if wanted and token_id is None:
            message = "A text is to have this token, and the file does not say which it is."
            raise keys.bad(f"tokenizer.ggml.{name}_token_id", None, message, "Use a complete file.")
    description = json.loads(tokenizer.to_str())
    description["post_processor"] = _template(known.tokens, *(token if wanted else None for token, wanted in ends))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for key, theirs in _TOKEN_NAMES.items():
        if (token_id := getattr(known, key)) is not None:
            settings[theirs] = known.tokens[token_id]
    if known.template:
        settings["chat_template"] = known.template
    return {
        "tokenizer.json": json.dumps(description, ensure_ascii=False),
        "tokenizer_config.json": json.dumps(settings, indent=1, ensure_ascii=False),
    }


def merges_by_score(scores: Mapping[str, float]) -> list[tuple[str, str]]:
    """The merges a SentencePiece vocabulary stands for, best first: every way to make a piece of two others, by its
    score.

    Ways to make the same piece are ordered by the scores of the first part, then of the second.
    """
    scored = []
    for piece, score in scores.items():
        ways = [(piece[:cut], piece[cut:]) for cut in range(1, len(piece))]
        ways = [(left, right) for left, right in ways if left in scores and right in scores]
        ways.sort(key=lambda way: (scores[way[0]], scores[way[1]]), reverse=True)
        scored += [(score, way) for way in ways]
    scored.sort(key=lambda entry: -entry[0])
    return [way for _, way in scored]


def _content(token: str, kind: int) -> str:
    """What a token looks like in a text; SentencePiece's own tokens for spaces are stored with its sign for them."""
    return token.replace(_SPACE, " ") if kind == _USER_DEFINED else token


def _sentencepiece(keys: GgufKeys) -> tuple[Tokenizer, bool]:
    """SentencePiece's byte-pair encoding: the best-scored pair first, characters that are no token as bytes."""
    known = keys.tokenizer
    if known.splitting not in (None, "default"):
        mend = "Only the default goes with SentencePiece."
        raise keys.bad("tokenizer.ggml.pre", known.splitting, "This way of splitting text is not covered.", mend)
    for key, value in (("scores", known.scores), ("token_type", known.types)):
        if value is None:
            message = "A SentencePiece vocabulary needs it."
            raise keys.bad(f"tokenizer.ggml.{key}", None, message, "Give one for each token.")
    assert known.scores is not None
    assert known.types is not None
    contents = [_content(token, kind) for token, kind in zip(known.tokens, known.types, strict=True)]
    vocabulary = _vocabulary(keys, contents)
    normal = (t for t in zip(contents, known.types, known.scores, strict=True) if t[1] == _NORMAL)
    merges = merges_by_score({token: score for token, _, score in normal})
    unknown = None if known.unknown is None else contents[known.unknown]
    bytes_too = known.types.count(_BYTE) == 256
    if unknown is None and not bytes_too:
        message = "Characters that are no token need it, as there are no tokens for bytes."
        raise keys.bad("tokenizer.ggml.unknown_token_id", None, message, "Use a complete file.")
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=bytes_too))
    to_signs = normalizers.Replace(" ", _SPACE)
    prefixed = normalizers.Sequence([normalizers.Prepend(_SPACE), to_signs]) if known.add_prefix else to_signs
    tokenizer.normalizer = prefixed  # type: ignore[assignment]
    parts: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    parts += [decoders.Strip(" ", 1, 0)] if known.add_prefix else []
    tokenizer.decoder = decoders.Sequence(parts)  # type: ignore[assignment]
    return tokenizer, True


def _byte_level(keys: GgufKeys) -> tuple[Tokenizer, bool]:
    """GPT-2's byte-level byte-pair encoding, with the splitting the file names."""
    known = keys.tokenizer
    if known.splitting not in _SPLITTINGS:
        mend = f"Covered are: {', '.join(_SPLITTINGS)}. Use the model's original directory."
        message = "This way of splitting text is not covered: its tokens would be others."
        raise keys.bad("tokenizer.ggml.pre", known.splitting, message, mend)
    splitting = _SPLITTINGS[known.splitting]
    types = known.types or [_NORMAL] * len(known.tokens)
    vocabulary = _vocabulary(keys, [_content(token, kind) for token, kind in zip(known.tokens, types, strict=True)])
    merges = _merges(keys, vocabulary)
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=splitting.whole_words))
    if splitting.composed:
        tokenizer.normalizer = normalizers.NFC()  # type: ignore[assignment]
    steps: list[Any] = [pre_tokenizers.Digits(individual_digits=True)] if splitting.digits_apart else []
    if splitting.pattern is not None:
        steps.append(pre_tokenizers.Split(Regex(splitting.pattern), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=splitting.pattern is None))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)  # type: ignore[assignment]
    tokenizer.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return tokenizer, splitting.add_bos


def _merges(keys: GgufKeys, vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    merges = []
    for number, merge in enumerate(keys.tokenizer.merges or ()):
        left, space, right = merge.partition(" ")
        if not (space and left in vocabulary and right in vocabulary and left + right in vocabulary):
            message, mend = "It does not make a token of two others.", "Give two tokens with a space between them."
            raise keys.bad(f"tokenizer.ggml.merges.{number}", merge, message, mend)
        merges.append((left, right))
    if not merges:
        message = "Byte-level BPE needs them: without, every byte is a token."
        raise keys.bad("tokenizer.ggml.merges", None, message, "Use a complete file.")
    return merges


def _vocabulary(keys: GgufKeys, contents: Sequence[str]) -> dict[str, int]:
    vocabulary = {token: number for number, token in enumerate(contents)}
    for number, token in enumerate(contents):
        if not token or vocabulary[token] != number:
            message = "This token is there twice." if token else "This token is empty."
            raise keys.bad(f"tokenizer.ggml.tokens.{number}", token, message, "Give every token a text of its own.")
    return vocabulary


def _template(tokens: Sequence[str], first: int | None, last: int | None) -> dict[str, Any] | None:
    """What puts a token before and after every text, as tokenizer.json has it; a pair of texts is one after the
    other."""
    ends = [number for number in (first, last) if number is not None]
    if not ends:
        return None

    def special(number: int | None) -> list[dict[str, Any]]:
        return [] if number is None else [{"SpecialToken": {"id": tokens[number], "type_id": 0}}]

    single, pair = (
        [*special(first), *({"Sequence": {"id": name, "type_id": 0}} for name in names), *special(last)]
        for names in ("A", "AB")
    )
    known = {tokens[n]: {"id": tokens[n], "ids": [n], "tokens": [tokens[n]]} for n in ends}
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}
