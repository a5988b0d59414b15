"""Presets, saved settings and links: applied whole, or refused with the field, the value and the mend."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

import scenarios
from app.errors import LabError
from app.home import Home
from app.settings import controls as book
from app.settings.presets import PRESETS, preset_values
from app.settings.saved import delete_saved, read_saved, save_settings, saved_names
from app.views.exchange_settings import link_to, named_sets, values_of_set
from engine.config import ConfigError, EngineConfig, apply_overrides


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path).prepare()


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("scenario", ["starter", "shared-prompt", "memory-bound", "copy-heavy"])
def test_a_preset_can_be_served_on_every_scenario(name: str, scenario: str) -> None:
    base = scenarios.load(scenario).engine
    changed = book.overrides(base, preset_values(base, PRESETS[name]))
    served = apply_overrides(base, changed)
    assert book.complaints(base, changed) == {}
    assert (served.model, served.kv_blocks, served.seed) == (base.model, base.kv_blocks, base.seed)
    named = {path.partition(".")[0] for path, text in PRESETS[name].settings.items() if text != "off"}
    on = {technique.path for technique in book.techniques() if getattr(served, technique.path) is not None}
    assert on == named - {"policy"}


def test_a_preset_leaves_nothing_of_the_one_before() -> None:
    base = scenarios.load("starter").engine
    tree = apply_overrides(base, {"prefix_sharing.attention": "tree", "policy": "orca", "speculation": "on"})
    changed = book.overrides(tree, preset_values(tree, PRESETS["vllm"]))
    again = apply_overrides(tree, changed)
    assert (again.policy, again.speculation, again.prefix_sharing.attention) == (None, None, "off")


def test_presets_serve_as_their_systems_schedule() -> None:
    base = EngineConfig()
    policies = {}
    for name in ("orca", "static", "vllm-2023", "sarathi", "splitfuse", "vllm"):
        served = apply_overrides(base, book.overrides(base, preset_values(base, PRESETS[name])))
        policies[name] = served.resolved_policy
    assert list(policies.values()) == ["orca", "static", "prefill-first", "stall-free", "splitfuse", "stall-free"]


def test_saved_settings_come_back_and_are_listed_beside_presets(home: Home) -> None:
    save_settings(home, "mine", {"policy": "orca", "chunked_prefill": "off"})
    assert saved_names(home) == ["mine"]
    assert named_sets(home)["saved:mine"] == "mine (saved)"
    assert values_of_set(home, EngineConfig(), "saved:mine") == {"chunked_prefill": False, "policy": "orca"}
    with pytest.raises(LabError, match="saved already"):
        save_settings(home, "mine", {"seed": "1"})
    save_settings(home, "mine", {"seed": "1"}, replace=True)
    assert read_saved(home, "mine") == {"seed": "1"}
    delete_saved(home, "mine")
    with pytest.raises(LabError, match="No settings of this name"):
        read_saved(home, "mine")


@pytest.mark.parametrize("name", ["", "../x", "<b>", "A b", "x" * 100])
def test_a_hostile_name_makes_no_file(name: str, home: Home) -> None:
    with pytest.raises(scenarios.ScenarioError, match="For example"):
        save_settings(home, name, {"seed": "1"})
    for ask in (read_saved, delete_saved):
        with pytest.raises(LabError):
            ask(home, name)
    assert not home.settings.exists()


def test_nothing_changed_is_nothing_to_save(home: Home) -> None:
    with pytest.raises(LabError, match="scenario's own"):
        save_settings(home, "mine", {})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"settings": {"policy": "fastest"}}', "mine.json: policy"),
        ('{"settings": {"nonsense": "1"}}', "mine.json: nonsense"),
        ('{"settings": {"seed": 1}}', "settings.seed"),
        ('{"settings": {}}', "settings"),
        ('{"settings": {"seed": "1"}, "extra": 2}', "extra"),
        ("{", "mine.json cannot be read"),
        ("", "mine.json cannot be read"),
    ],
)
def test_a_saved_file_edited_by_hand_is_refused_whole_and_names_the_place(home: Home, text: str, said: str) -> None:
    home.settings.mkdir()
    (home.settings / "mine.json").write_text(text)
    with pytest.raises((LabError, ConfigError)) as refused:
        values_of_set(home, EngineConfig(), "saved:mine")
    error = refused.value
    assert said in f"{error.field} {error}"
    assert error.mend


def test_a_link_carries_scenario_and_settings_and_no_ticket() -> None:
    address = link_to(
        "http://127.0.0.1:8501/compare?ticket=secret", "chat", {"workload.chat.prompt.texts": '["a&b=c"]'}
    )
    parts = urlsplit(address)
    assert (parts.netloc, parts.path) == ("127.0.0.1:8501", "/")
    assert parse_qs(parts.query) == {"scenario": ["chat"], "set": ['workload.chat.prompt.texts=["a&b=c"]']}
