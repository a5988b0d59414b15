"""What the engine is told: the only part of it that other rooms import.

    settings <- techniques <- combinations <- engine \\
             <- sampling   <- requests                <- run     <- earlier (what was stored before)
             <- schema     <- overrides (settings as text)
    errors   plugins   models (by name)   rates (of a machine)   text (of tokens)   allocator (of an engine process)

``EngineConfig`` is a tree of pydantic models. A technique is one field that holds ``None`` (off) or the technique's own
settings; the page builds its controls from the fields' metadata, the snapshot stores them, the command line parses
them. Importing this package must stay cheap: no torch, no numpy, no tokenizers.
"""

from __future__ import annotations

from engine.config.earlier import SPEC_VERSION, codec_of_today, spec_of_today
from engine.config.engine import POLICY_NAMES, EngineConfig, Recording
from engine.config.errors import ConfigError, EngineError
from engine.config.models import EMBEDDED_MODEL, RANDOM_SHAPES
from engine.config.overrides import ON, apply_overrides, check_settings, refuse_contradictions, switches_off
from engine.config.plugins import load_plugins
from engine.config.rates import MachineRates, SizedGroup, Sizing
from engine.config.requests import RequestSpec
from engine.config.run import RunSpec
from engine.config.sampling import Sampling
from engine.config.schema import suggest
from engine.config.settings import LARGEST_COUNT, LATEST_NS, Accepts, Settings, setting, worth_saying
from engine.config.techniques import (
    ChunkedPrefill,
    FarPool,
    KVLayout,
    KVQuantization,
    KVTiers,
    Placement,
    Preemption,
    PrefixSharing,
    Speculation,
    TimeToLive,
)

__all__ = [
    "EMBEDDED_MODEL",
    "LARGEST_COUNT",
    "LATEST_NS",
    "ON",
    "POLICY_NAMES",
    "RANDOM_SHAPES",
    "SPEC_VERSION",
    "Accepts",
    "ChunkedPrefill",
    "ConfigError",
    "EngineConfig",
    "EngineError",
    "FarPool",
    "KVLayout",
    "KVQuantization",
    "KVTiers",
    "MachineRates",
    "Placement",
    "Preemption",
    "PrefixSharing",
    "Recording",
    "RequestSpec",
    "RunSpec",
    "Sampling",
    "Settings",
    "SizedGroup",
    "Sizing",
    "Speculation",
    "TimeToLive",
    "apply_overrides",
    "check_settings",
    "codec_of_today",
    "load_plugins",
    "refuse_contradictions",
    "setting",
    "spec_of_today",
    "suggest",
    "switches_off",
    "worth_saying",
]
