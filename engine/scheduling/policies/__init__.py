"""Scheduling policies, one small class each: same inputs, same ``Plan`` out. To add one: its file, and its class in
``POLICIES``."""

from __future__ import annotations

from engine.config import POLICY_NAMES
from engine.scheduling.policies.base import Policy
from engine.scheduling.policies.chunk_only import ChunkOnly
from engine.scheduling.policies.orca import Orca
from engine.scheduling.policies.padded import Padded, PaddedSorted
from engine.scheduling.policies.prefill_first import PrefillFirst
from engine.scheduling.policies.splitfuse import SplitFuse
from engine.scheduling.policies.stall_free import StallFree
from engine.scheduling.policies.static import Static

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (StallFree, PrefillFirst, Orca, ChunkOnly, SplitFuse, Static, Padded, PaddedSorted)
}
"""The registry, in the order the settings list them."""

__all__ = ["POLICIES", "Policy", "register"]


def register(policy: type[Policy]) -> None:
    """Add a policy from elsewhere; it can be chosen by its name from then on, in this process.

    Raises:
        ValueError: its name is taken.
    """
    if policy.name in POLICIES:
        raise ValueError(f"there is a policy {policy.name!r} already: {POLICIES[policy.name].__name__}")
    POLICIES[policy.name] = policy
    POLICY_NAMES.append(policy.name)
