"""A door with a key whose engine is killed, and what cannot be opened at all."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from app.door.keeper import Keeper
from app.home import Home
from tests.app.door.door_process import DoorProcess
from tests.app.lab_process import asked_here
from tests.app.small_runs import wait_for

KEY = "a long secret"


def test_a_killed_engine_ends_its_answers_with_an_error_and_the_door_opens_again(tmp_path: Path):
    door = DoorProcess.open(tmp_path, "--name", "mine", SERVESCOPE_API_KEY=KEY)
    with door.client() as client:
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": f"Basic {KEY}"}):
            answer = client.post("/v1/completions", json={"prompt": "x"}, headers=given)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert client.get("/server_info", headers=given).status_code == 401
        assert client.get("/v1/models").json()["data"][0]["id"] == "mine"
        assert client.get("/health").status_code == client.get("/metrics").status_code == 200
        client.headers["Authorization"] = f"Bearer {KEY}"
        body = {"model": "mine", "prompt": "x", "max_tokens": 1800}
        assert client.post("/v1/completions", json=body | {"max_tokens": 2}).status_code == 200
        wait_for(lambda: door.rows("request"))
        with client.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
            lines = response.iter_lines()
            assert json.loads(next(lines).removeprefix("data: "))["choices"]
            os.kill(int(door.status["pid"]), signal.SIGKILL)
            rest = [line for line in lines if line]
        assert "data: [DONE]" not in rest
        told = json.loads(rest[-1].removeprefix("data: "))["error"]
        assert told["code"] == "engine_gone"
    code, said = door.wait()
    assert code == 1
    assert "The engine process was ended by SIGKILL" in said
    assert door.status["state"] == "crashed"
    assert {row["text"] for row in door.rows("request")} == {None}, "text is kept where it is asked for, only"
    assert {row["output_token_ids"] for row in door.rows("request")} == {None}

    again = DoorProcess.open(tmp_path)
    with again.client() as client:
        assert client.post("/v1/completions", json={"prompt": "x", "max_tokens": 2}).status_code == 200
    assert again.close()[0] == 0

    first, second = door.run_id, again.run_id
    refused = asked_here(door.home, "show", first, "--beside", second, "--json")
    assert refused.returncode == 1
    assert "no two sessions are asked the same" in json.loads(refused.stdout)["error"]["message"]
    listed = {run["id"]: run for run in json.loads(asked_here(door.home, "runs", "--json").stdout)["runs"]}
    assert (listed[second]["served"], listed[second]["done"], listed[second]["total"]) == (True, 1, 1)
    of_kind = asked_here(door.home, "runs", "--kind", "served").stdout
    assert first in of_kind
    assert second in of_kind
    assert asked_here(door.home, "show", second).returncode == 0
    for kind in ("html", "servescope"):
        done = asked_here(door.home, "export", second, "-o", str(tmp_path / f"session.{kind}"), "--json")
        assert done.returncode == 0, done.stderr
    done = asked_here(Home(tmp_path / "other").prepare(), "import", str(tmp_path / "session.servescope"), "--json")
    assert json.loads(done.stdout)["runs"] == [second]


@pytest.mark.parametrize(
    ("arguments", "field", "says"),
    [
        (("--host", "0.0.0.0"), "--host", "asks for a key"),
        (("--set", "recording=off"), "recording", "recorded, iteration by iteration"),
        (("--set", "max_num_seqs=0"), "max_num_seqs", "at least 1"),
        (("--set", "nonsense=1"), "nonsense", ""),
    ],
)
def test_what_cannot_be_opened_is_said_with_its_field(
    tmp_path: Path, arguments: tuple[str, ...], field: str, says: str
):
    done = asked_here(Home(tmp_path), "serve", "--json", *arguments)
    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert error["field"] == field
    assert says in error["message"] + error["mend"]
    assert not Home(tmp_path).run_ids()


def test_a_key_is_compared_whole():
    keeper = Keeper(lambda *_: None, ["127.0.0.1"], "söm€")  # type: ignore[arg-type]

    def asked(*headers: tuple[bytes, bytes]) -> int:
        scope = {"headers": [(b"host", b"127.0.0.1"), *headers], "method": "POST", "path": "/v1/completions"}
        refused = keeper.refusal(scope)  # type: ignore[arg-type]
        return 200 if refused is None else refused.status

    right = (b"authorization", "Bearer söm€".encode())
    assert asked(right) == 200
    assert asked(right, right) == 401
    assert asked((b"authorization", b"Bearer ")) == 401
    assert asked((b"authorization", "bearer söm€".encode())) == 200
