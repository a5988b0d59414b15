"""Every family of techniques: what is registered can be chosen by name, and is explained where a person chooses it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engine.backends import BACKENDS
from engine.config import (
    POLICY_NAMES,
    ConfigError,
    EngineConfig,
    KVLayout,
    KVQuantization,
    KVTiers,
    Preemption,
    RequestSpec,
    Settings,
    Speculation,
    apply_overrides,
)
from engine.config.schema import choices, field_place
from engine.kv.codecs import CODECS, Codec, make_codec
from engine.kv.tier_codecs import TIER_CODECS
from engine.scheduling.builder import PlanBuilder
from engine.scheduling.policies import POLICIES, Policy, register
from engine.speculation import CONTROLS, PROPOSERS, Proposer
from engine.start.bugs import BUGS
from engine.start.layouts import LAYOUTS
from engine.start.swapping import PREEMPTIONS
from tests.engine.serving import make_spec, serve

ARCHITECTURE = Path(__file__).resolve().parents[2] / "docs" / "architecture.md"


class Family(NamedTuple):
    """A registry, and the setting that chooses from it."""

    members: Mapping[str, Any]
    settings: type[Settings]
    field: str
    beside: tuple[str, ...] = ()  # choices that are no member: what stands for another one, or for none


FAMILIES = {
    "policy": Family(POLICIES, EngineConfig, "policy"),
    "attention backend": Family(BACKENDS, EngineConfig, "attention_backend", ("auto",)),
    "codec": Family(CODECS, KVQuantization, "codec"),
    "tier codec": Family(TIER_CODECS, KVTiers, "codec", ("none", "adaptive")),
    "proposer": Family(PROPOSERS, Speculation, "proposer"),
    "preemption": Family(PREEMPTIONS, Preemption, "mode"),
    "layout": Family(LAYOUTS, KVLayout, "kind"),
    "length control": Family(CONTROLS, Speculation, "control"),
    "known bug": Family(BUGS, Speculation, "inject_bug", ("none",)),
}
MEMBERS = [(family, name) for family, about in FAMILIES.items() for name in about.members]


@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_registered_is_what_can_be_chosen(family: str) -> None:
    about = FAMILIES[family]
    assert set(choices(field_place(about.settings, about.field))) == {*about.members, *about.beside}


@pytest.mark.parametrize(("family", "name"), MEMBERS)
def test_every_member_is_explained(family: str, name: str) -> None:
    """In its own docstring for who reads the code, and by name for who chooses it: in the setting's help, or in the documentation."""
    about = FAMILIES[family]
    member = about.members[name]
    if family != "attention backend":  # made by a function, for its kernels may not be installed
        assert "__doc__" in vars(member) or inspect.isfunction(member)
        assert member.__doc__, f"{member.__name__} has no docstring"
    said = about.settings.model_fields[about.field].description or ""
    documents = "".join(path.read_text() for path in ARCHITECTURE.parent.glob("*.md"))
    assert name in said or f"`{name}`" in documents, f"{about.field}={name} is explained nowhere"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_its_row_in_the_table_of_sockets(family: str) -> None:
    table = ARCHITECTURE.read_text().partition("## Sockets")[2].partition("\n## ")[0]
    row = next((line for line in table.splitlines() if line.startswith(f"| {family} ")), "")
    assert row, f"no row for {family}"
    missing = [name for name in FAMILIES[family].members if f"`{name}`" not in row]
    assert not missing, f"the row for {family} does not name {missing}"


@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_says_its_name(name: str) -> None:
    assert issubclass(POLICIES[name], Policy)
    assert POLICIES[name].name == name


@pytest.mark.parametrize("name", PROPOSERS)
def test_a_proposer_says_its_name_and_can_be_made(name: str) -> None:
    assert issubclass(PROPOSERS[name], Proposer)
    assert PROPOSERS[name].name == name
    assert PROPOSERS[name].of.__func__ is not Proposer.of.__func__, "it has no way to be made"


@pytest.mark.parametrize("name", CODECS)
def test_a_codec_says_its_name_and_stores_fewer_bits(name: str) -> None:
    codec = make_codec(KVQuantization(codec=name), 64, 16)
    assert isinstance(codec, Codec)
    assert codec.name == name
    assert codec.bits(64, 16) < 16


@pytest.mark.parametrize("name", ["reference", "gathered", "native"])
def test_a_plain_backend_reads_what_its_executor_lays_out(name: str) -> None:
    backend = BACKENDS[name]()
    assert not backend.executor.kernels
    assert not inspect.isabstract(backend.attend)


class Backwards(Policy):
    """The latest arrival first, whole; for this test."""

    name = "backwards"

    def plan(self, builder: PlanBuilder) -> None:
        for request in reversed(list(builder.waiting())):
            if not builder.admit(request, builder.remaining(request)):
                break
        if not builder.plan.slices:
            self.decode_all(builder)


@pytest.fixture
def backwards() -> Iterator[None]:
    """A policy from elsewhere, registered for one test."""
    register(Backwards)
    yield
    del POLICIES[Backwards.name]
    POLICY_NAMES.remove(Backwards.name)


@pytest.mark.usefixtures("backwards")
def test_a_policy_from_elsewhere_can_be_chosen_and_serves(tmp_path: Path) -> None:
    """Registered and nothing else: it is parsed, offered in the settings' schema, and schedules a run."""
    changes = {"policy": "backwards", "model": "random:tiny", "device": "cpu", "kv_blocks": "64"}
    config = apply_overrides(EngineConfig(), changes)
    assert config.resolved_policy == "backwards"
    offered = EngineConfig.model_json_schema()["properties"]["policy"]["anyOf"][0]["enum"]
    assert offered == [*POLICIES]
    asked = [RequestSpec(request_id=str(n), prompt_token_ids=(n + 1, 2, 3), max_tokens=3) for n in range(3)]
    served = serve(make_spec(config, asked), tmp_path)
    assert [r.num_output_tokens for r in served] == [3, 3, 3]


def test_a_policy_that_was_not_registered_is_refused_by_name() -> None:
    with pytest.raises(ConfigError) as caught:
        apply_overrides(EngineConfig(), {"policy": "backwards"})
    assert caught.value.field == "policy"
    assert "It must be one of stall-free, prefill-first" in caught.value.mend


def test_a_name_is_given_once() -> None:
    with pytest.raises(ValueError, match="StallFree"):
        register(type("Other", (Backwards,), {"name": "stall-free"}))
