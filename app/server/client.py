"""The command line's side of a running lab's API."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from typing import Any

from app.errors import LabError
from app.locks import LabAddress

TIMEOUT_S = 60.0
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # the lab is on this machine: no proxy


def call(lab: LabAddress, method: str, path: str, body: Any = None, *, timeout_s: float = TIMEOUT_S) -> Any:
    """The JSON answer of ``/api`` + path. Raises ``LabError``: the lab's own error, or that it does not answer."""
    request = urllib.request.Request(
        f"{lab.url}/api{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"authorization": f"Bearer {lab.token}", "content-type": "application/json"},
    )
    try:
        with _opener.open(request, timeout=timeout_s) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        raise _refused(lab, error) from error
    except (OSError, ValueError) as error:
        raise LabError(
            "lab-silent",
            field="lab",
            value=lab.url,
            message=f"The lab at {lab.url} does not answer: {getattr(error, 'reason', error)}.",
            mend="Look at its terminal; if it hangs, end it and start it again.",
        ) from error


def page_address(lab: LabAddress) -> str:
    """A fresh address that lets one browser in. Raises as ``call`` does."""
    return str(call(lab, "POST", "/page-address")["url"])


def _refused(lab: LabAddress, error: urllib.error.HTTPError) -> LabError:
    try:
        about = json.load(error)["error"]
        return LabError(**{key: about.get(key) for key in ("kind", "message", "mend", "field", "value")})
    except (ValueError, KeyError, TypeError):
        return LabError("lab-refused", field="lab", value=lab.url, message=f"The lab answered {error.code}.")
