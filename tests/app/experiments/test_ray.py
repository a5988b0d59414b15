"""Experiments on a Ray cluster of two workers: runs come back whole, repeats stay on one node, what was lost is said."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.errors import LabError
from app.experiments.cluster import packed, put_in_place, serve_on_ray
from app.experiments.file import create_experiment, read_experiment
from app.experiments.judge import result_of_experiment
from app.experiments.plan import Variant, grid, plan
from app.home import Home
from app.runs.folder import read_spec
from app.runs.process import SOURCE_ROOT
from telemetry.status import read_status
from tests.app.lab_process import scenario_file, servescope
from tests.app.small_runs import experiment_here, small_spec

MEMORY = 100 << 20
SIDES = (Variant("on", {"chunked_prefill.token_budget": "16"}), Variant("off", {"chunked_prefill": "off"}))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home").prepare()


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """A real cluster on this machine: a head without CPUs and two workers with one each."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install 'servescope[ray]'")
    from ray.cluster_utils import Cluster

    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(SOURCE_ROOT), os.environ.get("PYTHONPATH")]))
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": MEMORY}
    started = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(2):
        started.add_node(num_cpus=1, object_store_memory=MEMORY)
    started.wait_for_nodes()
    yield started.address
    started.shutdown()


@pytest.mark.slow
@pytest.mark.rare
def test_a_comparison_on_two_workers_gives_the_tokens_of_this_machine(home: Home, cluster: str, tmp_path: Path) -> None:
    experiment, specs = plan(str(scenario_file(tmp_path)), SIDES, 2)
    create_experiment(home, experiment, specs)
    seen = []
    interrupted = serve_on_ray(home, experiment.experiment_id, cluster, seen.append, lambda: False)
    assert not interrupted
    after = read_experiment(home, experiment.experiment_id)
    assert (after.state, after.problem) == ("finished", "")
    assert seen[-1] == after
    result = result_of_experiment(home, experiment.experiment_id)
    assert result["repeats"] == 2
    assert result["variants"]["off"]["same_tokens_as_baseline"]
    for turn in after.turns:
        assert read_spec(home.run_dir(turn.run_id)).experiment_id == experiment.experiment_id
        assert "pid" not in read_status(home.run_dir(turn.run_id))
    here = Home(tmp_path / "here").prepare()
    experiment_here(here, experiment, specs, until=lambda now: now.turns[1].done)
    run_id = after.turns[1].run_id
    digests = [read_status(place.run_dir(run_id))["summary"]["output_digest"] for place in (home, here)]
    assert digests[0] == digests[1]


@pytest.mark.slow
@pytest.mark.rare
def test_a_sweep_is_stopped_and_gone_on_with(home: Home, cluster: str, tmp_path: Path) -> None:
    over = {"max_num_seqs": ["1", "2", "4"]}
    experiment, specs = plan(str(scenario_file(tmp_path)), grid(over), 1, kind="sweep", over=over)
    create_experiment(home, experiment, specs)

    def one_is_done() -> bool:
        return any(turn.done for turn in read_experiment(home, experiment.experiment_id).turns)

    assert serve_on_ray(home, experiment.experiment_id, cluster, lambda _: None, one_is_done)
    assert read_experiment(home, experiment.experiment_id).state == "paused"
    command = ("compare", "--resume", experiment.experiment_id, "--ray", cluster, "--json")
    done = servescope(home, *command)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["variants"]) == {"max_num_seqs=1", "max_num_seqs=2", "max_num_seqs=4"}


@pytest.mark.slow
@pytest.mark.rare
def test_a_run_that_fails_on_its_node_ends_the_experiment_with_its_reason(
    home: Home, cluster: str, tmp_path: Path
) -> None:
    experiment, specs = plan(str(scenario_file(tmp_path)), SIDES, 1)
    lost = {
        n: s.model_copy(update={"engine": s.engine.model_copy(update={"model": "/no/such"})}) for n, s in specs.items()
    }
    create_experiment(home, experiment, lost)
    serve_on_ray(home, experiment.experiment_id, cluster, lambda _: None, lambda: False)
    after = read_experiment(home, experiment.experiment_id)
    assert after.state == "failed"
    assert "There is no such model" in after.problem


def test_where_nobody_answers_or_ray_is_missing_is_said(home: Home, tmp_path: Path) -> None:
    experiment, specs = plan(str(scenario_file(tmp_path)), SIDES, 1)
    create_experiment(home, experiment, specs)
    with pytest.raises(LabError, match=r"servescope\[ray\]|No Ray cluster answers"):
        serve_on_ray(home, experiment.experiment_id, "127.0.0.1:1", lambda _: None, lambda: False)
    assert read_experiment(home, experiment.experiment_id).state == "running", "nothing was served, nothing is lost"


def test_what_a_node_returns_is_a_run_and_nothing_else(home: Home, tmp_path: Path) -> None:
    spec = small_spec("came-back")
    source = tmp_path / "run"
    (source / "telemetry").mkdir(parents=True)
    (source / "status.json").write_text('{"state": "finished"}')
    (source / "telemetry" / "slice.arrow").write_bytes(b"rows")
    (source / "secret").write_text("not of a run")
    run_dir = put_in_place(home, spec, packed(source))
    assert sorted(p.name for p in run_dir.rglob("*")) == ["slice.arrow", "spec.json", "status.json", "telemetry"]
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        member = tarfile.TarInfo("../outside")
        member.size = 1
        archive.addfile(member, io.BytesIO(b"x"))
    with pytest.raises(LabError, match="outside"):
        put_in_place(home, small_spec("climbs"), sink.getvalue())
    assert not (home.root / "outside").exists()
    assert not home.run_dir("climbs").exists()
