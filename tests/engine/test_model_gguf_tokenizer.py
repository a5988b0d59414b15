"""The tokenizer in a GGUF file gives the ids of the model's own, or is refused by name."""

from __future__ import annotations

import itertools
import json
import random
import unicodedata
from collections.abc import Iterator, Mapping
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import pytest
import regex
import torch
from tokenizers import Regex, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend

from engine.config.errors import EngineError
from engine.model.gguf import read_model
from engine.model.gguf_tokenizer import merges_by_score
from engine.model.load import load, resolve
from engine.model.tokenizer import Tokenizer
from tests.engine.gguf_files import MERGES, TOKENS, byte_tokens, write_gguf
from tests.engine.test_tokenizer import TEXTS

SPACE = "▁"
PROSE = [text for _, text in sorted(topics.items())][:30]
SAMPLES = [text for text in TEXTS if "<|" not in text] + [
    "2024 was 12345678 days, 1/2024//x/y\n\n\nnext",
    "I'LL we'Ll DON'T camelCase XMLHttp ÀÉ İı",
    "  two  spaces   three\t\ttabs \n \n end ",
    "cafe\u0301 and café",
]


def tokenizer_of(path: Path) -> Tokenizer:
    """The tokenizer of a GGUF file as a run gets it."""
    model = read_model(path)
    for name, text in model.tokenizer.items():
        (path.parent / name).write_text(text, "utf-8")
    return Tokenizer.from_directory(path.parent, model.shape.eos_token_ids)


def write(path: Path, keys: Mapping[str, Any]) -> Path:
    """A GGUF file with this tokenizer; the embedding has a row for each of its tokens."""
    size = len(keys.get("tokenizer.ggml.tokens", TOKENS))
    write_gguf(
        path, keys={"llama.vocab_size": size, **keys}, tensors={"token_embd.weight": np.zeros((size, 64), np.float32)}
    )
    return path


# SentencePiece


def pieces() -> tuple[list[str], list[float], list[int]]:
    """A vocabulary as Llama 2's: three special tokens, the bytes, then pieces, each scored below the one before."""
    trained = Backend(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()  # type: ignore[assignment]
    trained.train_from_iterator(PROSE, trainers.BpeTrainer(vocab_size=700, show_progress=False))
    words = [token for token, _ in sorted(trained.get_vocab().items(), key=lambda entry: entry[1])]
    long_first = [w for w in words if len(w) > 1] + [w for w in words if len(w) == 1]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *long_first]
    scores = [0.0] * 259 + [-float(n) for n in range(len(long_first))]
    return tokens, scores, [2, 3, 3] + [6] * 256 + [1] * len(long_first)


VOCABULARY, SCORES, TYPES = pieces()


def sentencepiece_keys(**changes: Any) -> dict[str, Any]:
    keys = {
        "model": "llama",
        "pre": "default",
        "tokens": VOCABULARY,
        "scores": SCORES,
        "token_type": TYPES,
        "merges": None,
    }
    keys |= {"bos_token_id": 1, "eos_token_id": 2, "unknown_token_id": 0, **changes}
    return {f"tokenizer.ggml.{key}": value for key, value in keys.items()}


def slow_sentencepiece(text: str) -> list[int]:
    """The obvious way: of all neighbours that make a piece, join those with the best score, the leftmost first."""
    known = {t: s for t, s, kind in zip(VOCABULARY, SCORES, TYPES, strict=True) if kind == 1}
    parts = list((SPACE + text).replace(" ", SPACE))
    while True:
        ways = [(-known[a + b], at) for at, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in known]
        if not ways:
            break
        at = min(ways)[1]
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    ids = []
    for part in parts:
        ids += [VOCABULARY.index(part)] if part in known else [3 + byte for byte in part.encode()]
    return ids


def test_sentencepiece_gives_the_ids_of_the_obvious_algorithm(tmp_path: Path):
    tokenizer = tokenizer_of(write(tmp_path / "m.gguf", sentencepiece_keys()))
    for text in [*SAMPLES, *(text[:400] for text in PROSE)]:
        if text:
            assert tokenizer.encode(text) == [1, *slow_sentencepiece(text)], text


@pytest.mark.parametrize("text", [" leading", "  two", "trailing ", " ", "a  b", "é\n", "\u2581 its own sign 🦥"])
def test_sentencepiece_text_keeps_its_spaces(text: str, tmp_path: Path):
    for prefix in (True, False):
        tokenizer = tokenizer_of(write(tmp_path / "m.gguf", sentencepiece_keys(add_space_prefix=prefix)))
        assert tokenizer.decode(tokenizer.encode(text)) == text.replace(SPACE, " ")
    assert tokenizer.encode("a") == [1, VOCABULARY.index("a")]  # the last one: no space before


def test_merges_are_those_of_the_library():
    from transformers.integrations.ggml import GGUFTokenizerSkeleton

    ours = merges_by_score(dict(zip(VOCABULARY, SCORES, strict=True)))
    assert ours == GGUFTokenizerSkeleton({"tokens": VOCABULARY, "scores": SCORES}).merges
    tied = {token: float(score // 5) for token, score in zip(VOCABULARY, SCORES, strict=True)}
    theirs = GGUFTokenizerSkeleton({"tokens": VOCABULARY, "scores": list(tied.values())}).merges
    assert merges_by_score(tied) == theirs
    assert len(ours) > 400


class Counted(dict[str, float]):
    """Counts how often it is looked into."""

    looks = 0

    def __contains__(self, key: object) -> bool:
        self.looks += 1
        return super().__contains__(key)


def test_a_large_vocabulary_costs_a_look_per_character_and_no_more():
    draw = random.Random(1)
    words = {"".join(draw.choices("abcdefgh", k=draw.randint(1, 12))) for _ in range(32_000)}
    scores = Counted({word: -float(n) for n, word in enumerate(sorted(words))})
    merges_by_score(scores)
    assert scores.looks <= 2 * sum(len(word) for word in words)


def test_a_byte_is_not_made_by_merging_its_name(tmp_path: Path):
    tokens = [*VOCABULARY[:259], *"<0x41>", "<0", "<0x", "<0x4", "1>"]
    scores, types = [-float(n) for n in range(len(tokens))], [*TYPES[:259], *[1] * (len(tokens) - 259)]
    keys = sentencepiece_keys(tokens=tokens, scores=scores, token_type=types, add_space_prefix=False)
    ids = tokenizer_of(write(tmp_path / "m.gguf", keys)).encode("<0x41>")
    assert [tokens[n] for n in ids] == ["<s>", "<0x4", "1>"]


# Byte-level BPE


def trained(pattern: str) -> tuple[list[str], list[str]]:
    """Tokens and merges learned from text split by ``pattern``, after the three special tokens."""
    backend = Backend(models.BPE())
    steps = [
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(False, use_regex=False),
    ]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)  # type: ignore[assignment]
    texts = [*PROSE, "2024 1999 202 199 123 12 1234 Café CAFÉ XMLHttp /usr/bin//x\n/ " * 20]
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False, initial_alphabet=byte_tokens())
    backend.train_from_iterator(texts, trainer)
    model = json.loads(backend.to_str())["model"]
    words = [token for token, _ in sorted(model["vocab"].items(), key=lambda entry: entry[1])]
    return [*TOKENS[:3], *words], [" ".join(merge) for merge in model["merges"]]


#: What the models' own tokenizers split by.
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def slow_byte_level(text: str, pattern: str, tokens: list[str], merges: list[str], whole_words: bool) -> list[int]:
    """The obvious way: split, write bytes as characters, join the pair that was learned first."""
    signs = byte_characters()
    ids = {token: number for number, token in enumerate(tokens)}
    ranks = {tuple(merge.split(" ")): rank for rank, merge in enumerate(merges)}
    token_ids = []
    for match in regex.finditer(pattern, text):
        parts = [signs[byte] for byte in match.group().encode()]
        if whole_words and "".join(parts) in ids:
            parts = ["".join(parts)]
        while ways := [(ranks[pair], at) for at, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]:
            at = min(ways)[1]
            parts[at : at + 2] = [parts[at] + parts[at + 1]]
        token_ids += [ids[part] for part in parts]
    return token_ids


def byte_characters() -> list[str]:
    """GPT-2's character for every byte: itself where it can be seen, else the next one from 256 on."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden: Iterator[int] = iter(range(256, 512))
    return [chr(byte) if byte in seen else chr(next(hidden)) for byte in range(256)]


CASES = {
    "llama-bpe": (LLAMA3, True, True),
    "llama3": (LLAMA3, True, True),
    "qwen2": (QWEN2, False, False),
    "deepseek-r1-qwen": (QWEN2, False, False),
    "gpt-2": (GPT2, False, False),
    "tekken": (TEKKEN, True, True),
}


@pytest.mark.parametrize("splitting", CASES)
def test_byte_level_gives_the_ids_of_the_obvious_algorithm(splitting: str, tmp_path: Path):
    pattern, whole_words, add_bos = CASES[splitting]
    tokens, merges = trained(pattern)
    if whole_words:  # a word that is a token although nothing merges to it
        tokens.append("ĠXMLHttp")
    keys = {"pre": splitting, "tokens": tokens, "token_type": [3] * 3 + [1] * (len(tokens) - 3), "merges": merges}
    tokenizer = tokenizer_of(write(tmp_path / "m.gguf", {f"tokenizer.ggml.{k}": v for k, v in keys.items()}))
    for text in [*SAMPLES, *(text[:500] for text in PROSE)]:
        plain = unicodedata.normalize("NFC", text) if splitting == "qwen2" else text
        expected = slow_byte_level(plain, pattern, tokens, merges, whole_words)
        assert tokenizer.encode(text) == ([1] if add_bos else []) + expected, text


def test_qwen2_gives_the_ids_of_the_library(tmp_path: Path):
    from transformers import Qwen2Tokenizer

    tokens, merges = trained(QWEN2)
    keys = {"pre": "qwen2", "tokens": tokens, "token_type": [3] * 3 + [1] * (len(tokens) - 3), "merges": merges}
    tokenizer = tokenizer_of(write(tmp_path / "m.gguf", {f"tokenizer.ggml.{k}": v for k, v in keys.items()}))
    vocabulary = {token: number for number, token in enumerate(tokens)}
    theirs = Qwen2Tokenizer(vocab=vocabulary, merges=[tuple(m.split(" ")) for m in merges])
    for text in SAMPLES:
        assert tokenizer.encode(text) == theirs(text)["input_ids"], text


def test_llama3_takes_digits_in_threes(tmp_path: Path):
    tokens, merges = [*TOKENS, "20", "24", "202"], [*MERGES, "2 0", "2 4", "20 2"]
    keys = {"tokens": tokens, "token_type": [3] * 3 + [1] * (len(tokens) - 3), "merges": merges, "add_bos_token": False}
    for splitting, parts in (("llama-bpe", ["202", "4"]), ("qwen2", ["2", "0", "2", "4"]), ("gpt-2", ["20", "24"])):
        more = {f"tokenizer.ggml.{key}": value for key, value in {**keys, "pre": splitting}.items()}
        tokenizer = tokenizer_of(write(tmp_path / "m.gguf", more))
        assert [tokens[n] for n in tokenizer.encode("2024")] == parts, splitting


# Tokens with a meaning


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, []),
        ({"add_bos_token": True}, ["<|im_start|>"]),
        ({"pre": "llama-bpe"}, ["<|im_start|>"]),
        ({"pre": "llama-bpe", "add_bos_token": False}, []),
    ],
    ids=str,
)
def test_a_text_begins_as_the_file_says(keys: dict[str, Any], expected: list[str], tmp_path: Path):
    tokenizer = tokenizer_of(
        write(tmp_path / "m.gguf", {f"tokenizer.ggml.{key}": value for key, value in keys.items()})
    )
    first = [TOKENS.index(token) for token in expected]
    word = [TOKENS.index("Ġthe")]
    assert tokenizer.encode(" the") == first + word
    assert tokenizer.prompt(" the", length=2)[: len(first) + 1] == first + word


def test_a_text_ends_as_the_file_says(tmp_path: Path):
    keys = {"tokenizer.ggml.add_bos_token": True, "tokenizer.ggml.add_eos_token": True}
    assert tokenizer_of(write(tmp_path / "m.gguf", keys)).encode(" the") == [1, TOKENS.index("Ġthe"), 2]


def test_sentencepiece_begins_with_its_token_unless_told_otherwise(tmp_path: Path):
    word = VOCABULARY.index(SPACE + "the")
    for flag, expected in ((None, [1, word]), (True, [1, word]), (False, [word])):
        tokenizer = tokenizer_of(write(tmp_path / "m.gguf", sentencepiece_keys(add_bos_token=flag)))
        assert tokenizer.encode("the") == expected


def test_a_chat_prompt_gets_no_second_beginning(tmp_path: Path):
    template = "{{ bos_token }}{{ messages[0]['content'] }}"
    keys = {"tokenizer.ggml.add_bos_token": True, "tokenizer.chat_template": template}
    assert tokenizer_of(write(tmp_path / "m.gguf", keys)).prompt(" the", chat=True) == [1, TOKENS.index("Ġthe")]


def test_the_end_of_a_turn_and_of_a_message_stop_as_well(tmp_path: Path):
    path = write(tmp_path / "m.gguf", {"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.eot_token_id": 2})
    assert read_model(path).shape.eos_token_ids == (1, 2)
    path = write(tmp_path / "m.gguf", {"tokenizer.ggml.eot_token_id": 2, "tokenizer.ggml.eom_token_id": 0})
    assert read_model(path).shape.eos_token_ids == (2, 0)
    path = write(tmp_path / "m.gguf", {"tokenizer.ggml.eos_token_id": None})
    assert read_model(path).shape.eos_token_ids == ()


def test_the_stop_tokens_reach_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SERVESCOPE_CACHE", str(tmp_path / "cache"))
    path = write(tmp_path / "m.gguf", {"tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.eot_token_id": 2})
    model = load(resolve(str(path)), torch.device("cpu"), torch.float32)
    assert model.tokenizer.eos_token_ids == model.shape.eos_token_ids == (1, 2)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_tokens_that_a_user_defined_are_matched_whole(kind: str, tmp_path: Path):
    if kind == "gpt2":
        tokens = [*TOKENS, "<tool call>", "the in"]
        keys = {
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3] * 3 + [1] * (len(TOKENS) - 3) + [4] * 2,
        }
    else:
        tokens = [*VOCABULARY, f"<tool{SPACE}call>", "the in"]
        keys = sentencepiece_keys(tokens=tokens, scores=[*SCORES, 0.0, 0.0], token_type=[*TYPES, 4, 4])
    tokenizer = tokenizer_of(write(tmp_path / "m.gguf", keys))
    ids = tokenizer.encode("x<tool call>the iny")
    first, second = len(tokens) - 2, len(tokens) - 1
    assert first in ids
    assert ids[ids.index(first) + 1] == second
    assert "<tool call>" in tokenizer.decode(ids)  # they are text, unlike control tokens
    assert tokenizer.vocab == len(tokens)


# What is refused


@pytest.mark.parametrize(
    ("keys", "key", "value"),
    [
        *(({"model": model}, "model", model) for model in ("t5", "bert", "rwkv", "none", "plamo2")),
        ({"model": None}, "model", None),
        *(({"pre": pre}, "pre", pre) for pre in (None, "default", "falcon", "deepseek-llm", "my-own")),
        ({"merges": None}, "merges", None),
        ({"merges": ["Ġ t", "nospace"]}, "merges.1", "nospace"),
        ({"merges": ["Ġ x"]}, "merges.0", "Ġ x"),
        ({"merges": [1, 2]}, "merges.0", 1),
        ({"merges": "Ġ t"}, "merges", "Ġ t"),
        ({"tokens": None}, "tokens", None),
        ({"token_type": [1, 3]}, "token_type", "2 entries"),
        ({"token_type": [9] * len(TOKENS)}, "token_type.0", 9),
        ({"eos_token_id": len(TOKENS)}, "eos_token_id", len(TOKENS)),
        ({"bos_token_id": 10**6}, "bos_token_id", 10**6),
        ({"eot_token_id": -1}, "eot_token_id", -1),
        ({"padding_token_id": 4000}, "padding_token_id", 4000),
        ({"eos_token_id": "2"}, "eos_token_id", "2"),
        ({"bos_token_id": None, "add_bos_token": True}, "bos_token_id", None),
        ({"bos_token_id": None, "pre": "llama-bpe"}, "bos_token_id", None),
        ({"add_bos_token": "yes"}, "add_bos_token", "yes"),
        ({"add_sep_token": True}, "add_sep_token", True),
        ({"precompiled_charsmap": [1]}, "precompiled_charsmap", [1]),
        ({"model": "llama", "pre": "default"}, "scores", None),
        ({"model": "llama", "pre": "llama-bpe"}, "pre", "llama-bpe"),
        ({"model": "llama", "pre": "default", "scores": [0.0]}, "scores", "1 entries"),
        ({"model": "llama", "pre": "default", "scores": [float("nan")] * len(TOKENS)}, "scores.0", float("nan")),
        (
            {"model": "llama", "pre": None, "scores": [0.0] * len(TOKENS), "unknown_token_id": None},
            "unknown_token_id",
            None,
        ),
    ],
    ids=lambda value: str(value)[:50],
)
def test_a_tokenizer_that_would_give_other_tokens_is_refused_by_name(
    keys: dict[str, Any], key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SERVESCOPE_CACHE", str(tmp_path / "cache"))
    write_gguf(tmp_path / "m.gguf", keys={f"tokenizer.ggml.{name}": content for name, content in keys.items()})
    with pytest.raises(EngineError) as caught:
        load(resolve(str(tmp_path / "m.gguf")), torch.device("cpu"), torch.float32)
    assert caught.value.field == f"m.gguf: tokenizer.ggml.{key}"
    assert repr(caught.value.value) == repr(value)
    assert caught.value.mend
    assert not (tmp_path / "cache").exists()


def test_a_token_that_is_there_twice_is_named(tmp_path: Path):
    tokens = [*TOKENS[:-1], "he"]
    with pytest.raises(EngineError) as caught:
        tokenizer_of(write(tmp_path / "m.gguf", {"tokenizer.ggml.tokens": tokens}))
    assert caught.value.value == "he"
