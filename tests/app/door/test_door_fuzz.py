"""The door's OpenAPI document, tried by schemathesis: whatever it allows or forbids, an answer comes and is no 5xx."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode

from tests.app.door.door_process import SMALL, DoorProcess
from tests.examples import SOAKING

CASES = 400 if SOAKING else 6  # of each operation, by its document and against it
LONGEST_S = 60.0
ROUTES = (
    "/v1/completions",
    "/v1/chat/completions",
    "/v1/models",
    "/v1/models/{name}",
    "/tokenize",
    "/detokenize",
    "/tokenizer_info",
    "/health",
    "/version",
    "/server_info",
    "/metrics",
    "/reset_prefix_cache",
    "/flush_cache",
)


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DoorProcess]:
    settings = tuple("max_num_seqs=16" if each.startswith("max_num_seqs") else each for each in SMALL)
    opened = DoorProcess.open(tmp_path_factory.mktemp("door"), "--most-waiting", "64", settings=settings)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def operations(door: DoorProcess) -> dict[str, Any]:
    """By path; every one of the document is among them."""
    with door.client() as client:
        document = client.get("/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=door.url)
    return {found.ok().path: found.ok() for found in schema.get_all_operations()}


def test_every_route_of_the_document_is_tried(operations: dict[str, Any]) -> None:
    assert set(operations) == set(ROUTES)


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "forbidden"])
@pytest.mark.parametrize("path", ROUTES)
def test_no_request_is_answered_with_a_server_error_or_not_at_all(
    door: DoorProcess, operations: dict[str, Any], path: str, mode: GenerationMode
) -> None:
    operation = operations[path]
    session = requests.Session()
    session.trust_env = False

    @settings(
        max_examples=CASES,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def tried(case: Any) -> None:
        if isinstance(case.body, dict):
            shorten(case.body)
        answer = case.call(session=session, timeout=LONGEST_S)
        assert answer.status_code < 500, (case.as_curl_command(), answer.text[:500])

    try:
        tried()
    except Exception as error:
        if type(error).__name__ == "Unsatisfiable":
            pytest.skip("nothing of this route can be wrong")
        raise


def shorten(body: dict[str, Any]) -> None:
    """Long answers teach nothing here, and a chat without a limit takes the rest of the context."""
    for name in ("max_tokens", "max_completion_tokens"):
        if type(body.get(name)) is int and body[name] > 4:
            body[name] = 4
    if body.get("max_tokens") is None and body.get("max_completion_tokens") is None:
        body["max_tokens"] = 4


def test_the_door_is_as_it_was(door: DoorProcess) -> None:
    with door.client() as client:
        assert client.get("/health").status_code == 200
        done = client.post("/v1/completions", json={"prompt": "Once", "max_tokens": 3})
        assert done.json()["usage"]["completion_tokens"] == 3
