"""What a room of viewers costs the engine: a real lab, a real run, 50 WebSocket clients and 5 browsers, in turns.

``python -m benchmarks.workshop [--viewers N] [--browsers N] [--rounds N] [--window-s S] [--quick] [--json FILE] [--check]``

One run decodes all the while, four short answers at a time, so that its iterations take the same time from first to
last. In turns (A B, B A, ...) nobody looks at it, and everybody does: each WebSocket client holds the two sockets of a
viewer's page, its live view at the 2 Hz that viewers get; each browser has the run's page open as a viewer. Clients and
browsers stand for other people's machines and run here with the lowest priority.

- *engine, everybody watching*: the iterations' median time then over that with nobody, less 1; the median over rounds.
- *lab server*: processor time of the lab's process, which takes the run's rows in too, in percent of one core.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
from playwright.sync_api import Page
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

import scenarios
from app.home import Home
from app.locks import LabAddress
from app.room.files import rooms
from app.server.client import call
from benchmarks.harness import ROOT, Report, arguments, interleave, paired_ratio, summarise
from benchmarks.headless import IS_STILL, PATIENCE_MS, headless
from benchmarks.pages import spent
from benchmarks.startup import begin_run, end_run, lab_process, until, wait_until_served
from engine.config import EMBEDDED_MODEL

MOST_PERCENT = 2.0
SETTLE_S = 2.0
LOWEST = 19  # niceness
WORKLOAD = {
    "device": "cpu",
    "threads": "1",
    "kv_blocks": "2200",
    "max_num_seqs": "4",
    "prefix_sharing": "off",
    "workload.readers.requests": "1200",
    "workload.readers.arrivals.kind": "closed-loop",
    "workload.readers.arrivals.clients": "4",
    "workload.readers.arrivals.think_s": "0",
    "workload.readers.prompt_tokens": "64",
    "workload.readers.output_tokens": "200",
    "workload.readers.ignore_eos": "true",
}


def main(words: Sequence[str] | None = None) -> int:
    parser = arguments(__doc__)
    parser.add_argument("--viewers", type=int, default=50, help="WebSocket clients")
    parser.add_argument("--browsers", type=int, default=5, help="browsers' pages")
    parser.add_argument("--rounds", type=int, default=14, help="times that both are measured")
    parser.add_argument("--window-s", type=float, default=6.0, help="seconds of each measurement")
    parser.add_argument("--model", default=EMBEDDED_MODEL, help="what the run is served with")
    parser.add_argument("--quick", action="store_true", help="three rounds of 3 s")
    parser.add_argument(
        "--clients-of", metavar="PORT:RUN", help="be the WebSocket clients (this program starts itself)"
    )
    options = parser.parse_args(words)
    if options.clients_of:
        return asyncio.run(be_clients(options.clients_of, options.viewers))
    rounds, window_s = (3, 3.0) if options.quick else (options.rounds, options.window_s)
    report = Report("workshop")
    report.note_load()
    with (
        headless() as browser,
        tempfile.TemporaryDirectory(prefix="servescope-bench-") as folder,
        lab_process(Home(Path(folder)), "--no-starter", "--workshop") as lab,
    ):
        home = Home(Path(folder))
        server = server_of(home)
        run_id = decoding(home, lab, options.model)
        token = rooms(home)[0].viewers_token
        pages = [browser.new_page() for _ in range(options.browsers)]
        for page in pages:
            page.goto(f"{lab.url}/?token={token}")
        nobody(pages)
        give_way(browser_processes())
        crowd = Clients(lab, token, run_id, options.viewers)
        percents: dict[str, list[float]] = {"alone": [], "watched": []}

        def timed(who: str) -> float:
            began, before = time.monotonic(), spent([server])
            took = iteration_ms(lab, run_id, window_s)
            percents[who].append(100 * (spent([server]) - before) / (time.monotonic() - began))
            return took

        def alone() -> float:
            return timed("alone")

        def watched() -> float:
            for page in pages:
                page.goto(f"{lab.url}/?run={run_id}", wait_until="commit")
            for page in pages:
                page.wait_for_function(IS_STILL, timeout=PATIENCE_MS)
            give_way(browser_processes())
            with crowd.connected():
                time.sleep(SETTLE_S)
                took = timed("watched")
            nobody(pages)
            time.sleep(SETTLE_S)
            return took

        measured = interleave({"alone": alone, "watched": watched}, rounds)
        crowd.end()
        end_run(home, lab, run_id)
    ratio = paired_ratio(measured["watched"], measured["alone"])
    cost, spread = 100 * (ratio.median - 1), (100 * (ratio.low - 1), 100 * (ratio.high - 1))
    report.figure("engine, everybody watching", cost, "% slower", goal=MOST_PERCENT, better="lower", spread=spread)
    for who, name in (("alone", "lab server, nobody watching"), ("watched", "lab server, everybody watching")):
        core = summarise(percents[who])
        report.figure(name, core.median, "% of a core", better="lower", spread=core.spread)
    report.details["iteration_ms"] = measured
    report.details["viewers"] = {"clients": options.viewers, "browsers": options.browsers, "window_s": window_s}
    return report.finish(options)


def decoding(home: Home, lab: LabAddress, model: str) -> str:
    """A run that decodes for minutes; returns once it does."""
    spec = scenarios.build("memory-bound", WORKLOAD | {"model": model})
    begin_run(home, lab, spec)
    wait_until_served(home, spec.run_id)
    until(lambda: newest(lab, spec.run_id) > 50, "the run to decode")
    return spec.run_id


def newest(lab: LabAddress, run_id: str) -> int:
    query = f"SELECT coalesce(max(iteration), 0) FROM iterations WHERE run_id = '{run_id}'"
    return int(call(lab, "POST", "/sql", {"query": query})["rows"][0][0])


def iteration_ms(lab: LabAddress, run_id: str, window_s: float) -> float:
    """The median time of the iterations of the next ``window_s``."""
    first = newest(lab, run_id)
    time.sleep(window_s)
    last = newest(lab, run_id)
    query = (
        f"SELECT median(end_ns - start_ns) / 1e6 FROM iterations WHERE run_id = '{run_id}' "
        f"AND iteration > {first} AND iteration <= {last}"
    )
    value = call(lab, "POST", "/sql", {"query": query})["rows"][0][0]
    if value is None:
        raise RuntimeError("The run ended before everything was measured: ask for fewer rounds.")
    return float(value)


def nobody(pages: Sequence[Page]) -> None:
    for page in pages:
        page.goto("about:blank")


def server_of(home: Home) -> psutil.Process:
    return psutil.Process(json.loads(home.lab_file.read_text(encoding="utf-8"))["pid"])


def browser_processes() -> list[psutil.Process]:
    """The browser's processes: children of this one that are no Python."""
    with contextlib.suppress(psutil.Error):
        return [one for one in psutil.Process().children(recursive=True) if "chrom" in one.name().lower()]
    return []


def give_way(processes: Sequence[psutil.Process]) -> None:
    """Let them have the processor only where nobody else wants it."""
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.nice(LOWEST)


class Clients:
    """The WebSocket clients in a process of their own: they come and go as they are told."""

    def __init__(self, lab: LabAddress, token: str, run_id: str, viewers: int) -> None:
        self._viewers = viewers
        options = [f"--clients-of={lab.port}:{run_id}", f"--viewers={viewers}"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.workshop", *options],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._tell(f"{token} {lab.token}", "joined")

    @contextlib.contextmanager
    def connected(self) -> Iterator[None]:
        """They look on for the length of a block. Raises ``RuntimeError`` where not everybody was told of the run."""
        self._tell("in", "connected")
        yield
        heard = self._tell("out")
        if not heard.isdecimal() or int(heard) < self._viewers:
            raise RuntimeError(f"The clients heard {heard or 'nothing'}: not everybody was told of the run.")

    def end(self) -> None:
        self._process.communicate(timeout=60)

    def _tell(self, line: str, wanted: str | None = None) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        said = self._process.stdout.readline().strip()
        if wanted not in (None, said):
            self._process.kill()
            raise RuntimeError(f"The clients said {said or 'nothing'} instead of {wanted}.")
        return said


async def be_clients(place: str, viewers: int) -> int:
    """Join as so many viewers; at ``in`` open their sockets, at ``out`` close them and print how many frames came."""
    os.nice(LOWEST)
    port, _, run_id = place.partition(":")
    token, socket_token = (await asyncio.to_thread(sys.stdin.readline)).split()
    cookies = [await asyncio.to_thread(joined, int(port), token) for _ in range(viewers)]
    print("joined", flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        async with contextlib.AsyncExitStack() as stack:
            sockets = [
                await opened(stack, f"ws://127.0.0.1:{port}/{path}", cookie, first)
                for n, cookie in enumerate(cookies)
                for path, first in (
                    ("live", {"token": socket_token, "run": run_id, "every_ms": 500}),
                    ("room-channel", {"tab": f"viewer{n:06d}"}),
                )
            ]
            listeners = [asyncio.create_task(count(socket)) for socket in sockets]
            print("connected", flush=True)
            await asyncio.to_thread(sys.stdin.readline)
        heard = sum(await asyncio.gather(*listeners))
        print(heard, flush=True)
    return 0


async def opened(stack: contextlib.AsyncExitStack, address: str, cookie: str, first: object) -> ClientConnection:
    socket = await stack.enter_async_context(connect(address, additional_headers={"Cookie": cookie}))
    await socket.send(json.dumps(first))
    return socket


async def count(socket: ClientConnection) -> int:
    """How many frames come until the socket closes."""
    heard = 0
    with contextlib.suppress(ConnectionClosed):
        async for _ in socket:
            heard += 1
    return heard


def joined(port: int, token: str) -> str:
    """The cookie of somebody who opens the viewers' link; asks again while too many do."""
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        connection.request("GET", f"/?token={token}", headers={"Accept": "text/html"})
        answer = connection.getresponse()
        connection.close()
        if answer.status == 303:
            return str(answer.headers["Set-Cookie"]).partition(";")[0]
        time.sleep(1.0)


if __name__ == "__main__":
    sys.exit(main())
