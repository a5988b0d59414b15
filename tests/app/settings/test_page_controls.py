"""Controls read from the settings' schema."""

from __future__ import annotations

import pytest

from app.errors import LabError, on_page
from app.runs.facts import differences
from app.settings import controls as book
from app.settings.given import settings_rows
from engine.config import (
    ChunkedPrefill,
    EngineConfig,
    FarPool,
    KVLayout,
    KVQuantization,
    KVTiers,
    Placement,
    Preemption,
    PrefixSharing,
    Speculation,
    TimeToLive,
    apply_overrides,
)
from telemetry.refusal import with_field


def control(path: str) -> book.Control:
    return next(c for c in book.controls() if c.path == path)


def test_every_setting_has_a_control_with_title_and_help() -> None:
    paths = {c.path.partition(".")[0] for c in book.controls()}
    assert paths == set(EngineConfig.model_fields)
    for control in book.controls():
        assert control.title, control.path
        assert control.help, control.path
        assert control.path in control.explanation


def test_techniques_are_found_and_followed_by_their_own_settings() -> None:
    techniques = {c.path for c in book.techniques()}
    optional = {n for n, f in EngineConfig.model_fields.items() if (f.json_schema_extra or {}).get("technique")}
    assert techniques == optional
    assert [c.path for c in book.parts_of(control("chunked_prefill"))] == [
        "chunked_prefill.token_budget",
        "chunked_prefill.chunk_size",
    ]
    assert "Sarathi-Serve" in control("chunked_prefill").paper


def test_the_four_toggles_are_there() -> None:
    built = {c.path for c in book.techniques()}
    assert built >= {"chunked_prefill", "prefix_sharing", "speculation", "kv_quantization"}


def test_kinds_bounds_and_units_come_from_the_schema() -> None:
    budget = control("chunked_prefill.token_budget")
    assert (budget.kind, budget.optional, budget.unit) == ("whole", True, "tokens")
    assert "at least 1" in budget.bounds
    assert control("policy").kind == "choice"
    assert "stall-free" in control("policy").choices
    assert control("sampling.stop").kind == "list"
    assert control("sampling.ignore_eos").kind == "switch"
    assert control("kv_memory_fraction").kind == "number"


def test_a_change_that_needs_another_one_is_right_beside_it() -> None:
    tiers = {"kv_tiers": "on", "kv_tiers.host_mib": "32"}
    assert not book.complaints(EngineConfig(), {**tiers, "prefix_sharing": "on"})
    alone = book.complaints(EngineConfig(), tiers)
    assert set(alone) == set(tiers)
    assert "set prefix_sharing on" in str(alone["kv_tiers"])


def test_every_default_written_as_text_is_read_back_as_itself() -> None:
    base = EngineConfig(
        prefix_sharing=PrefixSharing(),
        speculation=Speculation(),
        kv_quantization=KVQuantization(),
        preemption=Preemption(),
        kv_tiers=KVTiers(),
        time_to_live=TimeToLive(),
        kv_layout=KVLayout(kind="paged"),
        placement=Placement(kind="colocated"),
    )
    for all_but_one in (base, EngineConfig(far_pool=FarPool())):  # which goes with few of the others
        off = [c.path for c in book.techniques() if getattr(all_but_one, c.path) is None]
        changed = {
            c.path: book.as_text(c, book.value_of(all_but_one, c.path))
            for c in book.controls()
            if not c.path.startswith(("policy", *off))
        }
        assert apply_overrides(all_but_one, changed) == all_but_one


def test_every_value_written_as_text_is_read_back_by_its_control() -> None:
    base = EngineConfig(prefix_sharing=PrefixSharing(), speculation=Speculation(), kv_quantization=KVQuantization())
    for c in book.controls():
        for value in [
            *c.choices,
            book.value_of(base, c.path),
            *([None] if c.optional and c.kind != "technique" else []),
        ]:
            read = book.from_text(c, book.as_text(c, value))
            assert read == value or (c.kind == "whole" and int(read) == value), c.path
    with pytest.raises((ValueError, KeyError)):
        book.from_text(control("policy"), "fastest")


def test_edits_lead_from_one_set_of_changes_to_another() -> None:
    base = EngineConfig()
    start, now = {"seed": "7", "chunked_prefill": "off"}, {"seed": "8", "kv_blocks": "64"}
    assert book.edits(base, start, now) == {"chunked_prefill": "on", "seed": "8", "kv_blocks": "64"}
    assert book.edits(base, now, now) == {}
    served = apply_overrides(base, {"seed": "7", "chunked_prefill": "off"})
    assert book.settings_of(base, served) == {"chunked_prefill": "off", "seed": "7"}


def test_only_what_differs_from_the_scenario_is_an_override() -> None:
    base = EngineConfig(max_num_seqs=4)
    assert book.overrides(base, {"max_num_seqs": 4, "seed": 0}) == {}
    assert book.overrides(base, {"max_num_seqs": 8, "kv_blocks": 100}) == {"max_num_seqs": "8", "kv_blocks": "100"}


def test_settings_of_a_technique_that_is_off_are_not_sent() -> None:
    values = {"chunked_prefill": False, "chunked_prefill.token_budget": 32}
    changed = book.overrides(EngineConfig(), values)
    assert changed == {"chunked_prefill": "off"}
    assert apply_overrides(EngineConfig(), changed).chunked_prefill is None


def test_a_technique_that_is_switched_on_takes_its_settings_along() -> None:
    base = EngineConfig(chunked_prefill=None)
    changed = book.overrides(base, {"chunked_prefill": True, "chunked_prefill.token_budget": 32})
    assert apply_overrides(base, changed).chunked_prefill == ChunkedPrefill(token_budget=32)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("chunked_prefill.token_budget", 0),
        ("max_num_seqs", 0),
        ("kv_memory_fraction", 2.0),
        ("device", "gpu"),
        ("max_num_seqs", None),
    ],
)
def test_a_value_the_engine_refuses_is_named_with_its_setting_and_a_mend(path: str, value: object) -> None:
    base = EngineConfig()
    changed = book.overrides(base, {path: value})
    wrong = book.complaints(base, changed)
    assert set(wrong) == {path}
    words = with_field(wrong[path])
    assert path in words
    assert str(value if value is not None else "none") in words


def test_beside_its_control_a_wrong_value_is_said_without_the_settings_name() -> None:
    base = EngineConfig()
    changed = book.overrides(base, {"chunked_prefill.token_budget": 0})
    (error,) = book.complaints(base, changed).values()
    words = book.at_the_control(error)
    assert words.startswith("0: ")
    assert words.endswith("at least 1, or empty.")
    assert "token_budget" not in words


def test_an_error_on_a_page_names_no_command_where_it_has_no_other_mend() -> None:
    assert on_page(LabError("unknown-run", message="There is no run 'x'.", mend="servescope runs lists the runs.")) == (
        "There is no run 'x'."
    )
    assert on_page(LabError("unknown-run", message="There is no run 'x'.", mend="Nearest: y.")).endswith("Nearest: y.")


def test_the_setup_lists_no_part_of_a_technique_that_was_off() -> None:
    rows = {row["name"]: row for row in settings_rows(EngineConfig(kv_quantization=KVQuantization(codec="int4")))}
    assert rows["kv_quantization.codec"]["value"] == "int4"
    assert rows["kv_quantization.codec"]["part"] == "KV quantization"
    assert rows["speculation"]["value"] == "off"
    assert not any(name.startswith("speculation.") for name in rows)


def test_what_one_codec_alone_reads_is_no_difference_between_two() -> None:
    four = EngineConfig(kv_quantization=KVQuantization(codec="int4", wide_keys=False))
    eight = EngineConfig(kv_quantization=KVQuantization(codec="int8"))
    assert differences(eight, four) == ["codec int8"]
    assert differences(EngineConfig(kv_quantization=KVQuantization(codec="int4")), four) == ["wide keys on"]


def test_all_wrong_values_are_named_not_just_the_first() -> None:
    base = EngineConfig()
    changed = book.overrides(base, {"max_num_seqs": 0, "block_size": 0, "seed": 3})
    assert set(book.complaints(base, changed)) == {"max_num_seqs", "block_size"}
