"""``servescope serve``: the door, an OpenAI-compatible server in front of one engine."""

from __future__ import annotations

from typing import Annotated

import typer

from app.commands.console import Json, command, emit, say, show_error
from app.commands.run import index_now
from app.locks import running_lab
from app.settings.written import parse_settings
from telemetry.status import state

KEY_VARIABLE = "SERVESCOPE_API_KEY"  # as app.door.open_doors gives it


def register(app: typer.Typer) -> None:
    app.command()(serve)


@command
def serve(
    set: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting, such as model=/path or chunked_prefill=off."),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; beyond this machine it takes a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; the next free one if it is taken. 0: any.", min=0, max=65535)] = 8643,
    allow_host: Annotated[list[str] | None, typer.Option(help="A further host name the door answers to.")] = None,
    api_key: Annotated[
        str, typer.Option(envvar=KEY_VARIABLE, help="Key that clients give; others on this machine see the option.")
    ] = "",
    name: Annotated[str, typer.Option(help="What clients call the model.")] = "",
    run_id: Annotated[str, typer.Option(help="Name of the session's run; by time if left out.")] = "",
    keep_text: Annotated[bool, typer.Option("--keep-text", help="Record the answers' text and tokens.")] = False,
    share_device: Annotated[
        bool, typer.Option("--share-device", help="Open it while another run holds the device; times then say less.")
    ] = False,
    most_waiting: Annotated[
        int, typer.Option(help="Requests that may wait for a place; more get 429.", min=0, max=20_000)
    ] = 256,
    drain: Annotated[float, typer.Option(help="Seconds that open answers have at the end.", min=0, max=3600)] = 30.0,
    json: Json = False,
) -> None:
    """Open the door: serve OpenAI clients, every iteration recorded.

    One engine stays up behind it; the session is a run like any other. SIGTERM or Ctrl-C end it once open answers
    are whole.
    """
    from app.door.serve import Options, open_door
    from app.door.session import served_spec
    from app.home import Home

    home = Home.from_environment().prepare()
    spec = served_spec(parse_settings(set or []), keep_text=keep_text, run_id=run_id, shared=share_device)
    options = Options(host, port, api_key, tuple(allow_host or ()), name, most_waiting, drain)

    def announce(url: str) -> None:
        if json:
            emit({"url": url, "run_id": spec.run_id, "model": name or spec.engine.model})
        else:
            print(f"The door is open at {url}/v1", flush=True)
            say(f"Session {spec.run_id}. Ctrl-C ends it.")

    status = open_door(home, spec, options, announce, say)
    if running_lab(home) is None:
        index_now(home)
    if state(status) != "finished":
        if status.get("error"):
            show_error(status["error"])
        raise typer.Exit(130 if state(status) == "cancelled" else 1)
    say(f"The session is over: servescope show {spec.run_id}")
