"""What is asked of the engine: workloads, traces and scenario files. Imports ``engine.config`` only."""

from scenarios.build import build, new_run_id, resolve
from scenarios.load import ScenarioError, ScenarioInfo, available, load
from scenarios.schema import Scenario

__all__ = ["Scenario", "ScenarioError", "ScenarioInfo", "available", "build", "load", "new_run_id", "resolve"]
