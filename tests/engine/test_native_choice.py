"""When a run gets native kernels: on a CPU where they can serve it, else it is refused with the reason or served without."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine.config import ConfigError, EngineConfig, RequestSpec, apply_overrides
from engine.config.errors import EngineError
from engine.native import compile as compiling
from engine.run_facts import describe_model
from engine.start.attention import choose_backend
from engine.start.prepare import prepare
from engine.start.prepared import Prepared
from tests.engine.serving import make_spec

CPU = torch.device("cpu")
TINY = {"model": "random:tiny", "device": "cpu", "kv_blocks": "64", "dtype": "float32"}
UNSERVED = {
    "an exact window": ({"kv_quantization": "on", "kv_quantization.codec": "kivi"}, "exact window"),
    "an exact prefill": ({"kv_quantization": "on", "kv_quantization.prefill": "exact"}, "exact prefill"),
    "half precision": ({"dtype": "float16"}, "float16"),
    "few channels a step": ({"kv_quantization.codec": "int8", "kv_quantization.group": "2"}, "multiple of 4"),
}


def prepared(**changes: Any) -> Prepared:
    config = apply_overrides(EngineConfig(), TINY | changes)
    return prepare(make_spec(config, [RequestSpec(request_id="0", prompt_token_ids=(1, 2, 3), max_tokens=3)]))


@pytest.mark.parametrize("asked", ["native", "auto"])
@pytest.mark.parametrize("changes", [{}, {"kv_quantization": "on"}, {"speculation": "on"}, {"prefix_sharing": "on"}])
def test_a_run_on_a_cpu_is_served_natively(changes: dict[str, str], asked: str) -> None:
    ready = prepared(**changes, attention_backend=asked)
    assert (ready.backend, ready.backend_why, ready.notices) == ("native", None, ())


@pytest.mark.parametrize("name", UNSERVED)
def test_what_they_do_not_serve_is_refused_with_the_reason_and_runs_on_the_plain_path(name: str) -> None:
    changes, words = UNSERVED[name]
    assert describe_model(prepared(**changes), 0)["attention_backend"] == "gathered"
    with pytest.raises(EngineError) as refused:
        prepared(**changes, attention_backend="native")
    assert refused.value.field == "attention_backend"
    assert words in refused.value.message


def test_prefixes_read_together_are_read_by_the_plain_path() -> None:
    changes = {"prefix_sharing.attention": "one-level"}
    assert prepared(**changes).backend == "gathered"
    with pytest.raises(ConfigError, match="gathered or triton, not native"):
        prepared(**changes, attention_backend="native")


def test_without_llvmlite_they_are_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling.importlib.util, "find_spec", lambda name: None)
    assert choose_backend("auto", CPU) == ("gathered", None)
    with pytest.raises(EngineError, match="llvmlite is not installed") as refused:
        choose_backend("native", CPU)
    assert refused.value.field == "attention_backend"


def test_native_kernels_are_for_cpus() -> None:
    with pytest.raises(EngineError, match="they are for CPUs"):
        choose_backend("native", torch.device("cuda:0"))


def test_without_pytorchs_threads_a_kernel_runs_on_one(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.native import team

    monkeypatch.setattr(team, "_region", lambda: None)
    torch.set_num_threads(2)
    assert team.most_threads() == 1
