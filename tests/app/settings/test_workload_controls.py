"""The workload as controls: whatever is chosen there becomes settings that ``scenarios.build`` takes, and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import scenarios
from app.errors import LabError
from app.home import Home
from app.settings import workload
from app.settings.controls import as_text
from app.settings.prompts import prompts_as_text, prompts_from_text
from app.settings.traces import keep_trace
from app.words.workload import TITLES
from engine.config import ConfigError
from engine.config.schema import field_place, tag_values
from scenarios.build import override_workload
from scenarios.schema import Group, Workload

NAMES = [info.name for info in scenarios.available()]
KINDS = [
    (name, str(kind))
    for name in ("arrivals", "prompt", "prompt_tokens", "output_tokens")
    for member in field_place(Group, name).models
    for kind in tag_values(member, "kind")
]


def of(name: str) -> Workload:
    return scenarios.load(name).workload


def served(base: Workload, changed: dict[str, str]) -> Workload:
    return override_workload(base, {path.removeprefix("workload."): text for path, text in changed.items()})[0]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_touched_is_no_setting(name: str) -> None:
    fields = workload.fields(of(name), {})
    assert workload.overrides(of(name), {}) == {}
    assert workload.overrides(of(name), {field.control.path: field.begins for field in fields}) == {}


@pytest.mark.parametrize("name", NAMES)
def test_every_control_has_a_title_and_help_in_words(name: str) -> None:
    for field in workload.fields(of(name), {}):
        last = field.control.path.removesuffix(".kind").rpartition(".")[2]
        assert last in TITLES, field.control.path
        assert field.control.help, field.control.path
        assert "_" not in field.control.title


@pytest.mark.parametrize(("name", "kind"), KINDS)
def test_every_kind_can_be_chosen_and_shows_its_own_controls(name: str, kind: str) -> None:
    base = of("chat")
    values: dict[str, Any] = {f"workload.chat.{name}.kind": kind}
    begin = f"workload.chat.{name}."
    member = next(m for m in field_place(Group, name).models if kind in tag_values(m, "kind"))
    shown = {
        f.control.path[len(begin) :].partition(".")[0]
        for f in workload.fields(base, values)
        if f.control.path.startswith(begin)
    }
    assert shown == set(member.model_fields)
    changed = workload.overrides(base, values)
    if (name, kind) in {("arrivals", "trace"), ("arrivals", "servegen"), ("prompt", "texts")}:
        assert workload.complaints(base, changed), "a file or a text has to be given first"
        return
    if kind == "trace" or kind in ("dialogue", "agent", "trace-blocks", "sessions", "tokens", "prefix-hits"):
        assert all(path.startswith("workload.chat") for path in workload.complaints(base, changed))
        return
    assert getattr(served(base, changed).groups["chat"], name).kind == kind


def test_settings_written_in_any_way_are_held_by_the_controls_that_show_them() -> None:
    base = of("chat")
    asked = {
        "workload.requests": "5",
        "workload.groups.chat.arrivals": '{"kind": "closed-loop", "clients": 3}',
        "workload.chat.output_tokens": "32",
        "workload.speed": "2",
    }
    values = workload.values_of(base, asked)
    assert values["workload.chat.requests"] == 5
    assert values["workload.chat.arrivals.kind"] == "closed-loop"
    assert values["workload.chat.output_tokens.tokens"] == 32
    assert served(base, workload.overrides(base, values)) == served(base, asked)


@pytest.mark.parametrize("name", NAMES)
def test_what_one_scenario_becomes_by_its_controls_is_found_again_from_its_settings(name: str) -> None:
    base = of(name)
    if not base.groups:
        asked = {"workload.requests": "7"}
    else:
        group = next(iter(base.groups))
        asked = {f"workload.{group}.requests": "3", f"workload.{group}.priority": "2", "workload.speed": "1.5"}
        if base.groups[group].arrivals.kind != "sessions":
            asked[f"workload.{group}.arrivals.kind"] = "at-once"
    changed = workload.overrides(base, workload.values_of(base, asked))
    assert served(base, changed) == served(base, asked)
    assert workload.overrides(base, workload.values_of(base, changed)) == changed


def test_a_length_that_is_taken_away_and_one_that_is_added() -> None:
    base = of("chat")
    added = {"workload.chat.prompt_tokens.kind": "uniform"}
    changed = workload.overrides(base, added)
    assert changed == {
        "workload.chat.prompt_tokens.kind": "uniform",
        "workload.chat.prompt_tokens.low": "32",
        "workload.chat.prompt_tokens.high": "128",
    }
    longer = served(base, changed)
    gone = workload.overrides(longer, {"workload.chat.prompt_tokens.kind": None})
    assert gone == {"workload.chat.prompt_tokens": "none"}
    assert served(longer, gone) == base
    assert workload.values_of(longer, gone)["workload.chat.prompt_tokens.kind"] is None


def test_times_of_a_sized_group_that_are_set_by_hand_stay_so() -> None:
    base = of("chat")
    changed = workload.overrides(base, {"workload.chat.arrivals.rate": 4.0})
    assert changed == {"workload.chat.arrivals.rate": "4.0"}
    again = workload.overrides(base, workload.values_of(base, changed))
    assert again == changed
    assert workload.complaints(base, changed) == {}
    both = changed | {"workload.chat.sized_by.load": "0.5"}
    (error,) = workload.complaints(base, both).values()
    assert "sizes the group's times" in str(error)


@pytest.mark.parametrize(
    ("path", "value", "at"),
    [
        ("workload.chat.requests", 0, "workload.chat.requests"),
        ("workload.chat.arrivals.rate", None, "workload.chat.arrivals.rate"),
        ("workload.chat.output_tokens.low", 999, "workload.chat.output_tokens"),
        ("workload.speed", -1.0, "workload.speed"),
    ],
)
def test_what_cannot_be_is_said_at_its_control(path: str, value: object, at: str) -> None:
    changed = workload.overrides(of("chat"), {path: value})
    assert [*workload.complaints(of("chat"), changed)] == [at]


def test_an_unknown_workload_setting_is_named() -> None:
    with pytest.raises(ConfigError) as refused:
        workload.values_of(of("chat"), {"workload.chat.arivals.rate": "2"})
    assert "arivals" in str(refused.value)


@pytest.mark.parametrize(
    ("text", "prompts"),
    [
        ("one\ntwo\n\n", ["one", "two"]),
        ("a\nb\n---\nc", ["a\nb", "c"]),
        ("", []),
        ("  <b>x</b>  ", ["<b>x</b>"]),
        ("---", []),
    ],
)
def test_prompts_are_lines_or_stand_between_dividers(text: str, prompts: list[str]) -> None:
    assert prompts_from_text(text) == prompts
    assert prompts_from_text(prompts_as_text(prompts)) == prompts


def test_own_prompts_are_asked_as_they_were_typed() -> None:
    base = of("chat")
    values = {"workload.chat.prompt.kind": "texts", "workload.chat.prompt.texts": 'Say "yes", [or] no\nWhy?'}
    changed = workload.overrides(base, values)
    spec = scenarios.build("chat", changed)
    assert [request.prompt for request in spec.requests[:2]] == ['Say "yes", [or] no', "Why?"]
    assert workload.values_of(base, changed)["workload.chat.prompt.texts"] == values["workload.chat.prompt.texts"]


def test_a_trace_is_kept_if_it_is_one(tmp_path: Path) -> None:
    home = Home(tmp_path).prepare()
    rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n" + "2023-11-16 18:17:03,10,4\n" * 3
    kept = keep_trace(home, "../../azure trace.csv", rows.encode())
    assert (kept.path, kept.rows, kept.has_blocks) == (home.traces / "azure-trace.csv", 3, False)
    for name, data in (("bad.csv", b"a,b\n1,2\n"), ("...", b""), ("empty.csv", rows.splitlines()[0].encode())):
        with pytest.raises((ConfigError, LabError)):
            keep_trace(home, name, data)
    assert [path.name for path in home.traces.iterdir()] == ["azure-trace.csv"]
    asked = {
        "workload.chat.requests": "3",
        "workload.chat.arrivals.kind": "trace",
        "workload.chat.arrivals.path": str(kept.path),
        "workload.chat.output_tokens.kind": "trace",
    }
    assert [r.max_tokens for r in scenarios.build("chat", asked).requests] == [4, 4, 4]


def test_a_field_is_shown_by_what_it_holds() -> None:
    for name in NAMES:
        for field in workload.fields(of(name), {}):
            assert isinstance(as_text(field.control, field.begins), str)
