"""The address under which others reach the lab: a proxy's, or its own outward listener's; usually there is none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from app.errors import LabError
from app.server.guard import header_values, host_name


@dataclass(frozen=True)
class Public:
    """``base``: what stands before the lab's own paths, such as ``/workshop``; "" for nothing."""

    scheme: str = ""
    host: str = ""  # with the port, where one is named
    base: str = ""

    @property
    def url(self) -> str:
        """Without a slash at the end; "" where there is none."""
        return f"{self.scheme}://{self.host}{self.base}" if self.host else ""

    @property
    def origin(self) -> str:
        """What browsers say of pages that came from there; "" where there is none."""
        return f"{self.scheme}://{self.host}" if self.host else ""

    @property
    def is_secure(self) -> bool:
        return self.scheme == "https"

    def is_asked_by(self, headers: Iterable[tuple[bytes, bytes]]) -> bool:
        """Whether a request came to this address rather than to the machine's own."""
        return bool(self.host) and [host_name(self.host)] == [host_name(one) for one in header_values(headers, b"host")]


def public_of(url: str) -> Public:
    """The parts of an address. Raises ``LabError`` for one that is no address of a lab."""
    parts = urlsplit(url.strip())
    try:
        port, host = parts.port, parts.hostname
    except ValueError:
        port, host = None, None
    base = parts.path.rstrip("/")
    plain = base.isascii() and base.isprintable() and not set(base) & set("\"'<>;,\\ ") and "//" not in base
    if (
        parts.scheme not in ("http", "https")
        or not host
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
        or not plain
    ):
        raise LabError(
            "bad-url",
            field="--url",
            value=url[:200],
            message=f"{url[:200]!r} is not an address under which the lab could be reached.",
            mend="Give scheme, name and perhaps a path: --url https://lab.example.org/workshop",
        )
    name = f"[{host}]" if ":" in host else host
    return Public(parts.scheme, f"{name}:{port}" if port else name, base)
