"""A limit to the disk that runs take: what goes first, what never goes, and that it is said before."""

from __future__ import annotations

import json
import time
from pathlib import Path

import plotly.graph_objects as go
import pytest

from app.errors import LabError
from app.experiments.file import create_experiment
from app.experiments.plan import Experiment, Variant
from app.home import Home
from app.lab import Lab
from app.locks import LabAddress
from app.reports import Pin, create_report, new_pin_id, pin_chart
from app.retention import Rule, bytes_of, keep_to, plan_retention, read_rule, write_rule
from app.runs.folder import create_run
from app.runs.notes import read_notes, write_notes
from app.words.text import disk_size
from store.plan import Turn
from telemetry.status import write_status
from tests.app.lab_process import servescope
from tests.app.small_runs import small_spec

MB = 10**6
ORDER = ("oldest", "pinned", "tagged", "cited", "tried", "served", "older", "failed", "newest")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """Nine runs of a megabyte and more each, made one after the other; one is being served."""
    home = Home(tmp_path / "home").prepare()
    for number, run_id in enumerate(ORDER):
        spec = small_spec(run_id).model_copy(update={"created_unix_ns": 10**18 + number})
        folder = create_run(home, spec)
        (folder / "telemetry").mkdir(exist_ok=True)
        (folder / "telemetry" / "slice.arrow").write_bytes(b"x" * MB)
        write_status(folder, state={"served": "queued", "failed": "failed"}.get(run_id, "finished"))
    write_notes(home, "pinned", pinned=True)
    write_notes(home, "tagged", tags=["keep"])
    report_id = create_report(home, "what was seen")
    chart = Pin(pin_id=new_pin_id(), title="One", runs=("cited",), pinned_unix_ns=time.time_ns())
    pin_chart(home, report_id, chart, go.Figure())
    experiment = Experiment(
        "x-1", "compare", "test", "t", "q", (Variant("a"), Variant("b")), 1, (Turn("a", 0, run_id="tried", done=True),),
        {"a": "h", "b": "h"},
    )  # fmt: skip
    specs = {name: small_spec("x") for name in ("a", "b")}
    create_experiment(home, experiment, specs)
    return home


def test_without_a_limit_nothing_goes(home: Home) -> None:
    assert read_rule(home) == Rule()
    plan = plan_retention(home, read_rule(home))
    assert (plan.goes, plan.suffices) == ((), True)
    assert plan.used == sum(bytes_of(home.run_dir(run)) for run in ORDER)


def test_the_oldest_that_nothing_rests_on_go_first_and_only_as_many_as_it_takes(home: Home) -> None:
    used = plan_retention(home, Rule()).used
    plan = plan_retention(home, Rule(limit_gb=(used - 1.5 * MB) / 1e9))
    assert [run["id"] for run in plan.goes] == ["oldest", "older"]
    assert plan.suffices
    assert plan.left == used - sum(run["bytes"] for run in plan.goes)
    assert set(home.run_ids()) == set(ORDER), "saying it changes nothing"


def test_what_is_pinned_tagged_cited_tried_or_served_stays_whatever_the_limit(home: Home) -> None:
    plan = plan_retention(home, Rule(limit_gb=1e-6))
    assert [run["id"] for run in plan.goes] == ["oldest", "older", "failed", "newest"]
    assert not plan.suffices
    why = {run["id"]: run["why"] for run in plan.stays}
    assert why["pinned"] == "pinned"
    assert why["tagged"] == "tagged keep"
    assert why["cited"].startswith("in the report report-")
    assert why["tried"] == "part of x-1"
    assert why["served"] == "not over (queued)"


def test_what_goes_can_be_brought_back_and_what_was_pinned_meanwhile_stays(home: Home) -> None:
    plan = plan_retention(home, Rule(limit_gb=1e-6))
    write_notes(home, "older", pinned=True)
    assert keep_to(home, plan.rule, plan.named) == ["oldest", "failed", "newest"]
    assert set(home.trashed_ids()) == {"oldest", "failed", "newest"}
    assert servescope(home, "restore", "oldest").returncode == 0
    assert "oldest" in home.run_ids()


@pytest.mark.parametrize("by_itself", [False, True])
def test_the_lab_keeps_to_it_only_where_somebody_said_so(home: Home, by_itself: bool) -> None:
    write_rule(home, 1e-6, by_itself)
    lab = Lab(home, LabAddress.fresh("127.0.0.1", 0))
    lab._collector = type("Collector", (), {"notify": staticmethod(lambda run_id: None)})()
    lab._keep_to_limit()
    assert set(home.trashed_ids()) == ({"oldest", "older", "failed", "newest"} if by_itself else set())


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), 1e9])
def test_a_limit_that_cannot_be_is_refused_with_what_would_be_right(home: Home, limit: float) -> None:
    with pytest.raises(LabError, match="a number of GB above 0") as refused:
        write_rule(home, limit, True)
    assert refused.value.field == "limit"
    assert read_rule(home) == Rule()


def test_a_rule_that_cannot_be_read_deletes_nothing_and_says_how_to_mend_it(home: Home) -> None:
    (home.root / "retention.json").write_text('{"limit_gb": "all"}')
    with pytest.raises(LabError, match="servescope retention --off"):
        read_rule(home)
    done = servescope(home, "retention", "--off", "--json")
    assert json.loads(done.stdout)["limit_gb"] is None
    assert read_rule(home) == Rule()


def test_the_command_says_what_would_go_and_does_it_when_told(home: Home) -> None:
    said = json.loads(servescope(home, "retention", "--limit-gb", "0.000001", "--json").stdout)
    assert ([run["run_id"] for run in said["goes"]], said["deleted"]) == (["oldest", "older", "failed", "newest"], [])
    assert home.trashed_ids() == []
    done = servescope(home, "retention", "--apply")
    assert "Moved to the trash: oldest" in done.stderr
    assert set(home.trashed_ids()) == {"oldest", "older", "failed", "newest"}


def test_the_command_pins_and_unpins(home: Home) -> None:
    assert json.loads(servescope(home, "tag", "newest", "--pin", "--json").stdout)["pinned"] is True
    assert read_notes(home, "newest").pinned
    assert servescope(home, "tag", "newest", "--unpin").returncode == 0
    assert not read_notes(home, "newest").pinned


def test_sizes_read_as_disks_are_sold() -> None:
    assert [disk_size(count) for count in (0, 999, 1000, 12_345_678, 2.5e9, 3e12)] == [
        *("0 bytes", "999 bytes", "1 kB", "12.3 MB", "2.5 GB", "3 TB"),
    ]
