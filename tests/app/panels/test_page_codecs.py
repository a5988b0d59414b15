"""The KV cache tab before a real lab: codecs side by side, what is missing and how to get it, measured quality from the database."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.home import Home
from app.lab import Lab, set_lab
from app.locks import LabAddress
from app.panels.kv_quantization.measure import is_measuring
from app.runs.folder import read_spec
from engine.config import KVQuantization
from store.quality import quality
from tests.app.pages.test_page_live import opened, stored_state, texts
from tests.app.small_runs import small_spec, wait_for, wait_for_state
from tests.store.test_quality_rows import codec as measured
from tests.store.test_quality_rows import write

HOSTILE = "<img src=x onerror=alert(1)>"
DTYPE = "float32"  # what `auto` takes depends on the processor, and quality belongs to a model in one dtype


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    there = Lab(Home(tmp_path_factory.mktemp("codecs")).prepare(), LabAddress.fresh("127.0.0.1", 0))
    set_lab(there)
    there.start()
    for run_id, codec in (("full", None), ("int4", {"codec": "int4"})):
        serve(there, run_id, kv_quantization=codec)
    yield there
    there.stop()
    set_lab(None)


def serve(lab: Lab, run_id: str, **engine: object) -> None:
    """Six requests of which four fit: somebody is preempted."""
    spec = small_spec(run_id, requests=6, tokens=24, kv_blocks=8, max_num_seqs=6, dtype=DTYPE, **engine)
    lab.submit(spec)
    wait_for_state(lab.home, run_id, "finished")
    wait_for(lambda: stored_state(lab, run_id) == "finished")


def test_runs_that_differ_in_the_codec_stand_side_by_side(lab: Lab) -> None:
    page = opened("int4", tab="KV cache")
    assert not page.exception
    table = next(frame.value for frame in page.dataframe if "KV capacity, tok" in frame.value)
    assert list(table["codec"]) == ["full precision", "int4"]
    assert list(table["run"]) == ["/?run=full", "/?run=int4"]
    full, packed = table.to_dict("records")
    assert packed["KV capacity, tok"] > 2 * full["KV capacity, tok"]
    assert full["preemptions"] > packed["preemptions"]
    assert full["perplexity, x"] == 1
    assert len(page.get("plotly_chart")) == 3
    said = texts(page).replace("\\", "")
    assert "preemption" in said
    assert "int4: measured, " in said or "nothing is compared" in said
    crossover = next(frame.value for frame in page.dataframe if "faster, modelled" in frame.value)
    assert list(crossover["codec"]) == ["int4"]
    assert crossover["faster, modelled"][0] == "never" or crossover["faster, modelled"][0].startswith("from ")
    thrown = next(frame.value for frame in page.dataframe if "tokens computed again" in frame.value)
    assert set(thrown["codec"]) == {"full precision"}
    values = {metric.label: metric.value for metric in page.metric}
    assert values["Stored as"] == "int4"
    assert values["Effective bits"]
    assert values["KV capacity"] == f"{packed['KV capacity, tok']:,} tok"
    assert values["KV capacity, times"].endswith("x")


def test_what_is_missing_is_named_with_the_button_and_the_command(lab: Lab) -> None:
    page = opened("int4", tab="KV cache")
    assert "Quality of int4 is not measured on this model" in texts(page)
    assert "servescope quality --run int4" in texts(page).replace("\\", "")
    options = page.selectbox(key="codec-to-run").options
    assert options == ["int8", "fp8", "kivi 4-bit", "kivi 2-bit"]
    page.selectbox(key="codec-to-run").select("int8").run()
    before = set(lab.home.run_ids())
    page.button(key="run-codec").click().run()
    (run_id,) = set(lab.home.run_ids()) - before
    assert page.query_params["run"] in (run_id, [run_id])
    spec = read_spec(lab.home.run_dir(run_id))
    assert spec.engine.kv_quantization == KVQuantization(codec="int8")
    assert spec.workload_hash == read_spec(lab.home.run_dir("int4")).workload_hash
    wait_for_state(lab.home, run_id, "finished")
    wait_for(lambda: stored_state(lab, run_id) == "finished")
    shown = next(frame.value for frame in opened("int4", tab="KV cache").dataframe if "KV capacity, tok" in frame.value)
    assert list(shown["codec"]) == ["full precision", "int8", "int4"]


def test_a_run_alone_says_how_to_get_others(lab: Lab) -> None:
    spec = small_spec("alone", requests=1, tokens=3)
    lab.submit(spec)
    wait_for_state(lab.home, "alone", "finished")
    wait_for(lambda: stored_state(lab, "alone") == "finished")
    page = opened("alone", tab="KV cache")
    assert not page.exception
    assert "No other codec has served these requests yet" in texts(page)
    assert any("servescope compare test" in code.value for code in page.code)
    assert len(page.get("plotly_chart")) == 1, "its pool, and who was preempted"
    assert "Nobody, with any of these codecs" in texts(page)


def test_measured_quality_is_drawn_from_the_database_and_names_stay_text(lab: Lab) -> None:
    settings = KVQuantization(codec="int4").model_dump(mode="json")
    write(
        lab.home.run_dir("full"),
        measured(HOSTILE, settings=settings),
        model="random:tiny",
        dtype=DTYPE,
        labels=[HOSTILE],
    )

    def there() -> bool:
        with lab.cursor() as con:
            return len(quality(con, "full")) == 2

    wait_for(there)
    assert not is_measuring(lab.home.run_dir("full"))
    page = opened("full", tab="KV cache")
    assert not page.exception
    table = next(
        frame.value
        for frame in page.dataframe
        if "top-1 agreement" in frame.value and "KV capacity, times" in frame.value
    )
    assert list(table["codec"]) == ["full precision", HOSTILE]
    assert "\\<img" in texts(page)
    assert "<img" not in texts(page).replace("\\<", "")
    beside = next(
        frame.value for frame in opened("int4", tab="KV cache").dataframe if "KV capacity, tok" in frame.value
    )
    ratio = dict(zip(beside["codec"], beside["perplexity, x"], strict=True))
    assert ratio["int4"] == pytest.approx(1.02)
