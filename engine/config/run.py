"""Everything one run is told: the engine's settings and the requests it will serve."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from engine.config.earlier import SPEC_VERSION, spec_of_today
from engine.config.engine import EngineConfig
from engine.config.rates import Sizing
from engine.config.requests import RequestSpec
from engine.config.settings import LATEST_NS, Settings
from telemetry.limits import MOST_PROMPT_CHARACTERS, MOST_PROMPT_TOKENS, MOST_REQUESTS


class RunSpec(Settings):
    """A run with nothing left to choose: written to ``RUN_DIR/spec.json`` and read by ``engine.worker``."""

    spec_version: Literal[2] = SPEC_VERSION
    run_id: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,63}$")
    scenario: str = Field(max_length=4096)
    title: str = Field("", max_length=4096)
    engine: EngineConfig = EngineConfig()
    served: bool = Field(
        False, description="Clients ask while it runs, through `door.sock` in its folder; `requests` is empty."
    )
    requests: tuple[RequestSpec, ...] = Field((), max_length=MOST_REQUESTS, validate_default=True)
    labels: tuple[str, ...] = Field((), max_length=100)
    licences: dict[str, str] = Field(default_factory=dict, description="Of recorded traces the requests come from.")
    time_limit_s: float | None = Field(None, gt=0, le=LATEST_NS / 1e9)
    sizing: Sizing | None = Field(None, description="How the requests were made to fit the machine. None: not at all.")
    workload: dict[str, Annotated[str, Field(max_length=MOST_PROMPT_CHARACTERS)]] = Field(
        default_factory=dict,
        max_length=1000,
        description="Workload settings that were given beside the scenario's own, by dotted name.",
    )
    experiment_id: str | None = None
    created_unix_ns: int = Field(0, ge=0, le=2**63 - 1)
    asked_unix_ns: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="When the requests were made, the same in every run of them: the date for chat templates that ask. "
        "0: as created.",
    )

    @model_validator(mode="before")
    @classmethod
    def _as_stored(cls, data: Any) -> Any:
        return spec_of_today(data) if isinstance(data, Mapping) else data

    @field_validator("requests")
    @classmethod
    def _bounded(cls, requests: tuple[RequestSpec, ...], info: ValidationInfo) -> tuple[RequestSpec, ...]:
        if bool(requests) == info.data.get("served", False):
            raise ValueError("there must be at least 1 item, and none where the run is served to clients (served)")
        tokens = sum(len(r.prompt_token_ids or ()) or r.prompt_tokens or 1 for r in requests)
        characters = sum(len(r.prompt or "") + len(r.system or "") for r in requests)
        if tokens > MOST_PROMPT_TOKENS:
            raise ValueError(f"the prompts have {tokens:,} tokens together; a run takes {MOST_PROMPT_TOKENS:,} at most")
        if characters > MOST_PROMPT_CHARACTERS:
            raise ValueError(
                f"the prompts have {characters:,} characters together; a run takes {MOST_PROMPT_CHARACTERS:,} at most"
            )
        return requests

    @property
    def asked_at(self) -> datetime:
        """The moment that chat templates take for now."""
        known = self.asked_unix_ns or self.created_unix_ns
        return datetime.fromtimestamp(known / 1e9) if known else datetime.now()

    @property
    def workload_hash(self) -> str:
        """SHA-256 over everything that is asked of the engine, and nothing of how it is served. Of a run at the door,
        where no two are asked the same, it is the run's own."""
        if self.served:
            return hashlib.sha256(f"served {self.run_id}".encode()).hexdigest()
        # Where no request continues another, the hash is what it was before requests could.
        payload = [r.model_dump(mode="json", exclude=None if r.continues else {"continues"}) for r in self.requests]
        default = self.engine.sampling.model_dump(mode="json")
        text = json.dumps([default, self.engine.seed, payload], sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
