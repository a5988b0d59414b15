"""What was asked of a run and answered as text by token: prompts tokenised as the engine tokenised them.

Only a model's tokenizer is read, never its weights, and nothing is fetched: for a model that is no longer here there is
no text.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from app.errors import LabError
from app.home import Home
from app.panels.panel import FinishedRun
from app.runs.folder import read_spec
from engine.config import EngineError, RunSpec
from engine.config.text import tokenizer_of
from store.query import Query

TextOf = Callable[[int, int, int], str]
"""``(request, first, last)``: the text of a request's tokens from ``first`` up to, not with, ``last``; "" where it is
not known.
"""


def texts_of_run(run: FinishedRun, requests: Collection[int] | None = None) -> TextOf:
    """What the tokens of a run's requests say, answers included. ``requests``: who will be asked for; None: any."""
    answers = Query(
        """
SELECT request, output_token_ids FROM requests WHERE run_id = $run AND output_token_ids IS NOT NULL
  AND ($requests::INTEGER[] IS NULL OR list_contains($requests::INTEGER[], request))""".strip(),
        {"run": run.facts.run_id, "requests": None if requests is None else sorted(requests)},
    ).rows(run.con)
    try:
        spec = _spec(run.lab.home, run.facts.run_id)
    except LabError:
        return lambda *_: ""
    vocab = int((run.row.get("model") or {}).get("vocab") or 0)
    return texts_of(spec, vocab, {row["request"]: row["output_token_ids"] for row in answers})


@lru_cache(maxsize=4)
def _spec(home: Home, run_id: str) -> RunSpec:
    """With every request; a run's spec never changes."""
    return read_spec(home.existing_run_dir(run_id))


def texts_of(spec: RunSpec, vocab: int, outputs: Mapping[int, Sequence[int]]) -> TextOf:
    """Text by place in a request. ``outputs``: token ids of answers, of the requests that kept them."""
    tokenizer = tokenizer_of(spec.engine.model, vocab)
    known: dict[int, list[int]] = {}

    def ids(request: int) -> list[int]:
        if request not in known:
            asked = spec.requests[request]
            if asked.prompt_token_ids is not None:
                prompt: Sequence[int] = asked.prompt_token_ids
            else:
                about: dict[str, Any] = {"chat": asked.chat, "system": asked.system, "length": asked.prompt_tokens}
                about["now"] = spec.asked_at
                prompt = tokenizer.prompt(asked.prompt or "", **about) if tokenizer is not None else ()
            known[request] = [*prompt, *outputs.get(request, ())]
        return known[request]

    def text(request: int, first: int, last: int) -> str:
        if tokenizer is None or not 0 <= request < len(spec.requests):
            return ""
        try:
            return tokenizer.decode(ids(request)[first:last])
        except (EngineError, ValueError, OverflowError):
            return ""

    return text
