"""Seeds: the same seed gives the same workload, and parts of a workload do not disturb each other."""

from __future__ import annotations

import scenarios
from scenarios.streams import stream

FAST = {"workload.chat.requests": "6"}


def asked(**overrides: str) -> tuple:
    return scenarios.build("starter", {**FAST, **{k.replace("__", "."): v for k, v in overrides.items()}}).requests


def test_equal_seeds_give_equal_workloads():
    assert scenarios.build("starter").workload_hash == scenarios.build("starter").workload_hash
    assert scenarios.build("starter", seed=3).requests == scenarios.build("starter", {"seed": "3"}).requests


def test_another_seed_gives_another_workload():
    assert scenarios.build("burst", seed=1).requests != scenarios.build("burst", seed=2).requests


def test_streams_do_not_depend_on_each_other():
    assert stream(0, "a", "b").random() == stream(0, "a", "b").random()
    assert stream(0, "a", "b").random() != stream(0, "ab", "").random()
    assert stream(0, "a").random() != stream(1, "a").random()


def test_changing_arrivals_leaves_prompts_and_lengths():
    before, after = (scenarios.build("burst", {"workload.arrivals.cv": cv}).requests for cv in ("1", "4"))
    assert [r.arrival_ns for r in before] != [r.arrival_ns for r in after]
    assert [(r.prompt, r.max_tokens) for r in before] == [(r.prompt, r.max_tokens) for r in after]


def test_changing_output_lengths_leaves_arrivals_and_prompts():
    before, after = asked(), asked(workload__chat__output_tokens="5")
    assert [(r.arrival_ns, r.prompt) for r in before] == [(r.arrival_ns, r.prompt) for r in after]


def test_changing_prompt_lengths_leaves_what_the_prompts_begin_with():
    short, long = (
        scenarios.build("reasoning", {"workload.prompt.kind": "tokens", "workload.prompt_tokens": n}).requests
        for n in ("10", "20")
    )
    assert all(b.prompt_token_ids[:10] == a.prompt_token_ids for a, b in zip(short, long, strict=True))


def test_one_group_does_not_disturb_another():
    def chat(requests: tuple) -> list:
        return [r for r in requests if r.group == "chat"]

    assert chat(asked()) == chat(asked(**{"workload__long-prompt__requests": "3"}))


def test_more_requests_begin_with_the_same_ones():
    few, many = (scenarios.build("burst", {"workload.requests": n}).requests for n in ("5", "20"))
    assert many[:5] == few


def test_engine_settings_do_not_change_what_is_asked():
    assert (
        scenarios.build("starter").workload_hash == scenarios.build("starter", {"chunked_prefill": "off"}).workload_hash
    )
