"""A processor's energy counters, from files as Linux shows them."""

from __future__ import annotations

from pathlib import Path

import pytest

from telemetry.rapl import RaplCounters


def domain(root: Path, number: str, name: str, energy_uj: int, range_uj: int = 262_143_328_850) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir()
    for file, text in (("name", name), ("energy_uj", energy_uj), ("max_energy_range_uj", range_uj)):
        (folder / file).write_text(f"{text}\n", encoding="ascii")
    return folder / "energy_uj"


def test_packages_are_added_up_and_their_parts_are_not(tmp_path: Path) -> None:
    first, second = domain(tmp_path, "0", "package-0", 7_000_000), domain(tmp_path, "1", "package-1", 0)
    part, platform = domain(tmp_path, "0:0", "core", 0), domain(tmp_path, "2", "psys", 0)
    counters = RaplCounters(tmp_path)
    for file, more in ((first, 9_500_000), (second, 1_000_000), (part, 2_000_000), (platform, 5_000_000)):
        file.write_text(str(more), encoding="ascii")
    read = counters.read()
    assert read["energy"] == pytest.approx(3.5)
    assert read["power"] is not None
    assert read["power"] > 0
    assert counters.read() == {"energy": pytest.approx(3.5), "power": 0.0}
    assert counters.missing == {}


def test_a_counter_that_begins_anew_is_counted_on(tmp_path: Path) -> None:
    file = domain(tmp_path, "0", "package-0", 9_000_000, range_uj=10_000_000)
    counters = RaplCounters(tmp_path)
    file.write_text("500000", encoding="ascii")
    assert counters.read()["energy"] == pytest.approx(1.5)


def test_where_there_is_no_counter_there_is_no_energy(tmp_path: Path) -> None:
    assert RaplCounters(tmp_path).read() == {"energy": None, "power": None}


@pytest.mark.parametrize("at_start", [True, False])
def test_a_counter_that_cannot_be_read_is_said_and_not_asked_again(tmp_path: Path, at_start: bool) -> None:
    file = domain(tmp_path, "0", "package-0", 1)
    counters = None if at_start else RaplCounters(tmp_path)
    file.write_text("not a number", encoding="ascii")
    counters = counters or RaplCounters(tmp_path)
    assert counters.read() == {"energy": None, "power": None}
    assert "not a number" in counters.missing["energy"]
    file.write_text("2", encoding="ascii")
    assert counters.read() == {"energy": None, "power": None}
