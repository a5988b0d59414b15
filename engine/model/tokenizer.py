"""Text to token ids and back: the model's own tokenizer, or bytes where random weights have none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn, Protocol

import tokenizers

from engine.config.errors import EngineError
from engine.model.chat import ChatTemplate, bad_template, chat_template

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CUT_MARGIN = 32  # tokens beyond the cut, so that where the text is cut cannot change the tokens before it
_SLOT = "\N{SYMBOL FOR START OF TEXT}prompt\N{SYMBOL FOR END OF TEXT}"  # stands for the user's message in a template


class TokenText(Protocol):
    """From token ids to text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids, special tokens left out."""
        ...

    def shows(self, token: int) -> bool:
        """Whether ``decode`` makes anything of it; special tokens and ids beyond the vocabulary are left out."""
        ...

    def is_byte(self, token: int) -> bool:
        """Whether it stands for one byte of a character (byte fallback), so that its text depends on the bytes beside
        it."""
        ...


class TextTokens(TokenText, Protocol):
    """What the engine needs of a tokenizer."""

    vocab: int
    stand_in: bool  # not the model's own: its text means nothing

    def encode(self, text: str) -> list[int]:
        """Token ids of a plain prompt, with the special tokens the model expects at its start."""
        ...

    def prompt(
        self,
        text: str,
        *,
        chat: bool = False,
        system: str | None = None,
        length: int | None = None,
        now: datetime | None = None,
        begins: bool = True,
    ) -> list[int]:
        """Token ids of a request's prompt.

        Args:
            text: the prompt, or with ``chat`` the user's message.
            chat: wrap it in the model's chat template, up to where the assistant answers.
            system: system message, with ``chat``.
            length: make the whole prompt exactly this many tokens; the text is cut, or repeated where it is too short.
            now: the date that templates are told, where they ask for one; None: this moment.
            begins: the text begins a sequence; False: it goes on after another one, so no mark of a beginning is put
                before it.

        Raises:
            EngineError: there is no chat template, it fails, ``length`` leaves no room for the message, or no tokens
                come of the text.
        """
        ...

    def chat(self, messages: Sequence[Mapping[str, str]], now: datetime | None = None) -> list[int]:
        """Token ids of a chat, up to where the assistant answers.

        Args:
            messages: ``role`` and ``content`` of each, in order.
            now: the date that templates are told, where they ask for one; None: this moment.

        Raises:
            EngineError: there is no chat template, or it fails.
        """
        ...


class Tokenizer:
    """The ``tokenizer.json`` of a model, with its chat template."""

    stand_in = False

    def __init__(
        self, backend: tokenizers.Tokenizer, template: ChatTemplate | None, eos_token_ids: tuple[int, ...]
    ) -> None:
        self._backend = backend
        self._backend.no_truncation()
        self._backend.no_padding()
        self._template = template
        self.eos_token_ids = eos_token_ids
        self.vocab = backend.get_vocab_size(with_added_tokens=True)
        self._left_out = {i for i, token in backend.get_added_tokens_decoder().items() if token.special}
        self._bytes = byte_tokens(backend)

    @classmethod
    def from_directory(cls, directory: Path, eos_token_ids: tuple[int, ...] = ()) -> Tokenizer:
        """
        Raises:
            EngineError: there is no tokenizer.json, or it cannot be read.
        """
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise EngineError(
                "missing-file",
                "model",
                str(directory),
                "There is no tokenizer.json in this directory.",
                "Save the model's fast tokenizer into it (save_pretrained of transformers does it).",
            )
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise EngineError(
                "bad-file", "model", str(path), f"The tokenizer cannot be read: {error}.", "Download it again."
            ) from error
        return cls(backend, chat_template(directory), eos_token_ids)

    def encode(self, text: str) -> list[int]:
        return self._encode(text, special=True)

    def _encode(self, text: str, *, special: bool) -> list[int]:
        try:
            return self._backend.encode(text, add_special_tokens=special).ids
        except (
            Exception
        ) as error:  # the library raises bare Exception, and UnicodeEncodeError for half a surrogate pair
            raise EngineError(
                "bad-prompt",
                "prompt",
                text[:80],
                f"the model's tokenizer cannot read it: {error}.",
                "Use another text.",
            ) from error

    def decode(self, ids: Sequence[int]) -> str:
        return self._backend.decode(list(ids))

    def shows(self, token: int) -> bool:
        return token not in self._left_out and self._backend.id_to_token(token) is not None

    def is_byte(self, token: int) -> bool:
        return token in self._bytes

    def prompt(
        self,
        text: str,
        *,
        chat: bool = False,
        system: str | None = None,
        length: int | None = None,
        now: datetime | None = None,
        begins: bool = True,
    ) -> list[int]:
        if length is None:
            ids = (
                self._encode(self._render(text, system, now), special=False)
                if chat
                else self._encode(text, special=begins)
            )
            return ids or self._no_tokens(text)
        if not chat:
            return self._stretched(text, length, special=begins)
        before, slot, after = self._render(_SLOT, system, now).partition(_SLOT)
        if not slot:
            raise bad_template("it does not show the user's message as it is")
        head, tail = self._encode(before, special=False), self._encode(after, special=False)
        room = length - len(head) - len(tail)
        if room < 1:
            raise EngineError(
                "prompt-too-short",
                "prompt_tokens",
                length,
                f"The chat template alone takes {len(head) + len(tail)} tokens.",
                "Raise prompt_tokens or turn chat off.",
            )
        return [*head, *self._stretched(text, room, special=False), *tail]

    def _stretched(self, text: str, length: int, *, special: bool) -> list[int]:
        """The first ``length`` tokens of the text, or of the text repeated line by line where it has fewer."""
        characters = 8 * length + 64  # of a long text, only the beginning is tokenised
        while characters < len(text):
            ids = self._encode(text[:characters], special=special)
            if len(ids) >= length + _CUT_MARGIN:
                return ids[:length]
            characters *= 2
        ids, repeats = self._encode(text, special=special) or self._no_tokens(text), 1
        while len(ids) < length:
            repeats = math.ceil(repeats * length / len(ids)) + 1
            longer = self._encode("\n".join([text] * repeats), special=special)
            ids = longer if len(longer) > len(ids) else self._no_tokens(text)  # only what stands at every start
        return ids[:length]

    def chat(self, messages: Sequence[Mapping[str, str]], now: datetime | None = None) -> list[int]:
        return self._encode(self._render_chat(messages, now), special=False)

    def _render(self, user: str, system: str | None, now: datetime | None) -> str:
        messages = [{"role": "system", "content": system}] if system is not None else []
        return self._render_chat([*messages, {"role": "user", "content": user}], now)

    def _render_chat(self, messages: Sequence[Mapping[str, str]], now: datetime | None) -> str:
        if self._template is None:
            raise EngineError(
                "no-chat-template",
                "chat",
                True,
                "This model has no chat template.",
                "Turn chat off, or choose a model tuned for chat.",
            )
        return self._template.render(messages, now or datetime.now())

    @staticmethod
    def _no_tokens(text: str) -> NoReturn:
        raise EngineError(
            "bad-prompt", "prompt", text[:80], "the model's tokenizer makes no tokens of it.", "Use another text."
        )


def byte_tokens(backend: tokenizers.Tokenizer) -> frozenset[int]:
    """Ids of the tokens that its decoder reads as one byte each; none without byte fallback."""
    if backend.decoder is None or "€" not in backend.decoder.decode(["<0xE2>", "<0x82>", "<0xAC>"]):
        return frozenset()
    names = [form.format(byte) for byte in range(256) for form in ("<0x{:02X}>", "<0x{:02x}>")]
    return frozenset(i for i in map(backend.token_to_id, names) if i is not None)


class ByteTokenizer:
    """Stand-in for random weights: the text's bytes as ids of the model's vocabulary. Its output means nothing."""

    stand_in = True
    eos_token_ids: tuple[int, ...] = ()
    _FIRST = 3  # ids below are kept for special tokens
    _PRINTABLE = 94  # printable ASCII characters after the space

    def __init__(self, vocab: int) -> None:
        if vocab <= self._FIRST:
            raise EngineError(
                "bad-model-config", "vocab", vocab, "The vocabulary is too small for text.", "Use a larger one."
            )
        self.vocab = vocab

    def encode(self, text: str) -> list[int]:
        return [self._FIRST + byte % (self.vocab - self._FIRST) for byte in text.encode("utf-8", "surrogatepass")]

    def decode(self, ids: Sequence[int]) -> str:
        """One printable character per id, so that lengths can be seen."""
        return "".join(chr(33 + token % self._PRINTABLE) for token in ids)

    def shows(self, token: int) -> bool:
        return True

    def is_byte(self, token: int) -> bool:
        return False

    def prompt(
        self,
        text: str,
        *,
        chat: bool = False,
        system: str | None = None,
        length: int | None = None,
        now: datetime | None = None,
        begins: bool = True,
    ) -> list[int]:
        ids = self.encode(f"{system}\n{text}" if chat and system else text)
        return ids if length is None else (ids * math.ceil(length / len(ids)))[:length]

    def chat(self, messages: Sequence[Mapping[str, str]], now: datetime | None = None) -> list[int]:
        return self.encode("\n".join(message["content"] for message in messages) + "\n")


class StreamDecoder:
    """Text of one request as its tokens come, whole characters only, and only what no later token can change.

    Joined, the pieces are what ``decode`` gives for all tokens at once. How text stays open depends on the tokenizer:

        bytes in every token   an unfinished character is one replacement character at the very end
        byte fallback          a run of byte tokens is one text: with a wrong byte every byte of it becomes a
                               replacement character, so it is held back until a token that is no byte ends it
                               (``ahead`` shows it)
    """

    def __init__(self, tokenizer: TokenText) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []  # those that make text
        self._context = 0  # decoding starts at this token, so that new tokens meet the ones before them
        self._whole = 0  # tokens up to the last end of a character
        self._given = 0  # characters handed out of those decoded from the context on

    def push(self, token: int) -> str:
        """Text that this token completed; empty while it is still open."""
        if not self._tokenizer.shows(token):
            return ""
        self._ids.append(token)
        if self._tokenizer.is_byte(token):
            return ""
        text = self._open()
        if text.endswith(_REPLACEMENT):
            piece = text[self._given : -1]
            self._given = max(self._given, len(text) - 1)
            return piece
        piece = text[self._given :]
        self._context, self._whole = self._whole, len(self._ids)
        self._given = len(self._open())
        return piece

    @property
    def ahead(self) -> str:
        """Whole characters that are held back: they stand if the request ends here, and may not if it goes on."""
        if not self._ids or not self._tokenizer.is_byte(self._ids[-1]):
            return ""
        text = self._open()[self._given :]
        return "" if text.endswith(_REPLACEMENT) else text

    def flush(self) -> str:
        """Whatever is left at the end of the request: unfinished characters as replacement characters."""
        return self._open()[self._given :]

    def _open(self) -> str:
        return self._tokenizer.decode(self._ids[self._context :])
