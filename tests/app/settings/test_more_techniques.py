"""Four toggles are always in sight; the others stand in a section that opens by itself once one of them is on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from streamlit.testing.v1 import AppTest

from app.lab import Lab
from app.runs.folder import create_run
from app.server.serve import PAGE
from app.settings import controls as book
from app.settings.controls import control_of
from app.settings.more_techniques import MORE, label_of
from app.settings.saved import save_settings
from engine.config import EngineConfig, KVTiers
from engine.config.settings import setting
from scenarios import build
from tests.app.lab_process import lab_here

LEADING = ["chunked_prefill", "prefix_sharing", "speculation", "kv_quantization"]
FURTHER = [technique.path for technique in book.further_techniques()]
SWAPPING, TIERS = "set:starter:preemption", "set:starter:kv_tiers"


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A lab with an empty store that serves nothing."""
    with lab_here(tmp_path_factory.mktemp("more"), serves_experiments=False) as opened:
        yield opened


def page_at(path: str = "live", **parameters: Any) -> AppTest:
    page = AppTest.from_file(str(PAGE), default_timeout=60)
    for name, value in parameters.items():
        page.query_params[name] = value
    return (page if path == "live" else page.switch_page(f"pages/{path}.py")).run()


def switches(page: AppTest) -> list[str]:
    assert not page.exception
    return [str(one.key).rpartition(":")[2] for one in page.toggle if str(one.key).startswith("set:")]


def is_open(page: AppTest) -> bool:
    shown = [path for path in switches(page) if path in FURTHER]
    assert shown in ([], FURTHER), "all or none"
    return bool(shown)


def test_four_techniques_lead_and_a_new_one_does_not() -> None:
    assert [technique.path for technique in book.leading_techniques()] == LEADING
    assert [*LEADING, *FURTHER] == [technique.path for technique in book.techniques()]

    class Toyed(EngineConfig):
        toy: KVTiers | None = setting(None, "Toy", "Of a test.", group="Techniques", technique=True)

    field = Toyed.model_json_schema()["properties"]["toy"]
    assert not control_of("toy", "technique", field, optional=True).leading


def test_lists_of_settings_begin_with_the_techniques_that_lead() -> None:
    listed = [control.path for control in book.in_list()]
    assert sorted(listed) == sorted(control.path for control in book.controls())
    own = [path for path in listed if path.partition(".")[0] in LEADING]
    assert listed[: len(own)] == own
    assert [path for path in own if "." not in path] == LEADING


def test_the_section_is_closed_until_it_is_opened_and_counts_what_is_on(lab: Lab) -> None:
    page = page_at()
    assert switches(page)[:4] == LEADING
    assert not is_open(page)
    page.session_state[MORE] = True
    page.run()
    assert is_open(page)
    assert (label_of(0), label_of(2)) == ("More techniques · none on", "More techniques · 2 on")


def test_what_is_set_in_the_section_is_kept_said_and_served_while_it_is_closed(lab: Lab) -> None:
    page = page_at()
    page.session_state[MORE] = True
    page.run()
    page.toggle(key=SWAPPING).set_value(True).run()
    page.number_input(key=f"{SWAPPING}.host_mib").set_value(77).run()
    page.session_state[MORE] = False
    page.run()
    assert not is_open(page), "what was on before does not open it again"
    assert any("preemption" in str(one.value) and "77" in str(one.value) for one in page.caption)
    page.selectbox(key="scenario").set_value("chat").run()
    page.selectbox(key="scenario").set_value("starter").run()
    page.session_state[MORE] = True
    page.run()
    assert page.toggle(key=SWAPPING).value is True
    assert page.number_input(key=f"{SWAPPING}.host_mib").value == 77
    page.toggle(key=SWAPPING).set_value(False).run()
    assert is_open(page), "it does not close while one works in it"


def test_a_contradiction_in_the_closed_section_is_said(lab: Lab) -> None:
    page = page_at(scenario="starter", set=["kv_tiers=on"])
    page.session_state[MORE] = False
    page.run()
    assert not is_open(page)
    assert page.button(key="start").disabled
    assert any("prefix" in str(error.value) for error in page.error)


def test_a_link_a_run_and_saved_settings_open_the_section(lab: Lab) -> None:
    assert is_open(page_at(technique="preemption"))
    assert is_open(page_at(scenario="starter", set=["prefix_sharing=on", "kv_tiers.host_mib=64"]))
    spec = build("starter", {"preemption": "on"}, run_id="swapped")
    create_run(lab.home, spec)
    lab.queue.cancel(spec.run_id)
    page = page_at(run="swapped")
    assert is_open(page)
    save_settings(lab.home, "tiered", {"prefix_sharing": "on", "kv_tiers": "on"})
    page.session_state[MORE] = False
    page.run()
    page.selectbox(key="set-taken-starter").set_value("saved:tiered").run()
    page.button(key="take-set-starter").click().run()
    assert is_open(page)
    assert page.toggle(key=TIERS).value is True


def test_compare_has_a_section_of_its_own(lab: Lab) -> None:
    page = page_at("compare", scenario="starter", set=["preemption=on"])
    page.session_state["compare-shared"] = True
    page.run()
    assert is_open(page)
    assert page.session_state[f"{MORE}-compare:starter"] is True
    assert MORE not in page.session_state, "the Live page's is another"
