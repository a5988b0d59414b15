"""The form of comparisons, sweeps and searches: typed controls, contradictions refused, nothing typed lost."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.experiments.file import read_experiment, read_specs
from app.lab import Lab
from app.server.serve import PAGE
from app.settings import controls as book
from app.settings.saved import save_settings
from app.settings.sweep_values import sweepable, values_to_try, wrong_values
from engine.config import KVQuantization, apply_overrides
from scenarios import available, load
from store.plan import StopRule
from tests.app.lab_process import lab_here

LAB = str(PAGE)
TECHNIQUE = "starter-chunked_prefill"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with an empty store that serves nothing."""
    with lab_here(tmp_path_factory.mktemp("form"), serves_experiments=False) as opened:
        yield opened


def compare_page(**parameters: Any) -> AppTest:
    page = AppTest.from_file(LAB, default_timeout=60)
    for name, value in ({"scenario": "starter"} | parameters).items():
        page.query_params[name] = value
    page.switch_page("pages/compare.py").run()
    return page


def started(lab: Lab, page: AppTest, key: str) -> Any:
    """The experiment that a button starts."""
    before = set(lab.home.experiment_ids())
    page.button(key=key).click().run()
    assert not page.exception, [error.message for error in page.exception]
    (new,) = set(lab.home.experiment_ids()) - before
    return read_experiment(lab.home, new)


def said(page: AppTest) -> str:
    return "\n".join(str(e.value).replace("\\", "") for kind in (page.error, page.warning) for e in kind)


def test_compare_with_and_without_keeps_what_was_set_and_names_the_variants_by_what_differs(lab: Lab) -> None:
    asked = ["kv_quantization.codec=int4", "seed=3", "workload.chat.requests=4"]
    page = compare_page(technique="kv_quantization", set=asked)
    experiment = started(lab, page, "compare-start")
    assert [variant.name for variant in experiment.variants] == ["KV quantization on", "KV quantization off"]
    specs = read_specs(lab.home, experiment)
    with_it, without = (specs[variant.name].engine for variant in experiment.variants)
    assert with_it.kv_quantization == KVQuantization(codec="int4")
    assert without.kv_quantization is None
    assert (with_it.seed, without.seed) == (3, 3)
    assert all(sum(r.group == "chat" for r in spec.requests) == 4 for spec in specs.values())
    fresh = next(box for box in page.selectbox if box.label == "Experiment")
    assert any(option.startswith(experiment.title) for option in fresh.options), "no bare id"


def test_variants_differ_in_what_is_chosen_and_each_has_its_own_control(lab: Lab) -> None:
    page = compare_page()
    page.multiselect(key=f"differ-{TECHNIQUE}").set_value(["policy", "kv_blocks"]).run()
    page.selectbox(key=f"side-0-policy-{TECHNIQUE}").set_value("orca")
    page.number_input(key=f"side-1-kv_blocks-{TECHNIQUE}").set_value(64).run()
    experiment = started(lab, page, "compare-start")
    assert [variant.settings for variant in experiment.variants] == [{"policy": "orca"}, {"kv_blocks": "64"}]
    assert [variant.name for variant in experiment.variants] == [
        "policy orca, KV blocks automatic",
        "policy automatic, KV blocks 64",
    ]


def test_a_preset_for_each_variant_compares_two_systems(lab: Lab) -> None:
    page = compare_page()
    page.selectbox(key=f"side-0-from-{TECHNIQUE}").set_value("preset:vllm").run()
    page.selectbox(key=f"side-1-from-{TECHNIQUE}").set_value("preset:orca").run()
    assert not page.exception
    experiment = started(lab, page, "compare-start")
    vllm, orca = (read_specs(lab.home, experiment)[variant.name].engine for variant in experiment.variants)
    assert (vllm.resolved_policy, orca.resolved_policy) == ("stall-free", "orca")
    assert vllm.prefix_sharing is not None
    assert orca.prefix_sharing is None


def test_repeats_until_it_is_sure_and_disturbed_runs_again_are_set_on_the_page_and_found_again(lab: Lab) -> None:
    page = compare_page()
    assert started(lab, page, "compare-start").stop is None
    page = compare_page(form=["until=ttft_ms", "width=2.5", "again=3"])
    page.number_input(key="compare-until-most").set_value(3).run()
    experiment = started(lab, page, "compare-start")
    assert experiment.stop == StopRule("ttft_ms", 0.025, 3)
    assert (experiment.repeats, experiment.again) == (3, 3), "no more repeats than at most"
    sweep = started(lab, compare_page(form=["until=ttft_ms", "again=1"]), "sweep-start")
    assert (sweep.stop, sweep.again) == (None, 1)


def test_saved_settings_edited_by_hand_are_refused_beside_the_variants(lab: Lab) -> None:
    save_settings(lab.home, "mine", {"policy": "orca"})
    (lab.home.settings / "mine.json").write_text('{"settings": {"policy": "fastest"}}')
    page = compare_page()
    page.selectbox(key=f"side-0-from-{TECHNIQUE}").set_value("saved:mine").run()
    assert not page.exception
    assert "mine.json: policy is 'fastest'" in said(page)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"speculation": True, "speculation.verification": "padded", "kv_quantization": True}, "packed cache"),
        ({"prefix_sharing": True, "block_size": 24}, "power of two"),
        ({"max_num_seqs": 0}, "at least 1"),
    ],
)
def test_a_variant_whose_settings_contradict_is_refused(lab: Lab, values: dict[str, Any], words: str) -> None:
    page = compare_page()
    page.multiselect(key=f"differ-{TECHNIQUE}").set_value(list(values)).run()
    for path, value in values.items():
        page.session_state[f"side-1-{path}-{TECHNIQUE}"] = value
    page.run()
    assert not page.exception
    assert words in said(page)
    assert page.button(key="compare-start").disabled
    assert page.button(key="capacity-start").disabled
    assert not page.button(key="sweep-start").disabled


def test_settings_of_all_variants_that_cannot_be_stop_every_start_and_are_named(lab: Lab) -> None:
    page = compare_page(set=["max_num_seqs=0", "nonsense=1", "workload.chat.arivals.rate=2"])
    assert not page.exception
    for words in ("max_num_seqs: It is too small", "nonsense is '1'", "arivals"):
        assert words in said(page)
    assert all(page.button(key=f"{kind}-start").disabled for kind in ("compare", "sweep", "capacity"))


def test_a_reload_of_compare_keeps_what_was_set(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(
        "app.views.kept_fields.keep_in_address",
        lambda parameters, **_: told.__setitem__(slice(None), parameters["form"]),
    )
    page = compare_page()
    assert told == []
    page.number_input(key="compare-repeats").set_value(3)
    page.text_input(key="compare-slo").set_value("")
    page.number_input(key="compare-count").set_value(3)
    page.multiselect(key=f"differ-{TECHNIQUE}").set_value(["chunked_prefill", "speculation", "policy", "kv_blocks"])
    page.text_input(key="side-1").set_value("<b>a=b</b>")
    page.selectbox(key="over-1").set_value("max_num_seqs")
    page.number_input(key="rate-high").set_value(2.5)
    page.run()
    page.toggle(key=f"side-1-speculation-{TECHNIQUE}").set_value(True)
    page.selectbox(key=f"side-0-policy-{TECHNIQUE}").set_value("orca")
    page.number_input(key=f"side-2-kv_blocks-{TECHNIQUE}").set_value(64)
    page.multiselect(key="values-1-max_num_seqs").set_value(["8", "16"])
    page.session_state["set:compare:starter:seed"] = 5
    page.run()
    assert not page.exception
    again = compare_page(form=list(told))
    for key in ("compare-repeats", "compare-count", "rate-high", f"side-2-kv_blocks-{TECHNIQUE}"):
        assert again.number_input(key=key).value == page.number_input(key=key).value
    for key in ("compare-slo", "side-1"):
        assert again.text_input(key=key).value == page.text_input(key=key).value
    for key in (f"differ-{TECHNIQUE}", "values-1-max_num_seqs", "values-0-chunked_prefill.token_budget"):
        assert again.multiselect(key=key).value == page.multiselect(key=key).value
    assert again.selectbox(key=f"side-0-policy-{TECHNIQUE}").value == "orca"
    assert again.session_state["set:compare:starter:seed"] == 5
    assert [box.value for box in again.toggle] == [box.value for box in page.toggle]


def test_a_field_that_an_address_fills_with_nonsense_holds_its_usual_value(lab: Lab) -> None:
    nonsense = ["repeats=0", "sides=seven", "low=nan", "high=inf", "0.chunked_prefill=maybe", "=", "x", "scenario=y"]
    page = compare_page(form=[*nonsense, "differ=<b>", "over.0=what", "values.1=,,"])
    assert not page.exception
    assert page.number_input(key="compare-repeats").value == 5
    assert page.number_input(key="compare-count").value == 2
    assert page.number_input(key="rate-low").value is None
    assert page.number_input(key="rate-high").value is None
    assert page.selectbox(key="compare-scenario").value == "starter"
    assert page.multiselect(key=f"differ-{TECHNIQUE}").value == ["chunked_prefill"]
    assert page.toggle(key=f"side-0-chunked_prefill-{TECHNIQUE}").value is True


def test_another_link_to_compare_ends_what_the_reader_came_with(lab: Lab) -> None:
    page = compare_page(form=["scenario=chat", "repeats=2"])
    assert page.selectbox(key="compare-scenario").value == "chat"
    page.switch_page("pages/runs.py").run()
    page.query_params.clear()
    page.query_params["scenario"] = "copy-heavy"
    page.switch_page("pages/compare.py").run()
    assert page.selectbox(key="compare-scenario").value == "copy-heavy"
    assert page.number_input(key="compare-repeats").value == 5


def test_a_sweep_goes_through_settings_of_engine_and_workload(lab: Lab) -> None:
    page = compare_page()
    page.selectbox(key="over-0").set_value("policy")
    page.selectbox(key="over-1").set_value("workload.speed").run()
    page.multiselect(key="values-0-policy").set_value(["orca", "stall-free"])
    page.multiselect(key="values-1-workload.speed").set_value(["1", "2"]).run()
    assert not page.exception
    experiment = started(lab, page, "sweep-start")
    assert experiment.over == {"policy": ("orca", "stall-free"), "workload.speed": ("1", "2")}
    assert len(experiment.variants) == 4


def test_a_value_that_a_sweep_cannot_take_is_named(lab: Lab) -> None:
    page = compare_page(form=["over.0=max_num_seqs", "values.0=0,4,many"])
    assert not page.exception
    assert "max_num_seqs is '0'" in said(page)
    assert "max_num_seqs is 'many'" in said(page)
    assert page.button(key="sweep-start").disabled
    assert not page.button(key="compare-start").disabled


BESIDE = {
    "kv_tiers": {"prefix_sharing": "on", "kv_tiers.link_gb_per_s": "1"},
    "time_to_live": {"prefix_sharing": "on"},
    "kv_layout": {"prefix_sharing": "off", "time_to_live": "off"},
}
"""What a technique's settings are tried beside, as it is refused otherwise."""


@pytest.mark.parametrize("name", [info.name for info in available()])
def test_what_a_sweep_begins_with_can_be_served(name: str) -> None:
    scenario = load(name)
    for path, control in sweepable(scenario).items():
        engine = apply_overrides(scenario.engine, BESIDE.get(path.partition(".")[0], {}))
        values = values_to_try(scenario, engine, control)
        assert len(values) >= 2, path
        needs_another = control.kind == "choice" or path.startswith("workload.")  # which the refusal names
        assert needs_another or not wrong_values(scenario, engine, path, values), path


def test_a_sweep_names_settings_with_what_they_belong_to() -> None:
    known = sweepable(load("starter"))
    assert {"chunked_prefill.token_budget", "policy", "workload.speed", "workload.chat.requests"} <= set(known)
    assert book.techniques()[0].path in known
