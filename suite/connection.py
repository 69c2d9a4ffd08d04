"""One request for a file, or for the rest of one: https, or http on this machine alone.

Redirects are held to the same rule. What may go better in a moment and what never will are told
apart, because only the first is worth another try.
"""

from __future__ import annotations

import http.client
import re
import urllib.request
from dataclasses import dataclass
from typing import IO, Final, Literal
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

from suite.errors import UsageError

Retry = Literal["never", "once begun", "always", "afresh"]
_TIMEOUT_S: Final = 60.0
_CHUNK_BYTES: Final = 1 << 20
# 408 and 429 ask for patience, 416 has no bytes from there on; from 500 it is the server's trouble.
_RETRIES: Final[dict[int, Retry]] = {408: "always", 416: "afresh", 429: "always"}


class Failed(Exception):
    """A transfer that did not happen; `retry` says when another try makes sense.

    ``once begun``: a server that nobody has reached is not waited for, one that has gone is.
    ``afresh``: without the bytes that are there.
    """

    def __init__(self, reason: str, *, retry: Retry) -> None:
        super().__init__(reason)
        self.retry = retry


@dataclass(frozen=True)
class Answer:
    """What a server sends.

    Attributes:
        start: the first byte of it, counted in the file; 0 for the whole.
        total: bytes of the file.
        validator: by what the server recognises this version; empty where it has nothing for that.
    """

    start: int
    total: int
    validator: str
    _response: http.client.HTTPResponse

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def read(self) -> bytes:
        """Return some bytes, none at the end.

        Raises:
            Failed: the connection broke.
        """
        try:
            return self._response.read1(_CHUNK_BYTES)
        except (OSError, http.client.HTTPException) as error:
            raise Failed(f"the connection broke: {error}", retry="always") from error


def require_fetchable(url: str) -> None:
    """Raise UsageError for a URL that is neither https nor http on this machine."""
    try:
        allowed = _is_https(url) or _is_local_http(url)
    except ValueError as error:
        raise UsageError(f"URL '{url}': {error}") from error
    if not allowed:
        raise UsageError(f"URL '{url}': only https is fetched")


def request(url: str, *, start: int = 0, validator: str = "") -> Answer:
    """Ask for a file, or for the bytes from `start` if it is still the version of `validator`.

    Raises:
        Failed: no answer, or none with a file of known length.
    """
    headers = {"User-Agent": "npu-detection-suite"}
    if start:
        headers |= {"Range": f"bytes={start}-", "If-Range": validator}
    response = _open(urllib.request.Request(url, headers=headers), url)  # noqa: S310 - callers asked `require_fetchable`
    try:
        return _read_head(response, start=start)
    except Failed:
        response.close()
        raise


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to https, and from this machine to itself."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        if not _is_https(newurl) and not (_is_local_http(req.full_url) and _is_local_http(newurl)):
            fp.close()
            raise Failed(f"redirected to {newurl}, and only https is followed", retry="never")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open(asked: urllib.request.Request, url: str) -> http.client.HTTPResponse:
    # What is for this machine must not go through a proxy.
    handlers = [urllib.request.ProxyHandler({})] if _is_local_http(url) else []
    opener = urllib.request.build_opener(_Redirects, *handlers)
    try:
        response: http.client.HTTPResponse = opener.open(asked, timeout=_TIMEOUT_S)
    except HTTPError as error:
        error.close()
        retry = _RETRIES.get(error.code, "always" if error.code >= 500 else "never")
        raise Failed(f"HTTP {error.code} {error.reason}", retry=retry) from error
    except URLError as error:
        raise Failed(str(error.reason), retry="once begun") from error
    except (http.client.InvalidURL, ValueError) as error:
        raise Failed(str(error), retry="never") from error
    except (OSError, http.client.HTTPException) as error:
        raise Failed(f"no answer: {error}", retry="always") from error
    return response


def _read_head(response: http.client.HTTPResponse, *, start: int) -> Answer:
    if response.length is None:
        raise Failed("the server does not say how long the file is", retry="never")
    validator = _read_validator(response)
    if response.status == 200:
        return Answer(0, response.length, validator, response)
    sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", response.headers.get("Content-Range") or "")
    if response.status != 206 or sent is None or int(sent[1]) != start:
        raise Failed(f"HTTP {response.status} with other bytes than asked for", retry="afresh")
    return Answer(start, int(sent[2]), validator, response)


def _read_validator(response: http.client.HTTPResponse) -> str:
    tag = response.headers.get("ETag") or ""
    # A weak tag holds for files that are only alike, of which parts must not be joined.
    return tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified") or ""


def _is_https(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "https" and bool(parts.hostname)


def _is_local_http(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme == "http" and parts.hostname in ("localhost", "127.0.0.1", "::1")
