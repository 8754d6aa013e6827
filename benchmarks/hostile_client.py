"""One hostile client of a server, for some seconds: `python -m benchmarks.hostile_client HOST PORT ATTACK SECONDS`."""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import sys
import time
from collections.abc import Callable, Iterator

from PIL import Image

SIZE = 19_900_000  # bytes of a body: just under what a server takes
CONNECTIONS = 50  # of a slow sender
PART = b'--bb\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\n'
END = b"\r\n--bb--\r\n"


def head(*headers: str, path: str = "/v1/predict") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/1.1", "Host: localhost", "Connection: close", *headers, "", ""]).encode()


def question(*, closes: bool) -> bytes:
    return b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (b"Connection: close\r\n" if closes else b"")


def form(content: bytes, path: str = "/v1/predict") -> bytes:
    """A request with a form of one file (or of several, with the boundaries between them)."""
    body = PART + content + END
    headers = ("Content-Type: multipart/form-data; boundary=bb", f"Content-Length: {len(body)}")
    return head(*headers, path=path) + body


def full_of(filling: bytes) -> bytes:
    """A form as large as may be."""
    return form(filling * ((SIZE - len(PART) - len(END)) // len(filling)))


def bomb() -> bytes:
    """As many pixels as may be in 75 kB."""
    file = io.BytesIO()
    Image.new("RGB", (5000, 5000)).save(file, "PNG", compress_level=9)
    return head("Content-Type: image/png", f"Content-Length: {len(file.getvalue())}") + file.getvalue()


def small_pictures(path: str) -> bytes:
    """Pictures that are quick to send and long to answer."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "PNG")
    return form((b"\r\n" + PART).join([file.getvalue()] * 64), path)


REQUESTS: dict[str, Callable[[], bytes]] = {
    "forms of 20 MB": lambda: full_of(bytes(1000)),
    "forms of boundaries": lambda: full_of(b"\r\n--bb"),
    "forms of line ends": lambda: full_of(b"\r\n"),
    "forms of what is nearly a boundary": lambda: full_of(b"\r\n--b"),
    "forms of headers": lambda: full_of(b"\r\n--bb\r\n" + b"a: b\r\n" * 15 + b"\r\n"),
    "chunks of one byte": lambda: head("Transfer-Encoding: chunked") + b"1\r\nx\r\n" * 2_000_000 + b"0\r\n\r\n",
    "2,000 headers": lambda: head(*(f"x{number}: y" for number in range(2000))),
    "5,000 requests at once": lambda: question(closes=False) * 4999 + question(closes=True),
    "picture bombs": bomb,
    "64 pictures, all classes of each": lambda: small_pictures("/v1/predict?top_k=1000"),
    "64 pictures, features of each": lambda: small_pictures("/v1/embed"),
}
SLOW = "200 slow connections"
ATTACKS = (*REQUESTS, SLOW)


def repeat(host: str, port: int, request: bytes, until: float) -> None:
    """Send it again and again, each time on a new connection."""
    while time.monotonic() < until:
        # The server may close at any point of it.
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=60) as connection:
            connection.sendall(request)
            while time.monotonic() < until and connection.recv(1_000_000):
                pass


def drip(host: str, port: int, until: float) -> None:
    """Hold connections that send a byte now and then, and open others for those that the server closes."""
    sent = head("Content-Length: 100000", "X-Long: " + "a" * 1000)
    connections: dict[socket.socket, Iterator[int]] = {}
    while time.monotonic() < until:
        while len(connections) < CONNECTIONS:
            connections[socket.create_connection((host, port), timeout=60)] = itertools.cycle(sent)
        for connection, letters in list(connections.items()):
            try:
                connection.sendall(bytes([next(letters)]))
            except OSError:
                connection.close()
                del connections[connection]
        time.sleep(0.3)


def main() -> None:
    host, port, attack, seconds = sys.argv[1:]
    until = time.monotonic() + float(seconds)
    if attack == SLOW:
        drip(host, int(port), until)
    else:
        repeat(host, int(port), REQUESTS[attack](), until)


if __name__ == "__main__":
    main()
