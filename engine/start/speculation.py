"""From settings to a speculator, and what cannot work said before the run starts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from engine.attention import AttentionBackend
from engine.attention.packed import make_attention
from engine.config import EngineConfig, Speculation
from engine.config.combinations import refuse_at_start
from engine.config.errors import EngineError
from engine.kv.cache import KVCache
from engine.model.load import LoadedModel, Progress, load, resolve
from engine.scheduling.policies import POLICIES
from engine.speculation.base import Proposer
from engine.speculation.control import FixedLength
from engine.speculation.head import DEFAULT_HEAD, Head, TrainedHead, check_head
from engine.speculation.lengthpool import SameLengthPool
from engine.speculation.lookup import PromptLookup
from engine.speculation.models import DraftModel, LayerSkip
from engine.speculation.smart import SmartLength
from engine.speculation.speculator import Speculator

if TYPE_CHECKING:
    from engine.start.prepared import Prepared

CONTROLS: dict[str, type[FixedLength] | type[SmartLength]] = {"fixed": FixedLength, "smart": SmartLength}
_PROBE = "The quick brown fox, 2 + 2 = 4: naïve façade\n"  # models of one vocabulary cut this text the same way


def make_speculator(prepared: Prepared, cache: KVCache) -> Speculator | None:
    """The drafter the settings ask for; None where speculation is off.

    Raises:
        EngineError: the device has no room for the draft model's part of the KV pool.
    """
    asked = prepared.spec.engine.speculation
    if asked is None:
        return None
    pool = SameLengthPool(asked.pool_group) if asked.verification == "same-length" else None
    return Speculator(make_proposer(prepared, cache), CONTROLS[asked.control](asked.k), prepared.max_model_len, pool)


def make_proposer(prepared: Prepared, cache: KVCache) -> Proposer:
    """What guesses in this run, over ``cache``: weights that are loaded already, and nothing known of any request.

    Raises as ``make_speculator`` does.
    """
    config = prepared.spec.engine
    asked = config.speculation
    assert asked is not None
    if asked.proposer == "prompt-lookup":
        return PromptLookup(asked.ngram_min, asked.ngram_max)
    if asked.proposer == "layer-skip":
        attention = _attention(config, prepared.model, cache)
        return LayerSkip(prepared.model.decoder, attention, asked.target_speedup)
    if asked.proposer == "trained-head":
        assert prepared.head is not None
        return TrainedHead(prepared.head, prepared.model, _attention(config, prepared.model, cache))
    draft = prepared.draft
    assert draft is not None
    attention = _attention(config, draft, _draft_cache(draft, cache))
    return DraftModel(draft.decoder, attention, prepared.limits.token_budget)


def head_path(asked: Speculation) -> Path:
    return Path(asked.head).expanduser() if asked.head else DEFAULT_HEAD


def _attention(config: EngineConfig, model: LoadedModel, cache: KVCache) -> AttentionBackend:
    """Models that guess run step by step on the plain path, also beside the custom kernels: they read the same cache."""
    shape = model.shape
    name = "gathered" if config.attention_backend != "reference" else "reference"
    return make_attention(name, cache, shape.heads, shape.kv_heads, shape.head_dim)


def _draft_cache(draft: LoadedModel, cache: KVCache) -> KVCache:
    shape = draft.shape
    try:
        return KVCache(
            shape.layers, shape.kv_heads, shape.head_dim, cache.num_blocks, cache.block_size, draft.dtype, draft.device
        )
    except EngineError as error:
        raise EngineError(
            "out-of-memory",
            "speculation.draft_model",
            draft.name,
            f"no room for the draft model's part of the KV pool: {error.message}",
            "Set kv_blocks or kv_memory_fraction lower, or choose a smaller draft model.",
        ) from error


def load_draft(config: EngineConfig, model: LoadedModel, progress: Progress) -> LoadedModel | None:
    """The model that guesses, on the target's device; None where the settings name none.

    Raises:
        EngineError: it cannot be loaded, or its vocabulary is not the target's.
    """
    asked = config.speculation
    if asked is None or asked.proposer != "draft-model":
        return None
    assert asked.draft_model is not None
    try:
        draft = load(resolve(asked.draft_model), model.device, model.dtype, seed=config.seed, progress=progress)
    except EngineError as error:
        field = error.field.replace("model", "speculation.draft_model", 1)
        raise EngineError(error.kind, field, error.value, error.message, error.mend) from error
    if draft.shape.vocab != model.shape.vocab or draft.tokenizer.encode(_PROBE) != model.tokenizer.encode(_PROBE):
        raise EngineError(
            "other-vocabulary",
            "speculation.draft_model",
            asked.draft_model,
            f"its vocabulary ({draft.shape.vocab:,} tokens) is not that of {config.model} ({model.shape.vocab:,}), so its "
            "guesses would mean other tokens.",
            "Choose a model of the same family, or another proposer.",
        )
    return draft


def load_head(config: EngineConfig, model: LoadedModel, progress: Progress = lambda phase, share: None) -> Head | None:
    """The trained head's weights; None where the settings ask for none.

    Raises:
        EngineError: it cannot be read, or was trained for other weights than the model's.
    """
    asked = config.speculation
    if asked is None or asked.proposer != "trained-head":
        return None
    progress("loading the draft head", 0.0)
    path, source = head_path(asked), resolve(config.model)
    check_head(path, source, config.model)
    return Head(path, model, source)


def check_speculation(prepared: Prepared) -> None:
    """Refuse settings under which nothing could ever be guessed.

    Raises:
        EngineError: k drafts and a token do not fit the budget, or every prompt is shorter than the shortest match.
    """
    config, budget = prepared.spec.engine, prepared.limits.token_budget
    asked = config.speculation
    if asked is None:
        return
    refuse_at_start(config, budget if POLICIES[config.resolved_policy].budgeted else None)
    longest = max(request.num_prompt_tokens for request in prepared.servable)
    if asked.proposer == "prompt-lookup" and asked.ngram_min > longest:
        raise EngineError(
            "ngram-too-long",
            "speculation.ngram_min",
            asked.ngram_min,
            f"the longest prompt has {longest} tokens, so no match of that length can be found in one.",
            f"Set speculation.ngram_min to {longest} or less.",
        )
