"""Requests that nobody would send: whatever comes, the server neither fails nor stands still.

VITRAIL_FUZZED sets how many; the suite sends 1,500.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import Server, form_of, start

COUNT = int(os.environ.get("VITRAIL_FUZZED", "1500"))
LATE = "no answer within a minute"
CONTINUE = re.compile(rb"^HTTP/1\.1 100 .*?\r\n\r\n", re.DOTALL)

METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT", "get", "PO ST", "\x00", "A" * 300)
PATHS = (
    "/v1/predict", "/v1/embed", "/v1/model", "/livez", "/readyz", "/metrics", "/openapi.json", "/", "/page/app.js",
    "/sign-in", "*", "http://evil.example/livez", "//", "/%00", "/%", "/\xff", "/" + "a" * 9000, "",
    "/../../etc/passwd",
)  # fmt: skip
QUERIES = (
    "", "?", "?top_k=2", "?top_k=-1", "?top_k=1e9", "?top_k=99999999999999999999", "?top_k=\u0663", "?attention=true",
    "?attention=true", "?attention=1", "?nearest=5", "?top_k=1&top_k=2", "?" + "a=b&" * 500, "?%ff=%fe", "?top_k[]=1",
    "?;", "?=",
)  # fmt: skip
HEADERS = (
    "Host: localhost", "Host: evil.example", "Host:", "Content-Type: image/png", "Content-Type: \xff/\xfe",
    "Content-Type: multipart/form-data; boundary=x", "Content-Length: 5", "Content-Length: -1", "Accept: text/html",
    "Content-Length: 99999999999999999999", "Content-Length: 5, 5", "Transfer-Encoding: chunked", " folded",
    "Transfer-Encoding: gzip, chunked", "Expect: 100-continue", "Connection: close", "Connection: upgrade",
    "Upgrade: websocket", "Upgrade: h2c", "Range: bytes=0-", "Range: bytes=9999999-,0-0,-1", "If-None-Match: *",
    "Cookie: vitrail=\xe9; a", "Authorization: Bearer \x80", "Origin: null", "X: " + "y" * 20_000, ": no name",
    "Content-Encoding: gzip", "No colon", "Sec-WebSocket-Key: dGVzdA==", "HTTP2-Settings: A",
)  # fmt: skip


def fuzzed(draw: random.Random, bodies: list[bytes]) -> bytes:
    """One request, of likely and unlikely parts, at times cut off or with bytes changed.

    Most of it is as it should be: a request that fails at its first line tells nothing of what lies behind.
    """
    method, path = "POST", draw.choice(PATHS[:2])
    if draw.random() < 0.3:
        method, path = draw.choice(METHODS), draw.choice(PATHS)
    query = "" if draw.random() < 0.7 else draw.choice(QUERIES)
    version = "HTTP/1.1" if draw.random() < 0.95 else draw.choice(("HTTP/1.0", "HTTP/2.0", "HTTP/9", ""))
    body = bytearray(draw.choice(bodies))
    if body and draw.random() < 0.3:
        damage(draw, body)
    lines = [f"{method} {path}{query} {version}"]
    if draw.random() < 0.95:
        kinds = ("image/png", "application/octet-stream", *["multipart/form-data; boundary=----vitrail"] * 2)
        lines += ["Host: localhost", f"Content-Length: {len(body)}", f"Content-Type: {draw.choice(kinds)}"]
    for header in draw.sample(HEADERS, draw.choice((0, 0, 0, 0, 1, 2))):
        name = header.partition(":")[0]
        if draw.random() < 0.7:  # in place of the right one, not beside it
            lines = [line for line in lines if not line.startswith(f"{name}:")]
        lines.append(header)
    request = bytearray("\r\n".join([*lines, "", ""]).encode("utf-8") + body)
    if draw.random() < 0.1:
        damage(draw, request)
    if draw.random() < 0.05:
        del request[draw.randrange(len(request)) :]
    return bytes(request)


def damage(draw: random.Random, data: bytearray) -> None:
    for _ in range(draw.randint(1, 8)):
        data[draw.randrange(len(data))] = draw.randrange(256)


def answer_to(server: Server, request: bytes) -> str:
    """The status; "closed" where the server says nothing and closes, which it may.

    The connection stays open for sending: a server drops what it is asked by a client that has hung up.
    """
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        head = b""
        try:
            while part := connection.recv(65536):
                head = CONTINUE.sub(b"", head + part)
                if b"\r\n" in head:
                    break
        except ConnectionError:
            pass
        except TimeoutError:
            return LATE
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    return found[1].decode() if found else "closed"


@pytest.fixture
def watched(bundle: str, tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """A server that waits for half a second for what does not come, and its log."""
    log = tmp_path / "log"
    server = start(bundle, log=log, receive_seconds=0.5)
    try:
        server.wait_until_ready()
        yield server, log
    finally:
        server.kill()


def test_whatever_is_sent_nothing_fails_and_nothing_hangs(watched: tuple[Server, Path], pictures: list[Path]) -> None:
    server, log = watched
    files = [(file.name, file.read_bytes()) for file in pictures]
    form = form_of(files)[0]
    bodies = [b"", b"x", *(data for _, data in files), files[0][1][:99], form, form, form[:-9], bytes(5000)]
    expected = server.post("/v1/predict", files[0][1]).json()

    def send(number: int) -> str:
        return answer_to(server, fuzzed(random.Random(number), bodies))

    with ThreadPoolExecutor(16) as pool:
        sent = [pool.submit(send, number) for number in range(COUNT)]
        while not all(one.done() for one in sent):
            assert server.get("/livez").status == 200
            time.sleep(0.02)
    seen = Counter(one.result() for one in sent)
    print(f"of {COUNT:,} requests: {dict(sorted(seen.items()))}")
    assert seen.total() == COUNT
    assert not [status for status in seen if status.startswith("5") or status == LATE], seen
    # It went all the way to the model and was refused at every door before it; else nothing was tested.
    assert {"200", "400", "403", "404", "405", "408", "413", "415", "421", "422"} <= set(seen), seen
    counts = server.get("/metrics").body.decode()
    answered = re.findall(r'requests_total\{route="/v1/(\w+)",status="200"\} (\d+)', counts)
    assert {route for route, times in answered if int(times) > 1} >= {"predict", "embed"}, answered
    assert server.post("/v1/predict", files[0][1]).json() == expected
    assert log.read_text() == ""  # what anyone can send fills no log
