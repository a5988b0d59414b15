"""Prefill and decode in halves of their own change no token, whatever else is on."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.block_table import blocks_for
from engine.config import EngineConfig, Placement, PrefixSharing, Sampling
from engine.config.combinations import WHOLE_BATCHES
from engine.scheduling.policies import POLICIES
from engine.start.prepared import Prepared
from tests.engine.drawn import drawn_chunking, drawn_guessing
from tests.engine.serving import make_spec
from tests.engine.test_swap_tokens import CODECS, check_tokens, crowd
from tests.engine.two_halves import serve_apart
from tests.examples import examples
from tests.row_maker import spooled

SERVED = sorted(set(CODECS) - {"kivi"})


@given(data=st.data())
@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_with_two_halves_changes_a_token(data: st.DataObject, lettered, tmp_path: Path) -> None:
    model, directory = lettered
    asked = crowd(data.draw(st.integers(0, 2**32 - 1), label="workload"))
    speculation = data.draw(st.none() | drawn_guessing(6), label="speculation")
    least = 1 + (speculation.k if speculation else 0)
    link = st.none() | st.sampled_from([1.0, 10.0])
    apart = st.builds(Placement, link_mb_per_s=link)
    order = st.sampled_from(["arrival", "shortest"])
    one_pool = st.builds(Placement, kind=st.just("partitioned"), lend=st.booleans(), prefill_order=order)
    placement = data.draw(apart | one_pool, label="placement")
    sharing = st.builds(PrefixSharing, share_memory=st.booleans(), wait_in_flight=st.booleans())
    config = EngineConfig(
        model=str(directory),
        device="cpu",
        dtype="float32",
        threads=2,
        block_size=data.draw(st.sampled_from([4, 8]), label="block_size"),
        kv_blocks=512,
        policy=data.draw(st.sampled_from(sorted(set(POLICIES) - set(WHOLE_BATCHES))), label="policy"),
        chunked_prefill=data.draw(drawn_chunking(least), label="chunked_prefill"),
        prefix_sharing=data.draw(
            st.none() if placement.is_partitioned else st.none() | sharing, label="prefix_sharing"
        ),
        speculation=speculation,
        kv_quantization=CODECS[data.draw(st.sampled_from(SERVED), label="codec")],
        placement=placement,
        max_num_seqs=data.draw(st.integers(2, 6), label="max_num_seqs"),
        sampling=Sampling(ignore_eos=True),
        check_integrity=True,
        recording=data.draw(st.sampled_from(["full", "off"]), label="recording"),
    )
    spare = data.draw(st.integers(0, 100), label="spare blocks, % of the longest request's")

    def blocks(half: str, prepared: Prepared) -> int:
        """Room for the longest request and a few blocks, so that either pool is full now and then."""
        longest = max(blocks_for(r.most_computed_tokens, config.block_size) for r in prepared.requests)
        return longest + longest * spare // 200

    prepared, _, _ = serve_apart(make_spec(config, asked), tmp_path, blocks)
    check_tokens(model, prepared)


@pytest.mark.parametrize("kind", ["disaggregated", "partitioned"])
def test_sampled_text_is_that_of_one_engine(lettered, tmp_path: Path, kind: str) -> None:
    """The prefill half draws the first token with the first number of a request's stream, the decode half goes on."""
    from tests.engine.serving import serve

    _, directory = lettered
    sampling = Sampling(temperature=0.9, top_p=0.95, repetition_penalty=1.2, ignore_eos=True)
    config = EngineConfig(
        model=str(directory), device="cpu", dtype="float32", threads=2, kv_blocks=64, sampling=sampling
    )
    asked = [request.model_copy(update={"cancel_after_ns": None}) for request in crowd(5)]
    together = serve(make_spec(config, asked), tmp_path / "together")
    apart = config.model_copy(update={"placement": Placement(kind=kind)})
    prepared, _, _ = serve_apart(make_spec(apart, asked), tmp_path / "apart")
    assert [r.output_token_ids for r in prepared.requests] == [r.output_token_ids for r in together]
    halves = {row["half"] for row in spooled(tmp_path / "apart", "iteration")}
    assert halves == {"prefill", "decode"}
