"""What every request passes before any route sees it, and every answer on its way out."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import secrets
import socket
import time
from collections.abc import Iterable, MutableMapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitrail.serve.config import ServeConfig
from vitrail.serve.errors import ApiError
from vitrail.serve.service import Service
from vitrail.serve.sign_in import COOKIE, SIGN_IN_PATH, sign_in_page

HEALTH_PATHS = ("/livez", "/readyz")
# Nothing from elsewhere is loaded, nothing is sent elsewhere, nobody puts the page into a frame.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self';"
    " base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_LINGER_SECONDS = 2.0  # that a sender who was refused may take to notice
_logger = logging.getLogger("vitrail.serve")


class Guard:
    """ASGI middleware: who may ask, by which name, from which page; error ids; headers; counting.

    Args:
        paths: of the routes, which are counted by name; all others are counted as one.
    """

    def __init__(self, app: ASGIApp, service: Service, paths: Iterable[str]) -> None:
        self._app, self._service = app, service
        self._paths = frozenset(paths)
        self._hosts = Hosts(service.config)
        self._token = Token(service.config.token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        begin, status = time.perf_counter(), 500
        request_id = secrets.token_hex(8)

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers["Request-Id"] = request_id
            await send(message)

        try:
            await self._answer(scope, receive, send_with_headers, request_id)
        finally:
            path = scope["path"]
            self._service.metrics.request(path if path in self._paths else "other", status, time.perf_counter() - begin)

    async def _answer(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        has_begun = False

        async def noted(message: Message) -> None:
            nonlocal has_begun
            has_begun = True
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, noted)
        except ApiError as error:
            await _refuse(error, request_id, scope, receive, noted)
        except Exception:
            _logger.exception("request %s: %s %s failed", request_id, scope["method"], scope["path"][:200])
            if has_begun:
                raise
            said = f"the server failed; its log has the reason under request {request_id}"
            await _refuse(ApiError(500, "failed", said, closes=True), request_id, scope, receive, noted)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        self._hosts.check(headers)
        if scope["path"] not in HEALTH_PATHS and scope["path"] != SIGN_IN_PATH:
            self._token.check(headers)


class Hosts:
    """By which names the server may be called, and from which pages.

    A page that a person has open elsewhere could otherwise ask a server on their own machine: by a name that it makes
    point here (DNS rebinding), or with a request that a browser sends across sites.
    """

    def __init__(self, config: ServeConfig) -> None:
        names = {"localhost", config.host, *config.allowed_hosts}
        if not config.is_loopback:
            names.add(socket.gethostname())
        self._names = {name.lower() for name in names}
        self._is_loopback = config.is_loopback

    def check(self, headers: Headers) -> None:
        """Raises ApiError: 421 a foreign host, 403 a foreign origin."""
        host = headers.get("host", "")
        if not self._is_own(host):
            raise ApiError(
                421,
                "foreign_host",
                f"this server is not called {host[:80]!r}; if it is, start it with --allow-host",
            )
        origin = headers.get("origin")
        site = headers.get("sec-fetch-site", "none")
        if (origin is not None and not self._is_same(origin, host)) or site in ("cross-site", "same-site"):
            raise ApiError(403, "foreign_origin", "a page of another origin may not ask this server")

    def _is_own(self, host: str) -> bool:
        name = _without_port(host)
        if name is None:
            return False
        if name in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        # An address cannot be made to point elsewhere; on loopback only those of this machine are meant.
        return address.is_loopback if self._is_loopback else True

    @staticmethod
    def _is_same(origin: str, host: str) -> bool:
        scheme, separator, rest = origin.partition("://")
        return bool(separator) and scheme in ("http", "https") and rest.lower() == host.lower()


def _without_port(host: str) -> str | None:
    """The name in a Host header, in lower case and without brackets; None where it is none."""
    host = host.lower()
    if host.startswith("["):
        name, bracket, port = host[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
        return name
    name, colon, port = host.partition(":")
    if not name or (colon and not _is_port(":" + port)):
        return None
    return name


def _is_port(text: str) -> bool:
    return text.startswith(":") and (text == ":" or (text[1:].isascii() and text[1:].isdigit()))


class Token:
    """The secret that clients show, in a header or, on the page, in a cookie that is made from it."""

    def __init__(self, token: str | None) -> None:
        self._digest = None if token is None else _digest(token)
        self._cookie = None if token is None else cookie_of(token)

    def check(self, headers: Headers) -> None:
        """Raises ApiError: 401 without the token. Takes as long wherever it differs."""
        if self._digest is None or self._cookie is None:
            return
        scheme, _, shown = headers.get("authorization", "").partition(" ")
        by_header = hmac.compare_digest(_digest(shown.strip()), self._digest)
        by_cookie = hmac.compare_digest(_cookie_in(headers).encode(), self._cookie.encode())
        if not ((by_header and scheme.lower() == "bearer") or by_cookie):
            raise ApiError(
                401,
                "no_token",
                "this server needs its token: send it as Authorization: Bearer TOKEN",
                {"WWW-Authenticate": "Bearer"},
            )


def cookie_of(token: str) -> str:
    """What the page's cookie holds: proof of the token, not the token."""
    return hmac.new(token.encode(), b"vitrail page", hashlib.sha256).hexdigest()


def same_token(shown: str, token: str) -> bool:
    """Whether they are equal, found out in a time that does not depend on where they differ."""
    return hmac.compare_digest(_digest(shown), _digest(token))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def _cookie_in(headers: Headers) -> str:
    for part in headers.get("cookie", "").split(";"):
        name, _, value = part.strip().partition("=")
        if name == COOKIE:
            return value if value.isascii() else ""
    return ""


async def _refuse(
    error: ApiError, request_id: str, scope: MutableMapping[str, Any], receive: Receive, send: Send
) -> None:
    """Send an error. A sender who is still at work hears it first, and is then cut off."""
    headers = {**error.headers, "Content-Type": "application/json"}
    wants_page = error.status == 401 and "text/html" in Headers(scope=scope).get("accept", "")
    if wants_page:
        body, policy = sign_in_page("That is not its token." if error.code == "wrong_token" else "")
        # Without a referrer a browser would send the form as from an unknown origin, which is refused.
        headers |= {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": policy,
            "Referrer-Policy": "same-origin",
        }
    else:
        said = {"code": error.code, "message": error.message, "request_id": request_id}
        body = json.dumps({"error": said}).encode()
    if error.closes:
        headers["Connection"] = "close"
    headers["Content-Length"] = str(len(body))
    raw = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": raw})
    await send({"type": "http.response.body", "body": body, "more_body": error.closes})
    if error.closes:
        await _linger(receive)
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _linger(receive: Receive) -> None:
    """Read on for a moment: closing on unread bytes would reset the connection, and the error would be lost."""
    try:
        async with asyncio.timeout(_LINGER_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return
