"""Text and tokens: the embedded model's tokenizer, chat prompts, exact lengths, and text as it streams."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.config.errors import EngineError
from engine.config.models import embedded_gguf
from engine.model.tokenizer import ByteTokenizer, StreamDecoder, Tokenizer
from tests.examples import examples

TEXTS = [
    "The capital of France is Paris.",
    "  leading and trailing   spaces  \n\n\ttabs",
    "digits 1234567890, 3.14159 and 12:34:56, x1y22",
    "def f(x):\n    return {'a': [1, 2], \"b\": x ** 2}  # comment\n",
    "Zürich, Kraków, naïve façade — “quoted” … ½ ² ㎏",
    "汉字 かな 한글 العربية עברית हिन्दी ไทย",
    "emoji 👩‍👩‍👧‍👦 🏳️‍🌈 🇨🇭 ☃",
    "zero\u200bwidth e\u0301 \u00a0 nbsp \ufeff",
    "<|im_start|>user\nhello<|im_end|>\n<|endoftext|>",
    "don't I'll we've THEY'RE",
    "\r\n windows \r line \x00 ends \x7f",
    "a" * 300 + " " * 50,
    "",
]


@pytest.fixture(scope="module")
def tokenizer(embedded_model_dir: Path) -> Tokenizer:
    return Tokenizer.from_directory(embedded_model_dir, (2,))


COMPARED = "50ddcc71608b679452484e3bccb3f2427f789449e8ce472194cd6dec263b9cda"
"""SHA-256 of the token ids that were held against transformers."""
SAID = "Hi <b>there</b> & you"


def test_token_ids_are_those_that_were_held_against_transformers(tokenizer: Tokenizer):
    made = [*(tokenizer.encode(text) for text in TEXTS), tokenizer.prompt(SAID, chat=True, system="Be brief.")]
    assert hashlib.sha256(json.dumps(made).encode()).hexdigest() == COMPARED


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.rare  # half a minute, and the digest says it too
def test_the_embedded_tokenizer_is_the_one_transformers_reads(tokenizer: Tokenizer):
    from transformers import AutoTokenizer

    gguf = embedded_gguf()
    theirs = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name)
    assert tokenizer.vocab == len(theirs) == 49_152
    for text in TEXTS:
        if "½" not in text:  # its reader leaves out the file's rule that every number character stands alone
            assert tokenizer.encode(text) == theirs(text)["input_ids"], text
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": SAID}]
    expected = theirs.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert tokenizer.prompt(SAID, chat=True, system="Be brief.") == tokenizer.encode(expected)


@pytest.mark.parametrize("text", TEXTS)
def test_text_survives_the_way_to_tokens_and_back(tokenizer: Tokenizer, text: str):
    without_special = text.replace("<|im_start|>", "").replace("<|im_end|>", "").replace("<|endoftext|>", "")
    assert tokenizer.decode(tokenizer.encode(text)) == without_special


def test_number_characters_stand_alone(tokenizer: Tokenizer):
    assert len(tokenizer.encode("2024")) == 4
    assert tokenizer.encode("a ½") == [*tokenizer.encode("a "), *tokenizer.encode("½")]


def test_end_of_sequence_is_the_models_own(embedded_model_dir: Path):
    """Read naively from the GGUF file's tokenizer it would be 1."""
    assert json.loads((embedded_model_dir / "config.json").read_text())["eos_token_id"] == 2
    assert json.loads((embedded_model_dir / "tokenizer_config.json").read_text())["eos_token"] == "<|im_end|>"


def test_chat_wraps_the_message_in_the_template(tokenizer: Tokenizer):
    ids = tokenizer.prompt("Why?", chat=True, system="Be brief.")
    assert ids == tokenizer.encode(
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids[0] == 1


@pytest.mark.parametrize("length", [1, 2, 17, 100, 1000])
@pytest.mark.parametrize("text", ["Hello", "The quick brown fox jumps over the lazy dog. " * 40, "👩‍👩‍👧‍👦", " "])
def test_prompts_have_exactly_the_length_asked_for(tokenizer: Tokenizer, text: str, length: int):
    ids = tokenizer.prompt(text, length=length)
    assert len(ids) == length
    whole = tokenizer.encode(text)
    if len(whole) >= length:
        assert ids == whole[:length]


def test_a_chat_prompt_of_exact_length_keeps_its_template(tokenizer: Tokenizer):
    ids = tokenizer.prompt("word " * 500, chat=True, system="Be brief.", length=64)
    assert len(ids) == 64
    text = tokenizer.decode(ids)
    assert text.startswith("system\nBe brief.\nuser\nword word")
    assert text.endswith("word\nassistant\n")


def test_a_length_the_template_does_not_leave_room_in_is_refused(tokenizer: Tokenizer):
    with pytest.raises(EngineError, match="prompt_tokens = 5") as caught:
        tokenizer.prompt("Hello", chat=True, length=5)
    assert caught.value.kind == "prompt-too-short"


def test_a_text_that_makes_no_tokens_cannot_be_stretched(tmp_path: Path):
    with pytest.raises(EngineError, match="no tokens"):
        Tokenizer.from_directory(model_files(tmp_path, None)).prompt("zzz", length=5)


def model_files(directory: Path, template: object) -> Path:
    import tokenizers

    tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0, "b": 1}, [])).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps({"chat_template": template, "bos_token": "a"}))
    return directory


def test_a_model_without_a_template_refuses_chat(tmp_path: Path):
    with pytest.raises(EngineError, match="chat template") as caught:
        Tokenizer.from_directory(model_files(tmp_path, None)).prompt("a", chat=True)
    assert caught.value.kind == "no-chat-template"


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ raise_exception('no system message, please') }}",
        "{% for",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
    ],
)
def test_a_template_that_fails_or_reaches_out_is_an_error(tmp_path: Path, template: str):
    with pytest.raises(EngineError) as caught:
        Tokenizer.from_directory(model_files(tmp_path, template)).prompt("a", chat=True)
    assert caught.value.kind == "bad-chat-template"


def test_a_template_file_and_named_templates_are_found(tmp_path: Path):
    named = [{"name": "tools", "template": "b"}, {"name": "default", "template": "{{ bos_token }}b"}]
    assert Tokenizer.from_directory(model_files(tmp_path, named)).prompt("-", chat=True) == [0, 1]
    (tmp_path / "chat_template.jinja").write_text("bb{{ messages[0]['content'] }}")
    assert Tokenizer.from_directory(tmp_path).prompt("a", chat=True) == [1, 1, 0]


@settings(max_examples=examples(200), deadline=None)
@given(st.text(max_size=40) | st.lists(st.integers(0, 400), max_size=40))
def test_streamed_pieces_make_the_whole_text(tokenizer: Tokenizer, content: str | list[int]):
    """Of text, and of any low token ids: among them are the single bytes, so most of these are not valid UTF-8."""
    ids = tokenizer.encode(content) if isinstance(content, str) else content
    stream = StreamDecoder(tokenizer)
    pieces = [stream.push(token) for token in ids]
    assert "".join(pieces) + stream.flush() == tokenizer.decode(ids)


def test_a_character_comes_whole_or_not_at_all(tokenizer: Tokenizer):
    ids = tokenizer.encode("a🦥b")
    stream = StreamDecoder(tokenizer)
    pieces = [stream.push(token) for token in ids] + [stream.flush()]
    assert len(ids) > 3
    assert [piece for piece in pieces if piece] == ["a", "🦥", "b"]


def test_a_character_that_never_ends_is_not_waited_for(tokenizer: Tokenizer):
    half = tokenizer.encode("🦥")[:-1]
    stream = StreamDecoder(tokenizer)
    pieces = [stream.push(token) for token in half * 20]
    assert "\ufffd" in "".join(pieces)
    cut_off = StreamDecoder(tokenizer)
    assert [cut_off.push(token) for token in half] == [""] * len(half)
    assert cut_off.flush() == tokenizer.decode(half)


@pytest.mark.parametrize("vocab", [10, 259, 512, 49_152])
def test_the_stand_in_stays_inside_the_vocabulary(vocab: int):
    stand_in = ByteTokenizer(vocab)
    ids = stand_in.prompt("Grüße, 世界", chat=True, system="Be brief.", length=50)
    assert stand_in.stand_in
    assert len(ids) == 50
    assert all(3 <= token < vocab for token in ids)
    assert len(stand_in.decode(range(vocab))) == vocab
    assert stand_in.decode(range(vocab)).isprintable()
