"""Chat templates, rendered as transformers renders them: the text a chat becomes before it is tokenised.

A template comes with a model, from strangers. It runs in Jinja's immutable sandbox and sees the messages, the model's
special tokens and the day; whatever goes wrong in it is an error of that request.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.config.errors import EngineError
from engine.model.reading import read_json

if TYPE_CHECKING:
    from jinja2 import Template

_NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


class ChatTemplate:
    """One model's template, compiled when it is first needed."""

    def __init__(self, source: str, special: Mapping[str, str]) -> None:
        """``special``: the model's special tokens by the names that templates use (``special_tokens``)."""
        self.source = source
        self._special = dict(special)

    def render(self, messages: Sequence[Mapping[str, Any]], now: datetime) -> str:
        """The chat as text, up to where the assistant answers.

        Args:
            messages: ``role`` and ``content`` of each, in order.
            now: what the template is told when it asks for the date.

        Raises:
            EngineError: the template does not compile, fails, or reaches for what it must not.
        """

        def strftime_now(form: str) -> str:
            return now.strftime(form)

        try:
            return self._compiled.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=True,
                strftime_now=strftime_now,
                **self._special,
            )
        except Exception as error:  # a template is a program: it may divide by zero as well
            raise bad_template(str(error) or type(error).__name__) from error

    @cached_property
    def _compiled(self) -> Template:
        from jinja2 import TemplateError, nodes
        from jinja2.ext import Extension, loopcontrols
        from jinja2.parser import Parser
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        class Generation(Extension):
            """``{% generation %}``: marks what the assistant says, for training; here it is only written out."""

            tags = {"generation"}  # noqa: RUF012 -- as the base class has it

            def parse(self, parser: Parser) -> nodes.Node:
                line = next(parser.stream).lineno
                body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
                return nodes.CallBlock(self.call_method("_written"), [], [], body).set_lineno(line)

            def _written(self, caller: Callable[[], str]) -> str:
                return caller()

        def raise_exception(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
        )
        environment.globals["raise_exception"] = raise_exception
        environment.filters["tojson"] = _tojson
        return environment.from_string(self.source)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own filter sorts keys and escapes for HTML; models were trained on neither."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def bad_template(reason: str) -> EngineError:
    message = f"The model's chat template fails: {reason.rstrip('.')}."
    return EngineError("bad-chat-template", "chat", True, message, "Turn chat off.")


def chat_template(directory: Path) -> ChatTemplate | None:
    """The template of a model's directory: the file of its own, else what its tokenizer_config.json holds; None without
    one.

    Raises:
        EngineError: it is there and is no text.
    """
    settings = read_json(directory / "tokenizer_config.json", required=False)
    template = settings.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = named.get("default")
    if (own_file := directory / "chat_template.jinja").is_file():
        template = own_file.read_text("utf-8")
    if template is None:
        return None
    if not isinstance(template, str):
        raise EngineError(
            "bad-file",
            "chat_template",
            str(directory / "tokenizer_config.json"),
            f"a chat template is a text, or a list of named ones; this is {type(template).__name__}.",
            "Correct chat_template in tokenizer_config.json.",
        )
    return ChatTemplate(template, special_tokens(directory, settings))


def special_tokens(directory: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens as templates name them: ``bos_token`` and its kind, and what the model adds (``image_token``,
    ...).

    A model that has no such token has no such name. ``special_tokens_map.json`` counts where the settings are of the
    older form, without ``added_tokens_decoder``.
    """
    known = dict(settings)
    if "added_tokens_decoder" not in known:
        known |= read_json(directory / "special_tokens_map.json", required=False)
    own = {name: token for name, token in known.items() if name.endswith("_token") and name not in _NAMED}
    for more in (known.get("extra_special_tokens"), known.get("model_specific_special_tokens")):
        own |= more if isinstance(more, dict) else {}
    texts = {name: _content(token) for name, token in ({name: known.get(name) for name in _NAMED} | own).items()}
    return {name: token for name, token in texts.items() if token is not None}


def _content(token: Any) -> str | None:
    """A token is stored as its text, or as an object that holds it."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None
