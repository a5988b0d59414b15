"""Text as it streams, for every way a tokenizer may put characters together: joined it is what decoding the whole gives."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models

from engine.config import RequestSpec, Sampling
from engine.model.tokenizer import StreamDecoder, Tokenizer
from engine.request import Request
from engine.sampling import SamplingState
from engine.stopping import Outputs
from tests.examples import examples

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
WORDS = ["▁", "▁a", "a", "b", "▁▁", ".", "é", "\ufffd", "▁<0x41", "x\ufffdy"]


def fallback(decoder: decoders.Decoder) -> Tokenizer:
    """A vocabulary as SentencePiece makes them: bytes for what it has no piece for, and three special tokens."""
    names = ["<unk>", "<s>", "</s>", *BYTES, *WORDS]
    backend = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, [], byte_fallback=True))
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.add_tokens(["<user>"])
    backend.decoder = decoder
    return Tokenizer(backend, None, (2,))


def byte_level(decoder: decoders.Decoder | None) -> Tokenizer:
    names = ["<s>", *sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet()), "Ġa", "ðŁ", "¦¥"]
    backend = tokenizers.Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    backend.add_special_tokens(["<s>"])
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoder
    return Tokenizer(backend, None, (0,))


def words(decoder: decoders.Decoder) -> Tokenizer:
    names = ["[CLS]", "low", "er", "##er", "er</w>", "low</w>", ".", "▁", "▁▁", "▁low"]
    backend = tokenizers.Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="low"))
    backend.add_special_tokens(["[CLS]"])
    backend.decoder = decoder
    return Tokenizer(backend, None, (0,))


def llama() -> decoders.Decoder:
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    return decoders.Sequence(parts)


KINDS = {
    "Llama 2": lambda: fallback(llama()),
    "Gemma": lambda: fallback(
        decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    ),
    "Metaspace with fallback": lambda: fallback(decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])),
    "pieces that name bytes and mean their names": lambda: fallback(decoders.Metaspace()),
    "byte-level": lambda: byte_level(decoders.ByteLevel()),
    "no decoder": lambda: byte_level(None),
    "Metaspace": lambda: words(decoders.Metaspace()),
    "word pieces": lambda: words(decoders.WordPiece()),
    "suffixes": lambda: words(decoders.BPEDecoder()),
}


@pytest.mark.parametrize("kind", KINDS)
@given(data=st.data())
@settings(max_examples=examples(80), deadline=None)
def test_pieces_joined_are_the_whole_text_decoded(kind: str, data: st.DataObject) -> None:
    """Of any ids: most streams are no valid UTF-8, and some ids lie beyond the vocabulary."""
    tokenizer = KINDS[kind]()
    character = [tokenizer.encode(text) for text in ("🦥", "é", "\ufffd", " ")]
    one = st.integers(0, tokenizer.vocab + 2).map(lambda token: [token])
    ids = list(chain(*data.draw(st.lists(one | st.sampled_from(character), max_size=25))))
    stream, joined = StreamDecoder(tokenizer), ""
    for count, token in enumerate(ids, 1):
        joined += stream.push(token)
        if stream.ahead:
            assert joined + stream.ahead == tokenizer.decode(ids[:count]), "what is ahead stands if it ends here"
    assert joined + stream.flush() == tokenizer.decode(ids)


def ids_of(tokenizer: Tokenizer, *names: str) -> list[int]:
    ids = [tokenizer._backend.token_to_id(name) for name in names]
    assert None not in ids
    return ids


def pieces(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = StreamDecoder(tokenizer)
    return [*(stream.push(token) for token in ids), stream.flush()]


SLOTH = [f"<0x{byte:02X}>" for byte in "🦥".encode()]


def test_a_character_of_byte_tokens_comes_whole() -> None:
    tokenizer = fallback(llama())
    assert pieces(tokenizer, ids_of(tokenizer, "a", *SLOTH, "b")) == ["a", "", "", "", "", "🦥b", ""]
    assert pieces(tokenizer, ids_of(tokenizer, "a", *SLOTH)) == ["a", "", "", "", "", "🦥"]


def test_a_space_beside_a_special_token_stays() -> None:
    tokenizer = fallback(llama())
    ids = ids_of(tokenizer, "<s>", "▁a", "▁", "</s>", "▁a", "</s>", "▁a")
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids) == "a  a a"


def ended_by(stop: str, ids: list[int], tokenizer: Tokenizer) -> tuple[str | None, int, str]:
    """End reason, tokens taken and text of a request whose output is ``ids``."""
    import torch

    sampling = Sampling(stop=(stop,), ignore_eos=True)
    request = Request(0, RequestSpec(request_id="r", prompt="-"), [1], sampling, len(ids))
    request.sampling_state = SamplingState(
        sampling, run_seed=0, number=0, seed=None, vocab=tokenizer.vocab, device=torch.device("cpu")
    )
    request.stream = StreamDecoder(tokenizer)
    outputs = Outputs(tokenizer, (), 1000, True)
    taken = outputs.append(request, ids)
    outputs.close(request)
    return request.end_reason, taken, request.text


def test_a_stop_string_of_byte_tokens_is_found_as_soon_as_it_is_there() -> None:
    tokenizer = fallback(llama())
    ids = ids_of(tokenizer, "a", *SLOTH, *SLOTH, "b")
    assert ended_by("🦥", ids, tokenizer) == ("stop_string", 5, "a")
    assert ended_by("🦥🦥", ids, tokenizer) == ("stop_string", 9, "a")
    assert ended_by("a🦥", ids, tokenizer) == ("stop_string", 5, "")


@pytest.mark.parametrize("kind", ["Llama 2", "byte-level"])
def test_a_stop_string_of_the_replacement_character_waits_for_a_real_one(kind: str) -> None:
    tokenizer = KINDS[kind]()
    sloth = ids_of(tokenizer, *SLOTH) if kind == "Llama 2" else tokenizer.encode("🦥")
    a = ids_of(tokenizer, "a")
    assert ended_by("\ufffd", [*a, *sloth, *a], tokenizer) == ("length", 2 + len(sloth), "a🦥a")
    assert ended_by("\ufffd", [*a, *sloth[:2], *a, *a], tokenizer) == ("stop_string", 4, "a")


def test_the_embedded_tokenizer_has_no_byte_tokens(embedded_model_dir: Path) -> None:
    tokenizer = Tokenizer.from_directory(embedded_model_dir)
    assert not any(tokenizer.is_byte(token) for token in range(tokenizer.vocab))
    assert not tokenizer.shows(2)
    assert not tokenizer.shows(tokenizer.vocab)
    assert tokenizer.shows(500)
