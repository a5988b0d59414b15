"""From settings to a speculator, and what cannot work said before the run starts."""

from __future__ import annotations

from typing import Any

from engine.config import EngineConfig
from engine.config.combined_at_start import refuse_at_start
from engine.kv.cache import KVCache
from engine.model.load import LoadedModel
from engine.phases import Progress, silent
from engine.scheduling.policies import POLICIES
from engine.speculation import CONTROLS, PROPOSERS
from engine.speculation.base import Means
from engine.speculation.length_pool import SameLengthPool
from engine.speculation.speculator import Speculator
from engine.start.prepared import Prepared


def make_speculator(prepared: Prepared, cache: KVCache) -> Speculator | None:
    """The drafter the settings ask for; None where speculation is off.

    Raises:
        EngineError: the device has no room for the draft model's part of the KV pool.
    """
    config = prepared.spec.engine
    asked = config.speculation
    if asked is None:
        return None
    pool = SameLengthPool(asked.pool_group) if asked.verification == "same-length" else None
    means = Means(config, prepared.model, prepared.guesser, cache, prepared.limits.token_budget)
    proposer = PROPOSERS[asked.proposer].of(means)
    return Speculator(proposer, CONTROLS[asked.control](asked.k), prepared.max_model_len, pool)


def load_guesser(config: EngineConfig, model: LoadedModel, progress: Progress = silent) -> Any:
    """The weights that the proposer needs beside the model's; None where it needs none.

    Raises:
        EngineError: they cannot be read, or do not go with the model.
    """
    asked = config.speculation
    return None if asked is None else PROPOSERS[asked.proposer].load(config, model, progress)


def check_speculation(prepared: Prepared) -> None:
    """Refuse settings under which nothing could ever be guessed.

    Raises:
        EngineError: k drafts and a token do not fit the budget, or every prompt is shorter than the shortest match.
    """
    config, budget = prepared.spec.engine, prepared.limits.token_budget
    asked = config.speculation
    if asked is None:
        return
    budgeted = POLICIES[config.resolved_policy].budgeted
    refuse_at_start(asked, shares_attention=config.shares_attention, token_budget=budget if budgeted else None)
    PROPOSERS[asked.proposer].check(asked, prepared.longest_prompt)
