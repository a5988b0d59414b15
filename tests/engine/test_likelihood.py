"""Log-probabilities that clients are told are those of the model, whatever the engine does to be fast."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine.config import ChunkedPrefill, PrefixSharing, Sampling, Speculation
from engine.model.load import load, resolve
from tests.engine.full_attention import FullAttention
from tests.engine.test_door import Caller, served
from tests.engine.test_worker import rows

WAYS: dict[str, dict[str, Any]] = {
    "chunks of shared prompts": {"chunked_prefill": ChunkedPrefill(token_budget=8), "prefix_sharing": PrefixSharing()},
    "guesses": {"speculation": Speculation(proposer="prompt-lookup", k=3, control="fixed")},
    "overlapped": {"overlap": "on"},
}


@pytest.fixture(scope="module")
def laws() -> Any:
    """Log-probabilities after each of some tokens, by one forward pass over all of them."""
    model = load(resolve("random:tiny"), torch.device("cpu"), torch.float32)

    @torch.inference_mode()
    def of(ids: list[int]) -> torch.Tensor:
        attention = FullAttention()
        hidden = model.decoder.forward(torch.tensor(ids), torch.arange(len(ids)), attention)
        return model.decoder.logits(hidden).float().log_softmax(-1)

    return of


@pytest.mark.parametrize("way", WAYS)
def test_scores_are_the_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, laws: Any, way: str):
    prompt = [11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28] * 2
    with served(tmp_path / "run", monkeypatch, keep_logprobs=True, **WAYS[way]) as caller:
        told: dict[int, list[Any]] = {0: [], 1: [], 2: []}
        of_prompt: dict[int, list[Any]] = {}
        for number in told:
            sampling = Sampling(ignore_eos=True, temperature=0.0 if number < 2 else 1.3)
            own = {"logprobs": 3, "prompt_logprobs": number != 1}
            caller.ask(number, prompt_token_ids=prompt, max_tokens=7, sampling=sampling, **own)
            listen(caller, told, of_prompt, number)
        caller.ask(3, prompt_token_ids=prompt, max_tokens=7, sampling=Sampling(ignore_eos=True))
        listen(caller, {}, {}, 3)  # who asks for none is told none
    kept = {row["request"]: row["output_logprobs"] for row in rows(tmp_path / "run", "request")}
    law = laws([*prompt, *caller.tokens[3]])
    assert kept[3] == pytest.approx(
        [float(law[len(prompt) - 1 + n, token]) for n, token in enumerate(caller.tokens[3])], abs=1e-4
    )
    for number, scores in told.items():
        assert kept[number] == pytest.approx([own for own, _ in scores], abs=1e-6)
    for number, scores in told.items():
        ids = [*prompt, *caller.tokens[number]]
        law = laws(ids)
        assert len(scores) == 7
        places = range(len(prompt) - 1, len(ids) - 1)
        if number == 1:
            assert number not in of_prompt
        else:
            assert len(of_prompt[number]) == len(prompt) - 1
            scores, places = of_prompt[number] + scores, range(len(ids) - 1)
        for row, (own, likeliest) in zip(places, scores, strict=True):
            assert own == pytest.approx(float(law[row, ids[row + 1]]), abs=1e-4)
            assert [value for _, value in likeliest] == pytest.approx(law[row].topk(3).values.tolist(), abs=1e-4)
            assert [float(law[row, token]) for token, _ in likeliest] == pytest.approx(
                [v for _, v in likeliest], abs=1e-4
            )


def listen(caller: Caller, told: dict[int, list[Any]], of_prompt: dict[int, list[Any]], number: int) -> None:
    while number not in caller.ended:
        message = caller.next()
        for of, scores in message.get("scores", ()):
            told[of] += scores
        of_prompt |= dict(message.get("prompt_scores", ()))
