"""What is asked of the engine: workloads, traces and scenario files. Imports ``engine.config`` only."""

from engine.config import ConfigError
from scenarios.build import build, new_run_id, resolve
from scenarios.load import ScenarioError, ScenarioInfo, available, load
from scenarios.schema import Scenario

__all__ = [
    "ConfigError",
    "Scenario",
    "ScenarioError",
    "ScenarioInfo",
    "available",
    "build",
    "load",
    "new_run_id",
    "resolve",
]
