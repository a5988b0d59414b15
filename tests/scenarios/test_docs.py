"""``docs/scenarios.md`` holds: its examples load, its settings apply, and no key is missing."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import pytest

import scenarios
from engine.config.schema import field_place, tag_values
from scenarios.part import Part
from scenarios.recipes import RECIPES
from scenarios.schema import Group, Scenario, Workload
from scenarios.sizing import FromGiven, SizedBy
from scenarios.traces import TraceFormat

DOCUMENT = (Path(__file__).parents[2] / "docs" / "scenarios.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
WORDS = set(re.findall(r"`([^`]+)`", re.sub(r"```.*?```", "", DOCUMENT, flags=re.DOTALL)))
MEMBERS = [member for name in ("arrivals", "prompt", "output_tokens") for member in field_place(Group, name).models]


@pytest.fixture
def example(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    path = tmp_path / "example.yaml"
    path.write_text(request.param, encoding="utf-8")
    return path


@pytest.mark.parametrize("example", EXAMPLES, indirect=True, ids=lambda text: text.split("\n")[0])
def test_every_example_loads(example: Path):
    scenario = scenarios.load(example)
    if "kind: trace" not in example.read_text():
        assert len(scenarios.build(example).requests) == sum(g.requests for g in scenario.workload.groups.values())


def test_there_are_examples():
    assert len(EXAMPLES) >= 3


@pytest.mark.parametrize("model", [Scenario, Workload, Group, SizedBy, FromGiven, *MEMBERS], ids=lambda m: m.__name__)
def test_every_key_is_documented(model: type[Part]):
    assert set(model.model_fields) - {"kind"} <= WORDS


@pytest.mark.parametrize("model", MEMBERS, ids=lambda m: m.__name__)
def test_every_kind_has_a_row_with_its_keys(model: type[Part]):
    (kind,) = tag_values(model, "kind")
    rows = [line for line in DOCUMENT.splitlines() if line.startswith(f"| `{kind}` |")]
    keys = set(model.model_fields) - {"kind", "start_s"}
    assert any(keys == set(re.findall(r"`([^`]+)`", row.split("|")[2])) for row in rows)


def test_every_recipe_and_trace_format_is_documented():
    assert {*RECIPES, *typing.get_args(TraceFormat)} - {"auto"} <= WORDS


def settings() -> list[str]:
    """The first column of the table of settings by dotted name."""
    table = DOCUMENT.split("| written | means |")[1].split("\n\n")[0]
    return [s for row in table.splitlines()[2:] for s in re.findall(r"`([^`]+=[^`]*)`", row.split("|")[1])]


@pytest.mark.parametrize("setting", settings())
def test_every_setting_by_dotted_name_applies(setting: str, tmp_path: Path):
    (tmp_path / "guests.yaml").write_text(EXAMPLES[0], encoding="utf-8")
    name, _, value = setting.partition("=")
    changes = {name or "chunked_prefill": value}
    if name.endswith("kind"):
        changes["workload.questions.arrivals.cv"] = "2"
    source = "chat" if name == "workload.requests" else tmp_path / "guests.yaml"
    assert scenarios.build(source, changes).requests
