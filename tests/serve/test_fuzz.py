"""Requests that nobody would send: whatever comes, the server neither fails nor stands still.

VITRAIL_FUZZED sets how many; the suite sends some hundred.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket
import threading
from collections import Counter
from pathlib import Path

from .conftest import Server, form_of

COUNT = int(os.environ.get("VITRAIL_FUZZED", "400"))
LATE = "no answer within a minute"

METHODS = ("GET", "POST", "PUT", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT", "get", "PO ST", "\x00", "A" * 300)
PATHS = (
    *("/v1/predict", "/v1/embed", "/v1/model", "/livez", "/readyz", "/metrics", "/openapi.json", "/", "/page/app.js"),
    *(
        "/sign-in",
        "*",
        "http://evil.example/livez",
        "//",
        "/%00",
        "/%",
        "/\xff",
        "/" + "a" * 9000,
        "",
        "/../../etc/passwd",
    ),
)
QUERIES = (
    *(
        "",
        "?",
        "?top_k=2",
        "?top_k=-1",
        "?top_k=1e9",
        "?top_k=99999999999999999999",
        "?top_k=\u0663",
        "?attention=true",
    ),
    *(
        "?attention=true",
        "?attention=1",
        "?nearest=5",
        "?top_k=1&top_k=2",
        "?" + "a=b&" * 500,
        "?%ff=%fe",
        "?top_k[]=1",
        "?;",
        "?=",
    ),
)
HEADERS = (
    *("Host: localhost", "Host: evil.example", "Host:", "Content-Type: image/png", "Content-Type: \xff/\xfe"),
    *("Content-Type: multipart/form-data; boundary=x", "Content-Length: 5", "Content-Length: -1", "Accept: text/html"),
    *("Content-Length: 99999999999999999999", "Content-Length: 5, 5", "Transfer-Encoding: chunked", " folded"),
    *("Transfer-Encoding: gzip, chunked", "Expect: 100-continue", "Connection: close", "Connection: upgrade"),
    *("Upgrade: websocket", "Upgrade: h2c", "Range: bytes=0-", "Range: bytes=9999999-,0-0,-1", "If-None-Match: *"),
    *("Cookie: vitrail=\xe9; a", "Authorization: Bearer \x80", "Origin: null", "X: " + "y" * 20_000, ": no name"),
    *("Content-Encoding: gzip", "No colon", "Sec-WebSocket-Key: dGVzdA==", "HTTP2-Settings: A"),
)


def fuzzed(draw: random.Random, bodies: list[bytes]) -> bytes:
    """One request, of likely and unlikely parts, at times cut off or with bytes changed."""
    method = draw.choice(METHODS[:2]) if draw.random() < 0.7 else draw.choice(METHODS)
    path = draw.choice(PATHS[:2]) if draw.random() < 0.5 else draw.choice(PATHS)
    version = draw.choice(("HTTP/1.1", "HTTP/1.1", "HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/9", ""))
    body = draw.choice(bodies)
    lines = [f"{method} {path}{draw.choice(QUERIES)} {version}"]
    if draw.random() < 0.8:
        kinds = ("image/png", "application/octet-stream", "multipart/form-data; boundary=----vitrail")
        lines += ["Host: localhost", f"Content-Length: {len(body)}", f"Content-Type: {draw.choice(kinds)}"]
    lines += draw.sample(HEADERS, draw.choice((0, 0, 1, 2, 4)))
    request = bytearray("\r\n".join([*lines, "", ""]).encode("utf-8") + body)
    if draw.random() < 0.2:
        for _ in range(draw.randint(1, 8)):
            request[draw.randrange(len(request))] = draw.randrange(256)
    if draw.random() < 0.1:
        del request[draw.randrange(len(request)) :]
    return bytes(request)


def answer_to(server: Server, request: bytes) -> str:
    """The status; "closed" where the server says nothing and closes, which it may."""
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(request)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
        try:
            head = connection.recv(65536)
        except ConnectionError:
            return "closed"
        except TimeoutError:
            return LATE
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    return found[1].decode() if found else "closed"


def test_whatever_is_sent_nothing_fails_and_nothing_hangs(server: Server, pictures: list[Path]) -> None:
    files = [(file.name, file.read_bytes()) for file in pictures]
    bodies = [
        b"",
        b"x",
        *(data for _, data in files),
        files[0][1][:99],
        form_of(files)[0],
        form_of(files)[0][:-9],
        bytes(5000),
    ]
    seen: Counter[str] = Counter()
    lock = threading.Lock()

    def send(part: int) -> None:
        for number in range(part, COUNT, 8):
            said = answer_to(server, fuzzed(random.Random(number), bodies))
            with lock:
                seen[said] += 1

    threads = [threading.Thread(target=send, args=(part,)) for part in range(8)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert server.get("/livez").status == 200
    assert seen.total() == COUNT
    assert not [status for status in seen if status.startswith("5") or status == LATE], seen
    assert seen["200"], seen
    assert server.post("/v1/predict", files[0][1]).status == 200
    print(f"of {COUNT:,} requests: {dict(sorted(seen.items()))}")
