"""Chat templates: what transformers makes of them, whatever family they come from, and nothing that they must not reach.

The templates here are ours, each in the manner of a known family or for one thing that templates do.
"""

from __future__ import annotations

import json
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest
import tokenizers

from engine.config import RequestSpec, RunSpec
from engine.model.chat import ChatTemplate, special_tokens
from engine.model.tokenizer import Tokenizer

NOON = datetime(2024, 3, 5, 12, 30)
SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "image_token": "<img>"}
CHATS = {
    "user": [{"role": "user", "content": "Hi <b>there</b> & 'you' — 🦥"}],
    "system": [{"role": "system", "content": "  Be brief.\n"}, {"role": "user", "content": "Why?\n"}],
}
PARTS = """{% macro say(who, what) %}<|{{ who }}|>
{{ what | trim }}<|end|>
{% endmacro %}"""
TEMPLATES = {
    "ChatML": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    "ChatML with a system message of its own": "{% if messages[0]['role'] != 'system' %}<|im_start|>system\nHelp.<|im_end|>\n"
    "{% endif %}{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' if add_generation_prompt else '' }}",
    "Llama 2": "{% set intro = '<<SYS>>' ~ messages[0].content ~ '<</SYS>>' if messages[0].role == 'system' else '' %}"
    "{% for m in messages if m.role != 'system' %}{% if m.role == 'user' %}{{ bos_token }}[INST] {{ intro if loop.first }}{{ m.content.strip() }} [/INST]"
    "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}",
    "Llama 3": "{{ bos_token }}{% for m in messages %}<|head|>{{ m['role'] }}<|tail|>\n\n{{ m['content'] | trim }}<|eot|>{% endfor %}"
    "{% if add_generation_prompt %}<|head|>assistant<|tail|>\n\n{% endif %}",
    "Llama 3.2, with the day": "{% if date_string is not defined %}{% if strftime_now is defined %}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% else %}{% set date_string = '1 Jan 1999' %}{% endif %}{% endif %}Today: {{ date_string }}\n{{ messages[-1].content }}",
    "Llama 3.2, with tools": "{% if tools is not none %}Tools: {{ tools | tojson(indent=4) }}\n{% endif %}"
    "{% if not tools_in_user_message is defined %}{% set tools_in_user_message = true %}{% endif %}"
    "{{ tools_in_user_message and tools }}{{ messages[-1].content }}",
    "Mistral": "{% if messages[0].role == 'system' %}{% set s = messages[0].content %}{% set rest = messages[1:] %}{% else %}{% set rest = messages %}"
    "{% endif %}{{ bos_token }}{% for m in rest %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must take turns') }}"
    "{% endif %}[INST]{{ s + '\n\n' if s is defined and loop.last }}{{ m.content }}[/INST]{% endfor %}",
    "Mistral, which forbids a system message": "{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
    "{{ raise_exception('Only user and assistant roles!') }}{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}",
    "Qwen 2.5": "{%- if tools %}\n    {{- '# Tools' }}\n{%- else %}\n    {%- if messages[0]['role'] == 'system' %}\n"
    "        {{- messages[0]['content'] }}\n    {%- else %}\n        {{- 'You help.' }}\n    {%- endif %}\n{%- endif %}\n"
    "{%- for m in messages %}\n    {{- '<' + m.role + '>' + m.content }}\n{%- endfor %}\n",
    "Qwen 3, which looks backwards": "{% set ns = namespace(last=-1, on=true) %}{% for m in messages[::-1] %}{% set i = (messages | length - 1) - loop.index0 %}"
    "{% if ns.on and m.role == 'user' and not (m.content.startswith('<tool>') and m.content.endswith('</tool>')) %}"
    "{% set ns.on = false %}{% set ns.last = i %}{% endif %}{% endfor %}{{ ns.last }}:{{ messages[ns.last].content }}"
    "{% if enable_thinking is defined and enable_thinking is false %}<think></think>{% endif %}",
    "Gemma": "{{ bos_token }}{% if messages[0].role == 'system' %}{% set first = messages[0].content + '\n\n' %}{% set rest = messages[1:] %}"
    "{% else %}{% set first = '' %}{% set rest = messages %}{% endif %}{% for m in rest %}<turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ first if loop.first else '' }}{% if m.content is string %}{{ m.content | trim }}{% elif m.content is iterable %}{% for c in m.content %}"
    "{{ c.text }}{% endfor %}{% endif %}<end>\n{% endfor %}<turn>model\n",
    "Phi 3": "{% for m in messages %}{% if m['role'] in ('user', 'system') and m['content'] %}{{ '<|' ~ m['role'] ~ '|>\n' ~ m['content'] ~ '<|end|>\n' }}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% else %}{{ eos_token }}{% endif %}",
    "Zephyr": "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n{% elif m['role'] == 'system' %}\n"
    "{{ '<|system|>\n' + m['content'] + eos_token }}\n{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "Alpaca": "{% for m in messages %}\n    {%- if m.role == 'user' %}\n### Instruction:\n{{ m.content | trim }}\n\n"
    "    {%- endif %}\n{% endfor %}\n### Response:\n",
    "Command R": "{{ bos_token }}{% if documents %}<docs>{{ documents }}</docs>{% elif documents is none %}<no-docs>{% endif %}{% for m in messages %}"
    "<|START|>{{ m.role | upper }}_TOKEN{{ m.content }}{% endfor %}",
    "DeepSeek": "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% set ns = namespace(sys='') %}"
    "{% for m in messages if m['role'] == 'system' %}{% set ns.sys = ns.sys + m['content'] %}{% endfor %}{{ bos_token }}{{ ns.sys }}"
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '<|User|>' + m['content'].split('</think>')[-1] }}{% endif %}{% endfor %}<|Assistant|>",
    "SmolLM": "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ 'S: small\n' }}{% endif %}"
    "{{ m['role'] | capitalize }}: {{ m['content'] }}\n{% endfor %}",
    "Granite": "{%- set days = strftime_now('%B %d, %Y') -%}{%- for m in messages -%}{{ '[' ~ m.role ~ ' ' ~ days ~ ']' ~ m.content }}{%- endfor -%}",
    "Hermes, with macros": PARTS + "{% for m in messages %}{{ say(m.role, m.content) }}{% endfor %}",
    "a macro that asks for the day": "{% macro day() %}{{ strftime_now('%Y-%m-%d') }}{% endmacro %}{{ day() }} {{ messages[-1].content }}",
    "training marks": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}|{% endfor %}"
    "{% generation %}\n  kept\n{%- endgeneration %}",
    "training marks are a scope": "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}",
    "break": "{% for m in messages %}{{ m.role }}{% if m.role == 'system' %}{% break %}{% endif %}{{ m.content }}{% endfor %}!",
    "continue": "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}!",
    "JSON": "{{ {'z': messages[-1].content, 'a': ['<>&', 'é', none, true, 1.5]} | tojson }}",
    "JSON, asked for otherwise": "{{ {'z': 'é', 'a': messages} | tojson(ensure_ascii=true, indent=2, separators=(',', ': '), sort_keys=true) }}",
    "special tokens that are not there": "{{ cls_token is defined }}{{ pad_token }}{{ bos_token is defined }}{{ image_token }}{{ audio_token is defined }}",
    "what is none and what is undefined": "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ chat_template_kwargs is defined }}"
    "{{ builtin_tools is defined }}{{ add_generation_prompt }}",
    "white space": "  {% if true %}\n    a\n  {% endif %}\n  b {#- note -#}  c\n\n\n{{ messages[0].content }}\n",
    "filters": "{{ messages | map(attribute='role') | join(',') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} "
    "{{ messages[0].content | replace('H', 'J') | length }} {{ messages[0] | items | list }} {{ messages[0].content | e }}",
    "a loop with its books": "{% for m in messages %}{{ loop.index }}/{{ loop.length }}{{ loop.cycle('x', 'y') }}{{ loop.previtem.role if loop.previtem is defined }}"
    "{{ cycler('p', 'q').next() }}{% else %}none{% endfor %}",
    "a missing key": "{{ messages[0].tool_calls is defined }}{{ messages[0]['name'] }}{{ messages[0].get('content') }}{{ messages[0].name.first }}",
    "an error of its own": "{{ 1 / 0 }}",
    "adding a number to text": "{{ messages[0].content + 1 }}",
    "no template at all": "{% if %}",
}  # fmt: skip


@pytest.fixture(scope="module")
def theirs():
    from transformers import PreTrainedTokenizerFast

    backend = tokenizers.Tokenizer(tokenizers.models.BPE({"a": 0}, []))
    special = {**SPECIAL}
    image = special.pop("image_token")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special, extra_special_tokens={"image_token": image})


def outcome(render) -> tuple[str | None, Exception | None]:
    """What a template gives, or what it fails with."""
    try:
        return render(), None
    except Exception as error:
        return None, error


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("chat", CHATS)
def test_a_template_gives_what_transformers_makes_of_it(name: str, chat: str, theirs, monkeypatch) -> None:
    from transformers.utils import chat_template_utils

    class Frozen(datetime):
        @classmethod
        def now(cls, tz=None):
            return NOON

    monkeypatch.setattr(chat_template_utils, "datetime", Frozen)
    wanted = {"tokenize": False, "add_generation_prompt": True, "chat_template": TEMPLATES[name]}
    expected, refused = outcome(lambda: theirs.apply_chat_template(CHATS[chat], **wanted))
    text, error = outcome(lambda: ChatTemplate(TEMPLATES[name], SPECIAL).render(CHATS[chat], NOON))
    assert text == expected
    assert (error is None) == (refused is None)
    if error is not None:
        assert error.kind == "bad-chat-template"
        assert str(refused).rstrip(".") in error.message


def test_the_set_of_templates_is_worth_something(theirs) -> None:
    """At least 30, most of them rendered and not refused, on both chats."""
    assert len(TEMPLATES) >= 30
    rendered = [
        outcome(partial(ChatTemplate(source, SPECIAL).render, CHATS["user"], NOON))[0] for source in TEMPLATES.values()
    ]
    assert sum(map(bool, rendered)) >= 30


CONFIGS = {
    "plain": {"bos_token": "<s>", "eos_token": {"__type": "AddedToken", "content": "</s>", "special": True}, "pad_token": None},
    "extra by name": {"bos_token": "<s>", "extra_special_tokens": {"image_token": "<img>", "video_token": "<vid>"}},
    "extra as a list": {"bos_token": "<s>", "extra_special_tokens": ["<a>", "<b>"]},
    "the older name of that list": {"eos_token": "</s>", "additional_special_tokens": ["<a>", "<b>"]},
    "tokens of its own": {"bos_token": "<s>", "audio_token": "<au>", "mask_token": "<m>", "add_bos_token": False},
}  # fmt: skip


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("added", [False, True])
def test_special_tokens_have_the_names_that_transformers_gives_them(name: str, added: bool, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    settings = {"tokenizer_class": "PreTrainedTokenizerFast", **CONFIGS[name]}
    if added:
        settings["added_tokens_decoder"] = {"0": {"content": "<s>", "special": True}}
    tokenizers.Tokenizer(tokenizers.models.BPE({"<s>": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"unk_token": {"content": "<u>", "lstrip": False}}))
    expected = PreTrainedTokenizerFast.from_pretrained(str(tmp_path)).special_tokens_map
    assert special_tokens(tmp_path, settings) == expected


def test_the_day_of_a_prompt_is_the_one_its_requests_were_made_on() -> None:
    """So two runs of the same requests read the same prompts, whichever day they are served."""
    made = RunSpec(run_id="r", scenario="s", requests=(RequestSpec(request_id="0", prompt="a"),), asked_unix_ns=10**18)
    again = made.model_copy(update={"run_id": "q", "created_unix_ns": 1_700_000_000 * 10**9})
    assert made.asked_at == again.asked_at == datetime.fromtimestamp(10**9)
    template = ChatTemplate("{{ strftime_now('%Y') }}", {})
    tokenizer = Tokenizer(tokenizers.Tokenizer(tokenizers.models.BPE({"2": 0, "0": 1, "1": 2}, [])), template, ())
    assert tokenizer.prompt("-", chat=True, now=again.asked_at) == [0, 1, 1, 2]


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ strftime_now.__globals__ }}",
    "{{ raise_exception.__code__ }}",
    "{{ raise_exception.__closure__[0] }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ messages[0].pop('role') }}",
    "{{ ('{0.__class__}').format(messages) }}",
    "{{ '%s' | format(messages) | attr('__class__') }}",
    "{{ self.__init__.__globals__ }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ lipsum.__globals__['os'] }}",
    "{{ (messages | map('attr', '__class__') | list)[0].__mro__ }}",
    "{{ joiner.__init__.__globals__['__builtins__'] }}",
    "{% generation %}{{ caller.__globals__ }}{% endgeneration %}{{ ''.__class__.__base__ }}",
    "{% import 'os' as os %}",
    "{% include '/etc/passwd' %}",
    "{% for i in range(10 ** 9) %}{% endfor %}",
    "{{ [].__class__ }}{{ raise_exception('reached the end') if [].__class__ is defined else raise_exception('held') }}",
]


@pytest.mark.parametrize("source", ESCAPES)
def test_a_template_reaches_nothing_outside(source: str) -> None:
    """Each is refused, or says nothing of the process it runs in."""
    messages = [{"role": "user", "content": "Hi"}]
    text, error = outcome(lambda: ChatTemplate(source, SPECIAL).render(messages, NOON))
    if error is not None:
        assert error.kind == "bad-chat-template"
        assert "reached" not in error.message
    else:
        assert "<class" not in text
        assert "{" not in text
    assert messages == [{"role": "user", "content": "Hi"}]


def test_the_engine_needs_no_transformers_to_render() -> None:
    import subprocess
    import sys

    code = "import sys, datetime, engine.model.chat as c; c.ChatTemplate('{{ 1 }}', {}).render([], datetime.datetime.now()); print('transformers' in sys.modules)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "False"
