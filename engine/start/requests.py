"""What is asked, tokenised and checked: each request ready to be served, or refused by name with the reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from engine.config import RequestSpec, RunSpec
from engine.config.door import Ask
from engine.config.errors import EngineError
from engine.model.load import LoadedModel
from engine.model.tokenizer import StreamDecoder
from engine.request import Request
from engine.sampling import SamplingState
from engine.scores import Scores


def make_requests(spec: RunSpec, model: LoadedModel, device: torch.device, max_model_len: int) -> list[Request]:
    """Tokenise and check every request; in order of arrival as far as that is known beforehand. One that cannot be
    served is refused."""
    requests = [_request(index, asked, spec, model, device, max_model_len) for index, asked in enumerate(spec.requests)]
    for request, program in zip(requests, programs_of(spec.requests), strict=True):
        request.program = program
    return requests


def programs_of(asked: Sequence[RequestSpec]) -> list[int | None]:
    """The place of the first turn of each request's program; None of requests that nothing continues and that
    continue nothing. Turns that wait for themselves (``Arrivals`` refuses them) get any."""
    place = {request.request_id: number for number, request in enumerate(asked)}
    continued = {request.after for request in asked if request.continues}
    firsts: list[int | None] = []
    for number, request in enumerate(asked):
        chain = [number]
        while asked[chain[-1]].continues and (before := place.get(asked[chain[-1]].after or "")) not in (None, *chain):
            chain.append(before)  # type: ignore[arg-type]
        firsts.append(chain[-1] if len(chain) > 1 or request.request_id in continued else None)
    return firsts


def _request(
    index: int, asked: RequestSpec, spec: RunSpec, model: LoadedModel, device: torch.device, max_model_len: int
) -> Request:
    sampling = asked.sampling or spec.engine.sampling
    ids, refusal = _prompt(asked, spec, model, max_model_len)
    most = max(1, max_model_len - len(ids))  # more the model cannot give
    request = Request(index, asked, ids, sampling, min(asked.max_tokens, most), refusal=refusal)
    request.sampling_state = SamplingState(
        sampling, run_seed=spec.engine.seed, number=index, seed=asked.seed, vocab=model.shape.vocab, device=device
    )
    if refusal is None:
        request.sampling_state.observe(ids)
    if spec.engine.keep_logprobs:
        request.scores = Scores(0, is_told=False, is_kept=True)
    if sampling.stop:
        request.stream = StreamDecoder(model.tokenizer)
    return request


def live_request(
    ask: Ask,
    spec: RunSpec,
    model: LoadedModel,
    device: torch.device,
    max_model_len: int,
    unfit: Callable[[Request], EngineError | None],
) -> Request:
    """What a client asked, tokenised and checked; refused where it cannot be served. Its tokens go into the rows only
    where the run keeps text."""
    request = _request(ask.number, ask.request, spec, model, device, max_model_len)
    request.refusal = request.refusal or unfit(request)
    request.stop_token_ids = frozenset(ask.stop_token_ids)
    request.min_tokens = ask.min_tokens
    if ask.logprobs is not None:
        request.scores = Scores(ask.logprobs, ask.prompt_logprobs, is_kept=spec.engine.keep_logprobs)
    request.is_kept = spec.engine.keep_text
    return request


def _prompt(
    asked: RequestSpec, spec: RunSpec, model: LoadedModel, max_model_len: int
) -> tuple[list[int], EngineError | None]:
    """A request's prompt, as far as there is one, and why it cannot be served."""
    ids: list[int] = []
    try:
        ids = _prompt_token_ids(asked, spec, model)
        _check_prompt(asked, ids, model.shape.vocab, max_model_len)
    except EngineError as error:
        if error.field.startswith("requests["):
            return ids, error
        return ids, EngineError(
            error.kind, f"requests[{asked.request_id}].{error.field}", error.value, error.message, error.mend
        )
    return ids, None


def _prompt_token_ids(asked: RequestSpec, spec: RunSpec, model: LoadedModel) -> list[int]:
    if asked.prompt_token_ids is not None:
        return list(asked.prompt_token_ids)
    assert asked.prompt is not None
    return model.tokenizer.prompt(
        asked.prompt,
        chat=asked.chat,
        system=asked.system,
        length=asked.prompt_tokens,
        now=spec.asked_at,
        begins=not asked.continues,
    )


def bound_carried(requests: Sequence[Request], max_model_len: int) -> None:
    """Find how many tokens requests that continue others may come to carry; refuse those that would get too long, and
    all after them.

    What ``after`` names must be there, and nobody may wait for itself (``Arrivals`` checks both).
    """
    by_name = {r.request_id: r for r in requests}
    bounded = {r.request_id for r in requests if not r.spec.continues}
    for last in requests:
        chain = [last]
        while chain[-1].request_id not in bounded:
            chain.append(by_name[chain[-1].spec.after or ""])
        for earlier, request in zip(chain[::-1], chain[-2::-1], strict=False):
            request.most_carried_tokens = earlier.most_prompt_tokens + earlier.max_tokens
            request.refusal = request.refusal or _too_long(request, earlier, max_model_len)
            request.max_tokens = max(1, min(request.max_tokens, max_model_len - request.most_prompt_tokens))
            bounded.add(request.request_id)


def _too_long(request: Request, earlier: Request, max_model_len: int) -> EngineError | None:
    """Why a request cannot continue another one; None where it can."""
    name = f"requests[{request.request_id}]"
    if earlier.refusal is not None:
        message = f"it continues {earlier.request_id!r}, which cannot be served."
        return EngineError(earlier.refusal.kind, f"{name}.after", earlier.request_id, message, earlier.refusal.mend)
    most = request.most_prompt_tokens
    if most < max_model_len:
        return None
    return EngineError(
        "prompt-too-long",
        f"{name}.prompt",
        f"{most} tokens",
        f"with all that was said before it, the prompt may leave no room for an answer within {max_model_len:,} tokens "
        "(max_model_len).",
        "Ask for fewer turns, or shorter prompts and answers, or choose a model with a longer context.",
    )


def check_any(requests: Sequence[Request]) -> None:
    """Where none can be served, what is wrong with the first is what is wrong with the run."""
    refusals = [r.refusal for r in requests if r.refusal is not None]
    if refusals and len(refusals) == len(requests):
        raise refusals[0]


def _check_prompt(asked: RequestSpec, ids: Sequence[int], vocab: int, max_model_len: int) -> None:
    wrong = next((i for i in ids if not 0 <= i < vocab), None)
    if wrong is not None:
        raise EngineError(
            "bad-prompt",
            f"requests[{asked.request_id}].prompt_token_ids",
            wrong,
            f"this token id is not in the model's vocabulary of {vocab:,}.",
            f"Use ids from 0 to {vocab - 1}.",
        )
    if len(ids) >= max_model_len:
        raise EngineError(
            "prompt-too-long",
            f"requests[{asked.request_id}].prompt",
            f"{len(ids)} tokens",
            f"the prompt leaves no room for an answer within {max_model_len:,} tokens (max_model_len).",
            f"Shorten it to {max_model_len - 1} tokens or less, or choose a model with a longer context.",
        )
