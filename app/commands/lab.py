"""``servescope lab``: prepare the model, open the lab."""

from __future__ import annotations

import signal
from typing import Annotated

import typer

from app.commands.console import command, say, stderr

Workshop = Annotated[
    bool, typer.Option("--workshop", help="Open a room: a presenter's link and a viewers' link (docs/workshop.md).")
]
Url = Annotated[str, typer.Option(help="The address others reach it by, for links: behind a proxy or tunnel.")]
Listen = Annotated[
    str, typer.Option(help="Listen beyond this machine too, ADDRESS:PORT. Takes --allow-host, and TLS or a proxy.")
]
Certificate = Annotated[str, typer.Option(help="PEM file of the certificate for --listen.")]
Key = Annotated[str, typer.Option(help="PEM file of its key.")]
BehindProxy = Annotated[
    bool, typer.Option("--behind-proxy", help="A proxy on another machine speaks TLS before --listen.")
]


def register(app: typer.Typer) -> None:
    app.command()(lab)


@command
def lab(
    port: Annotated[
        int, typer.Option(help="Port on 127.0.0.1; the next free one if it is taken.", min=0, max=65535)
    ] = 8642,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further host name the lab answers to, behind a tunnel or proxy.")
    ] = None,
    starter: Annotated[bool, typer.Option(help="With an empty store, start the starter scenario.")] = True,
    token: Annotated[
        bool, typer.Option(help="Ask browsers for the token in the printed address. Without: anybody on this machine.")
    ] = True,
    open_browser: Annotated[bool, typer.Option("--open", help="Open the page in this machine's browser.")] = False,
    workshop: Workshop = False,
    url: Url = "",
    listen: Listen = "",
    tls_cert: Certificate = "",
    tls_key: Key = "",
    behind_proxy: BehindProxy = False,
) -> None:
    """Open the lab in a browser.

    The page, the run queue and the database, on this machine only. Run again while a lab is up, it prints a fresh
    address of that lab.
    """
    from app.embedded_model import prepare_embedded_model
    from app.home import Home
    from app.runs.machine_rates import size_starter
    from app.server.outward import outward_of
    from app.server.serve import serve

    outward = outward_of(
        listen=listen,
        url=url,
        hosts=allow_host or (),
        certificate=tls_cert,
        key=tls_key,
        behind_proxy=behind_proxy,
        token=token,
        workshop=workshop,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # both ways to end it are the same clean way
    try:
        home = Home.from_environment().prepare()
        prepare_embedded_model(stderr())
        if starter:
            size_starter(home, say)
        serve(
            home,
            port=port,
            extra_hosts=allow_host or (),
            starter=starter,
            open_browser=open_browser,
            open_to_all=not token,
            workshop=workshop,
            outward=outward,
            say=say,
        )
    except KeyboardInterrupt:
        say("The lab is closed.")
