"""Every family of techniques: what is registered can be chosen by name, and is explained where a person chooses it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from engine.backends import BACKENDS
from engine.config import EngineConfig, KVQuantization, Settings, Speculation
from engine.config.schema import choices, field_place
from engine.kv.codecs import CODECS, Codec, make_codec
from engine.scheduling.policies import POLICIES, Policy
from engine.speculation import CONTROLS, PROPOSERS, Proposer
from engine.start.bugs import BUGS

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
    "proposer": Family(PROPOSERS, Speculation, "proposer"),
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


@pytest.mark.parametrize("name", ["reference", "gathered"])
def test_a_plain_backend_reads_what_its_executor_lays_out(name: str) -> None:
    backend = BACKENDS[name]()
    assert not backend.executor.kernels
    assert not inspect.isabstract(backend.attend)
