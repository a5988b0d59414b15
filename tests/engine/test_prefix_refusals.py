"""What prefix sharing cannot work with is refused before it is served."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.config import EngineConfig, PrefixSharing, RequestSpec, Sampling
from engine.config.errors import EngineError
from tests.engine.serving import make_spec, serve


@pytest.mark.parametrize("order", ["arrival", "grouped"])
def test_a_pool_too_small_for_one_request_is_refused_though_its_prefix_is_shared(order: str, tmp_path: Path) -> None:
    config = EngineConfig(
        model="random:tiny",
        device="cpu",
        threads=1,
        block_size=16,
        kv_blocks=4,
        prefix_sharing=PrefixSharing.model_validate({"order": order}),
        sampling=Sampling(ignore_eos=True),
    )
    stem = tuple(range(40, 88))
    asked = [RequestSpec(request_id=name, prompt_token_ids=stem, max_tokens=n) for name, n in (("a", 4), ("b", 40))]
    fits, too_large = serve(make_spec(config, asked), tmp_path)
    assert (fits.end_reason, fits.num_output_tokens) == ("length", 4)
    assert too_large.end_reason == "failed"
    assert too_large.refusal is not None
    assert (too_large.refusal.kind, too_large.refusal.field) == ("pool-too-small", "kv_blocks")
    assert "at least 6" in too_large.refusal.mend
    with pytest.raises(EngineError) as caught:
        serve(make_spec(config, asked[1:]), tmp_path)
    assert "at least 6" in caught.value.mend
