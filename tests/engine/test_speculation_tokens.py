"""Speculation never changes a token: greedy output equals transformers', whoever guesses, however far, beside whatever else."""

from __future__ import annotations

from pathlib import Path

import pytest
import tokenizers
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.config import ChunkedPrefill, EngineConfig, PrefixSharing, RequestSpec, Sampling, Speculation
from engine.policies import POLICIES
from tests.engine.serving import Verdict, check_greedy, make_spec, serve

PROPOSERS = ("prompt-lookup", "layer-skip", "draft-model")
EOS = 7


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory):
    """A small random Llama and one without its two middle layers.

    The middle layers say little, so that a model without them often guesses right; attention says less than the last token does,
    so that greedy text soon repeats itself and looking it up often guesses right.
    """
    from transformers import AutoModelForCausalLM, LlamaConfig

    directories = []
    for layers in (4, 2):
        torch.manual_seed(5)
        config = LlamaConfig(
            vocab_size=200,
            hidden_size=48,
            intermediate_size=96,
            num_hidden_layers=layers,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
            tie_word_embeddings=False,
            eos_token_id=EOS,
            bos_token_id=None,
        )
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        if layers == 4:
            whole = model
            for layer in model.model.layers:
                layer.self_attn.o_proj.weight.data.mul_(0.003)
            for layer in model.model.layers[1:3]:
                layer.self_attn.o_proj.weight.data.mul_(0.1)
                layer.mlp.down_proj.weight.data.mul_(0.02)
        else:
            ends = {0: 0, 1: 3}
            for to, origin in ends.items():
                model.model.layers[to].load_state_dict(whole.model.layers[origin].state_dict())
            model.model.embed_tokens.load_state_dict(whole.model.embed_tokens.state_dict())
            model.lm_head.load_state_dict(whole.lm_head.state_dict())
        directory = tmp_path_factory.mktemp(f"layers-{layers}")
        model.save_pretrained(directory)
        words = tokenizers.models.WordLevel({f"w{i}": i for i in range(200)}, unk_token="w0")
        tokenizers.Tokenizer(words).save(str(directory / "tokenizer.json"))
        directories.append(directory)
    return whole, *directories


def engine_config(models, proposer: str, k: int, **changes) -> EngineConfig:
    speculation = Speculation(
        **{"proposer": proposer, "k": k, "control": "fixed", "draft_model": str(models[2])}
        | changes.pop("speculation", {})
    )
    values = {
        "model": str(models[1]),
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "block_size": 4,
        "kv_blocks": 1024,
        "sampling": Sampling(ignore_eos=True),
        "check_integrity": True,
        "recording": "off",
        "speculation": speculation,
    }
    return EngineConfig(**(values | changes))


def periodic(index: int, length: int = 24) -> tuple[int, ...]:
    """A prompt that repeats itself, so that looking up what came before finds something."""
    period = [20 + index, 90 - index, 40 + 3 * index, 10 + index]
    return tuple(period[i % 4] for i in range(length + index))


@pytest.mark.parametrize("k", range(1, 9))
@pytest.mark.parametrize("proposer", PROPOSERS)
def test_tokens_are_those_of_the_model_alone(proposer: str, k: int, models, tmp_path: Path):
    drafted = accepted = 0
    for batch in (1, 4, 16):
        asked = [
            RequestSpec(request_id=str(i), prompt_token_ids=periodic(i), max_tokens=60 + i % 3) for i in range(batch)
        ]
        served = serve(make_spec(engine_config(models, proposer, k), asked), tmp_path / str(batch))
        verdict = sum((check_greedy(models[0], r) for r in served), Verdict())
        assert verdict.ties <= max(1, verdict.tokens // 1000)
        assert [r.num_output_tokens for r in served] == [r.max_tokens for r in served]
        drafted += sum(r.drafted_tokens for r in served)
        accepted += sum(r.accepted_tokens for r in served)
    assert drafted / 10 < accepted < drafted, "too little was accepted, or nothing rejected: this proves nothing"


@given(data=st.data())
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_combination_of_settings_changes_a_token(data: st.DataObject, models, tmp_path: Path):
    block_size = data.draw(st.sampled_from([1, 4, 16]), label="block_size")
    requests, longest = [], 0
    for index in range(data.draw(st.integers(1, 7), label="requests")):
        start = data.draw(st.lists(st.integers(8, 199), min_size=1, max_size=8), label=f"prompt {index}")
        prompt = tuple(start * data.draw(st.integers(1, 4), label=f"repeats {index}"))
        max_tokens = data.draw(st.integers(1, 24), label=f"max_tokens {index}")
        longest = max(longest, -(-(len(prompt) + max_tokens) // block_size))
        requests.append(
            RequestSpec(
                request_id=str(index),
                prompt_token_ids=prompt,
                max_tokens=max_tokens,
                priority=data.draw(st.integers(0, 2), label=f"priority {index}"),
                arrival_ns=data.draw(st.integers(0, 20_000_000), label=f"arrival {index}"),
                cancel_after_ns=data.draw(st.none() | st.integers(0, 30_000_000), label=f"cancel {index}"),
            )
        )
    k = data.draw(st.integers(1, 8), label="k")
    config = engine_config(
        models,
        data.draw(st.sampled_from(PROPOSERS), label="proposer"),
        k,
        speculation={
            "ngram_min": 1,
            "target_speedup": data.draw(st.sampled_from([1.0, 1.3, 2.0, 4.0]), label="speedup"),
        },
        block_size=block_size,
        kv_blocks=longest + data.draw(st.integers(0, 2 * longest), label="spare blocks"),
        policy=data.draw(st.sampled_from(sorted(POLICIES)), label="policy"),
        chunked_prefill=data.draw(
            st.builds(ChunkedPrefill, token_budget=st.integers(k + 1, 48), chunk_size=st.none() | st.integers(1, 24)),
            label="chunked_prefill",
        ),
        prefix_sharing=data.draw(st.none() | st.builds(PrefixSharing), label="prefix_sharing"),
        attention_backend=data.draw(st.sampled_from(["reference", "gathered"]), label="backend"),
        max_num_seqs=data.draw(st.integers(1, 8), label="max_num_seqs"),
        max_num_batched_tokens=data.draw(st.integers(1, 64), label="max_num_batched_tokens"),
        sampling=Sampling(ignore_eos=data.draw(st.booleans(), label="ignore_eos")),
    )
    served = serve(make_spec(config, requests), tmp_path)
    verdict = sum((check_greedy(models[0], r) for r in served), Verdict())
    assert verdict.ties <= max(1, verdict.tokens // 1000)
    for request in served:
        output = request.output_token_ids
        assert request.accepted_tokens <= request.drafted_tokens
        if request.end_reason == "stop":
            assert output.index(EOS) == len(output) - 1, "went on after the end of sequence"
            assert not config.sampling.ignore_eos
        elif request.end_reason == "length":
            assert len(output) == request.max_tokens
        else:
            assert request.end_reason == "cancelled"
