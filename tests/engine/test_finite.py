"""Logits that are no numbers end the run with the reason, on every way from logits to tokens; what is merely extreme does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.config import EngineConfig, KVQuantization, RequestSpec, Sampling, Speculation
from engine.config.errors import EngineError
from engine.finite import BROKEN, broken_rows
from engine.model.decoder import Decoder
from engine.quality import QualityMeter, QualitySpec
from engine.request import Draft, Request
from engine.sampling import SamplingState, distribution, sample
from engine.scheduling.plan import Slice
from engine.speculation.models import choose
from engine.speculation.verify import verify
from engine.start.build import build_engine
from engine.start.prepare import prepare
from engine.worker import run as run_worker
from telemetry.clock import RunClock
from telemetry.recorder import Recorder
from tests.engine.drawn import random_llama
from tests.engine.serving import make_spec, serve
from tests.engine.test_kernels import DEVICE, rows_of

NAN, INF = float("nan"), float("inf")
KINDS = {"greedy": Sampling(), "hot": Sampling(temperature=1.0), "filtered": Sampling(temperature=0.7, top_k=5, top_p=0.9, min_p=0.1),
         "nucleus": Sampling(temperature=1.0, top_p=0.9), "penalised": Sampling(repetition_penalty=1.3), "all": Sampling(temperature=1.0, top_p=0.5, repetition_penalty=0.5)}  # fmt: skip


def state_of(sampling: Sampling, vocab: int, number: int = 0) -> SamplingState:
    made = SamplingState(sampling, run_seed=0, number=number, seed=None, vocab=vocab, device=torch.device("cpu"))
    made.observe([1, 2])
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [NAN, INF, -INF])
def test_a_row_that_is_not_finite_gives_no_token_and_leaves_the_others_theirs(kind: str, bad: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(4, 300)
    whole = sample(logits, [state_of(KINDS[kind], 300, i) for i in range(4)])
    logits[2, 250] = bad
    assert broken_rows(logits).tolist() == [False, False, True, False]
    tokens = sample(logits, [state_of(KINDS[kind], 300, i) for i in range(4)])
    assert tokens.tolist() == [*whole[:2].tolist(), BROKEN, int(whole[3])]


def test_large_logits_are_no_infinite_ones() -> None:
    logits = torch.tensor([[3e38, -3e38, 0.0]])
    assert sample(logits, [state_of(Sampling(), 3)]).tolist() == [0]


@pytest.mark.parametrize("temperature", [1e-38, 1e-45, 1e-30, 1e-9, 0.0])
@pytest.mark.parametrize("more", [{}, {"top_p": 0.9}, {"top_k": 7, "min_p": 0.2}])
def test_a_vanishing_temperature_is_greedy(temperature: float, more: dict, tmp_path: Path) -> None:
    sampling = Sampling(temperature=temperature, **more)
    torch.manual_seed(1)
    logits = torch.randn(5, 400) * 30
    assert sampling.greedy
    assert torch.equal(sample(logits, [state_of(sampling, 400)] * 5), logits.argmax(-1))
    assert torch.equal(distribution(logits, sampling).argmax(-1), logits.argmax(-1))


@pytest.mark.parametrize("temperature", [1e-8, 1e-7, 1e-3])
def test_a_small_temperature_that_is_drawn_at_still_finds_the_most_likely_token(temperature: float) -> None:
    sampling = Sampling(temperature=temperature)
    assert not sampling.greedy
    logits = torch.tensor([[5000.0, -5000.0, 0.0, 4000.0]]).repeat(3, 1)
    states = [state_of(sampling, 4, i) for i in range(3)]
    assert sample(logits, states).tolist() == [0, 0, 0]


@pytest.mark.parametrize(("vocab", "temperature"), [(300, 0.0), (300, 1.0), (300, 1e-8), (9000, 1.0)])
def test_the_sampling_kernel_gives_no_token_for_such_a_row(vocab: int, temperature: float) -> None:
    from engine.gpu.kernels.sample import sample_tokens

    torch.manual_seed(0)
    logits = torch.randn(5, vocab, device=DEVICE) * 10
    rows = rows_of([temperature] * 5, [1, 2, 3, 4, 5], [0] * 5)
    whole = sample_tokens(logits, *rows).tolist()
    for row, (place, bad) in enumerate([(vocab - 1, NAN), (0, INF), (vocab // 2, -INF)], 1):
        logits[row, place] = bad
    assert sample_tokens(logits, *rows).tolist() == [whole[0], BROKEN, BROKEN, BROKEN, whole[4]]


def verified(logits: torch.Tensor, draft: Draft, sampling: Sampling) -> list[int]:
    request = Request(0, RequestSpec(request_id="r", prompt="-"), [1, 2], sampling, 20)
    request.sampling_state, request.draft = state_of(sampling, logits.shape[-1]), draft
    return verify(logits, [Slice(request, 1 + len(draft.tokens), 1, False, drafted=len(draft.tokens))])[0]


@pytest.mark.parametrize("drawn", [False, True])
@pytest.mark.parametrize("row", [0, 1, 2])
def test_verification_stops_at_the_row_that_is_no_number(drawn: bool, row: int) -> None:
    """Guesses that the target takes for certain; what comes before the row counts, nothing after it does."""
    logits = torch.full((3, 50), -50.0)
    for place, token in enumerate((7, 8, 9)):
        logits[place, token] = 50.0
    laws = torch.nn.functional.one_hot(torch.tensor([7, 8]), 50).float() if drawn else None
    sampling = Sampling(temperature=1.0) if drawn else Sampling()
    assert verified(logits, Draft([7, 8], laws), sampling) == [7, 8, 9]
    logits[row, 3] = NAN
    assert verified(logits, Draft([7, 8], laws), sampling) == [*[7, 8][:row], BROKEN]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0)])
def test_a_guess_from_no_numbers_is_refused(sampling: Sampling) -> None:
    request = Request(0, RequestSpec(request_id="r", prompt="-"), [1, 2], sampling, 20)
    request.sampling_state = state_of(sampling, 50)
    assert choose(torch.tensor([[0.0, -INF, 1.0]]), [request])[0][0] in (0, 2), "what is ruled out is no fault"
    with pytest.raises(EngineError, match=r"speculation\.proposer.*not finite"):
        choose(torch.tensor([[0.0, NAN, 1.0]]), [request])


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sound")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4}
    letters = {chr(97 + i): i for i in range(26)}
    random_llama(directory, 5, letters, vocab_size=90, initializer_range=0.3, eos_token_id=None, **sizes)
    return directory


def damaged(sound: Path, directory: Path, name: str, place: tuple[int, int], value: float, rest: float = 1.0) -> Path:
    """A copy of the model with one weight replaced, and the rest of that matrix multiplied."""
    directory.mkdir(parents=True, exist_ok=True)
    for path in sound.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    weights = load_file(directory / "model.safetensors")
    weights[name] *= rest
    weights[name][place] = value
    save_file(weights, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


ODD = 70  # a token whose embedding is NaN: only requests that read it are hit
WAYS = {
    "plain loop": {"overlap": "off"},
    "overlapped loop": {"overlap": "on"},
    "chunks": {"overlap": "off", "chunked_prefill": {"token_budget": 8}},
    "lookup": {"speculation": Speculation(control="fixed", k=3, ngram_min=1)},
    "layer skipping": {"speculation": Speculation(proposer="layer-skip", control="fixed", k=2, target_speedup=1.5)},
    "shared prefixes": {"prefix_sharing": {}},
    "kernels, overlapped": {"attention_backend": "triton", "block_size": 16, "overlap": "on"},
    "kernels, guesses": {"attention_backend": "triton", "block_size": 16, "speculation": Speculation(control="fixed", k=3, ngram_min=1)},
}  # fmt: skip


def config_of(model: Path, **values) -> EngineConfig:
    known = {"device": "cpu", "dtype": "float32", "threads": 1, "kv_blocks": 64, "block_size": 4, "max_num_seqs": 4}
    return EngineConfig(model=str(model), **(known | {"sampling": Sampling(ignore_eos=True)} | values))


def asked() -> list[RequestSpec]:
    """Three that are sound, and one that reads the odd token; half of each kind of sampling."""
    hot = Sampling(temperature=1.0, ignore_eos=True)
    prompts = {"a": (1, 2, 3, 1, 2), "b": (4, 5, 4, 5, 4), "odd": (6, ODD, 7, 6), "c": (8, 9, 8, 9)}
    return [
        RequestSpec(request_id=name, prompt_token_ids=ids, max_tokens=6, sampling=hot if name == "b" else None)
        for name, ids in prompts.items()
    ]


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    "way", [pytest.param(way, marks=pytest.mark.rare if way == "kernels, guesses" else ()) for way in WAYS]
)
def test_a_run_ends_with_the_step_and_the_request_that_has_no_numbers(way: str, sound: Path, tmp_path: Path) -> None:
    model = damaged(sound, tmp_path / "model", "model.embed_tokens.weight", (ODD, 3), NAN)
    config = config_of(model, **WAYS[way])
    requests = asked()
    if "kernels" in way:  # interpreted, which takes its time
        requests = [r.model_copy(update={"max_tokens": 2}) for r in requests[1:3]]
    healthy = [r for r in requests if r.request_id != "odd"]
    assert all(r.end_reason == "length" for r in serve(make_spec(config, healthy), tmp_path / "healthy"))
    with pytest.raises(EngineError) as caught:
        serve(make_spec(config, requests), tmp_path / "rows")
    error = caught.value
    assert error.kind == "not-finite"
    assert "In step " in error.message
    assert "the logits of request 'odd' are not finite" in error.message


@pytest.mark.parametrize("layer", [0, 2])
@pytest.mark.parametrize("matrix", ["self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"])
@pytest.mark.parametrize("codec", [None, "int8", "int4", "fp8", "kivi"])
def test_no_codec_hides_a_weight_that_is_no_number(
    codec: str | None, matrix: str, layer: int, sound: Path, tmp_path: Path
) -> None:
    model = damaged(sound, tmp_path / "model", f"model.layers.{layer}.{matrix}.weight", (0, 0), NAN)
    packed = None if codec is None else KVQuantization(codec=codec, calibration_tokens=16)
    if codec == "kivi":
        packed = KVQuantization(codec=codec, residual=4, group=4)
    with pytest.raises(EngineError, match="not finite"):
        serve(make_spec(config_of(model, kv_quantization=packed), asked()[:2]), tmp_path / "rows")


@pytest.mark.parametrize("overlap", ["on", "off"])
def test_overflow_in_float16_says_what_to_change(overlap: str, sound: Path, tmp_path: Path) -> None:
    model = damaged(sound, tmp_path / "model", "model.layers.1.mlp.down_proj.weight", (0, 0), 1.0, rest=3e4)
    requests = asked()[:2]
    served = serve(make_spec(config_of(model, overlap=overlap), requests), tmp_path / "wide")
    assert [r.end_reason for r in served] == ["length", "length"], "float32 holds it"
    with pytest.raises(EngineError) as caught:
        serve(make_spec(config_of(model, overlap=overlap, dtype="float16"), requests), tmp_path / "narrow")
    assert (caught.value.field, caught.value.value) == ("dtype", "float16")
    assert "bfloat16 or float32" in caught.value.mend


def test_a_draft_model_without_numbers_ends_the_run_and_not_the_text(sound: Path, tmp_path: Path) -> None:
    draft = damaged(sound, tmp_path / "draft", "lm_head.weight", (5, 5), NAN)
    guesses = Speculation(proposer="draft-model", draft_model=str(draft), control="fixed", k=2)
    with pytest.raises(EngineError) as caught:
        serve(make_spec(config_of(sound, speculation=guesses), asked()[:2]), tmp_path / "rows")
    assert caught.value.field == "speculation.proposer"


def test_a_worker_labels_the_run_and_keeps_the_rows(sound: Path, tmp_path: Path, monkeypatch) -> None:
    from engine import worker

    monkeypatch.setattr(worker.signal, "signal", lambda *_: None)
    model = damaged(sound, tmp_path / "model", "model.embed_tokens.weight", (ODD, 3), NAN)
    run_dir = tmp_path / "test"
    run_dir.mkdir()
    late = [r.model_copy(update={"arrival_ns": 300_000_000 if r.request_id == "odd" else 0}) for r in asked()]
    (run_dir / "spec.json").write_text(make_spec(config_of(model), late).model_dump_json())
    assert run_worker(run_dir) == 1
    status = json.loads((run_dir / "status.json").read_text())
    assert status["state"] == "failed"
    assert "not finite" in status["labels"]
    assert status["error"]["kind"] == "not-finite"
    assert "request 'odd'" in status["error"]["message"]
    assert status["summary"]["requests"] == {"total": 4, "finished": 3, "cancelled": 0, "failed": 1}


def test_guesses_that_are_tried_out_on_such_weights_say_so(sound: Path, tmp_path: Path) -> None:
    model = damaged(sound, tmp_path / "model", "lm_head.weight", (5, 5), NAN)
    guesses = Speculation(proposer="layer-skip", control="smart", k=2, target_speedup=1.5)
    with pytest.raises(EngineError, match=r"tried out before the run|what guesses for the model"):
        serve(make_spec(config_of(model, speculation=guesses), asked()[:2]), tmp_path / "rows", tried_out=True)


def test_the_quality_meter_measures_no_such_model(sound: Path, tmp_path: Path) -> None:
    model = damaged(sound, tmp_path / "model", "model.layers.2.mlp.down_proj.weight", (0, 0), NAN)
    spec = QualitySpec(
        engine=config_of(model), codecs={"int8": KVQuantization()}, tokens=32, prompts=0, needle_tokens=0
    )
    with pytest.raises(EngineError, match="at full precision are not finite"):
        QualityMeter(spec).measure()


def test_the_flag_is_read_where_the_tokens_are(sound: Path, tmp_path: Path, monkeypatch) -> None:
    """No further look at the device: between logits and tokens nothing is asked of it that waits."""
    asked_of: list[str] = []
    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "cpu"):
        real = getattr(torch.Tensor, name)

        def watched(self, *args, name=name, real=real):
            if self.numel() and self.dtype == torch.bool:
                asked_of.append(name)
            return real(self, *args)

        monkeypatch.setattr(torch.Tensor, name, watched)
    prepared = prepare(make_spec(config_of(sound, overlap="on"), asked()[:1]))
    with Recorder(tmp_path, "off", clock := RunClock()) as recorder:
        engine = build_engine(prepared, recorder, clock)
        asked_of.clear()
        engine.run(prepared.requests)
    assert isinstance(prepared.model.decoder, Decoder)
    assert asked_of == []
