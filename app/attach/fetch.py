"""Reading pages of another server: one GET each, within a limit of bytes and of seconds, following no redirect."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx

from app.attach.families import OURS, Families, engine_of
from app.attach.prometheus import NotMetrics, Page, parse_page
from app.errors import LabError

MOST_BYTES = 8 << 20
LONGEST_S = 5.0
VERSIONS = {
    "vLLM": (("/version", "version"),),
    OURS: (("/version", "version"),),
    "SGLang": (("/server_info", "version"), ("/get_server_info", "version")),
    "llama.cpp": (("/props", "build_info"),),
}
"""Where an engine says its version, and under which key."""


class NoPage(Exception):
    """A page that could not be had; the message says why."""


class Peer:
    """A server whose metrics are read."""

    def __init__(self, url: str, key: str = "", longest_s: float = LONGEST_S) -> None:
        self.url = url
        self.engine, self.version, self.model = "", "", ""
        self.prefix = ""
        self.families: Families = {}
        self._longest_s = longest_s
        self._headers = {"accept-encoding": "identity"} | ({"authorization": f"Bearer {key}"} if key else {})

    def client(self) -> httpx.AsyncClient:
        """A connection for each page: a kept one may be closed by the server as the next page is asked for."""
        alone = httpx.Limits(max_keepalive_connections=0)
        return httpx.AsyncClient(
            headers=self._headers, timeout=self._longest_s, follow_redirects=False, trust_env=False, limits=alone
        )

    async def meet(self, client: httpx.AsyncClient) -> Page:
        """Find out which engine it is; its first page of metrics.

        Raises ``LabError`` where it does not answer, or tells no metrics of an engine that is known.
        """
        try:
            page = await self.page(client)
        except NoPage as error:
            raise self._refused(f"Its metrics cannot be read: {error}.") from error
        known = engine_of(page)
        if known is None:
            raise self._refused(
                "Its metrics are of no engine that is known here (vLLM, SGLang, llama.cpp's server)."
                if page
                else "Its page of metrics is empty: the engine has served nothing yet, or tells none."
            )
        self.engine, self.prefix, self.families = known
        for path, field in VERSIONS[self.engine]:
            self.version = self.version or await self._told(client, path, field)
        self.model = await self._model(client)
        return page

    async def page(self, client: httpx.AsyncClient) -> Page:
        """Its metrics now. Raises ``NoPage``."""
        text = await self._get(client, "/metrics", "text/plain;version=0.0.4")
        if text.lstrip()[:1] in ("[", "{", "<"):
            raise NoPage("/metrics gives no Prometheus text (TensorRT-LLM's gives JSON)")
        try:
            return await asyncio.to_thread(parse_page, text)
        except NotMetrics as error:
            raise NoPage(f"/metrics is no page of metrics: {error}") from error

    async def _told(self, client: httpx.AsyncClient, path: str, field: str) -> str:
        """A text of a JSON answer; "" where there is none."""
        try:
            told: Any = json.loads(await self._get(client, path, "application/json"))
            value = told.get(field)
        except (NoPage, ValueError, AttributeError, RecursionError):
            return ""
        return value[:100] if isinstance(value, str) else ""

    async def _model(self, client: httpx.AsyncClient) -> str:
        try:
            told: Any = json.loads(await self._get(client, "/v1/models", "application/json"))
            name = told["data"][0]["id"]
        except (NoPage, ValueError, KeyError, IndexError, TypeError, RecursionError):
            return ""
        return name[:200] if isinstance(name, str) else ""

    async def _get(self, client: httpx.AsyncClient, path: str, accept: str) -> str:
        got = bytearray()
        try:
            async with (
                asyncio.timeout(self._longest_s),
                client.stream("GET", self.url + path, headers={"accept": accept}) as answer,
            ):
                if answer.is_redirect:
                    to = answer.headers.get("location", "")[:100]
                    raise NoPage(f"{path} leads on to {to!r}, and redirects are not followed")
                if answer.status_code != 200:
                    raise NoPage(f"{path} answers with HTTP {answer.status_code}")
                if answer.headers.get("content-encoding", "identity") != "identity":
                    raise NoPage(f"{path} is packed, though it was asked for unpacked")
                async for part in answer.aiter_raw():
                    got += part
                    if len(got) > MOST_BYTES:
                        raise NoPage(f"{path} has more than {MOST_BYTES >> 20} MiB")
        except TimeoutError as error:
            raise NoPage(f"{path} did not come within {self._longest_s:g} s") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise NoPage(f"{path}: {type(error).__name__} {error}"[:200].strip()) from error
        return got.decode("utf-8", "replace")

    def _refused(self, message: str) -> LabError:
        return LabError(
            "no-engine",
            field="URL",
            value=self.url,
            message=message,
            mend="Start the engine with its metrics on (SGLang: --enable-metrics, llama.cpp: --metrics), "
            "or correct the address.",
        )
