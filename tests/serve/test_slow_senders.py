"""Whoever sends slowly, or not at all, is cut off in time, and keeps nobody else waiting."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .conftest import Server, form_of

HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: image/png\r\nContent-Length: 100000\r\n"
UNREAD = b"GET /openapi.json HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PATIENCE = 60.0  # seconds, far more than a server that works ever takes


@pytest.fixture(scope="module")
def impatient(bundle: str) -> Iterator[Server]:
    """A server whose deadlines are a second."""
    from .conftest import start

    running = start(bundle, receive_seconds=1.0, send_seconds=1.0)
    running.wait_until_ready()
    yield running
    running.kill()


def connected(server: Server) -> socket.socket:
    return socket.create_connection((server.host, server.port), timeout=PATIENCE)


def all_of(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            found += part
    return found


def dripped(connection: socket.socket, data: bytes, rest: float = 0.1) -> bytes:
    """Send byte by byte until the server has enough of it; what it said."""
    connection.settimeout(rest)
    found, begin = b"", time.monotonic()
    for place in range(len(data)):
        assert time.monotonic() - begin < PATIENCE
        try:
            connection.sendall(data[place : place + 1])
            part = connection.recv(65536)
        except TimeoutError:
            continue
        except ConnectionError:
            return found
        found += part
        if not part:
            return found
    raise AssertionError("the server waited for the last byte")


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nX-A: b\r\n"])
def test_silence_is_closed(impatient: Server, sent: bytes) -> None:
    with connected(impatient) as connection:
        connection.sendall(sent)
        assert all_of(connection).startswith(b"HTTP/1.1 408 ")


def test_a_dripped_head_is_closed(impatient: Server) -> None:
    with connected(impatient) as connection:
        said = dripped(connection, b"GET /livez HTTP/1.1\r\nX-Long: " + b"a" * 1000)
        assert b" 408 " in said or not said


def test_a_body_that_stalls_is_told_so(impatient: Server) -> None:
    with connected(impatient) as connection:
        connection.sendall(HEAD + b"\r\n" + b"x" * 1000)
        said = all_of(connection)
        assert said.startswith(b"HTTP/1.1 408 ")
        assert b'"too_slow"' in said


def test_a_dripped_body_is_closed(impatient: Server) -> None:
    with connected(impatient) as connection:
        connection.sendall(HEAD + b"\r\n")
        assert b" 408 " in dripped(connection, b"x" * 1000)


def test_a_body_that_nobody_asked_for_does_not_keep_the_connection(impatient: Server) -> None:
    with connected(impatient) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n\r\n")
        assert b" 200 " in dripped(connection, b"x" * 1000)


def test_a_giant_that_drips_on_after_its_refusal_is_closed(impatient: Server) -> None:
    with connected(impatient) as connection:
        connection.sendall(HEAD.replace(b"100000", b"21000000") + b"\r\n")
        assert b" 413 " in dripped(connection, b"x" * 1000)


def test_half_a_head_after_an_answer_is_closed(impatient: Server) -> None:
    with connected(impatient) as connection:
        connection.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\nGET /livez HT")
        assert all_of(connection).startswith(b"HTTP/1.1 200 ")


def test_whoever_reads_no_answer_is_cut_off(impatient: Server) -> None:
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(PATIENCE)
        connection.connect((impatient.host, impatient.port))
        # Asks on and on: once the server's own buffers are full it waits for the reader, for a second.
        with pytest.raises(ConnectionError):
            ask_for_ever(connection)


def ask_for_ever(connection: socket.socket) -> None:
    begin = time.monotonic()
    while time.monotonic() - begin < PATIENCE:
        connection.sendall(UNREAD * 50)


def test_two_hundred_of_them_keep_nobody_waiting(start_server: Callable[..., Server], pictures: list[Path]) -> None:
    server = start_server()  # with the deadlines of every day
    server.wait_until_ready()
    expected = server.post("/v1/predict", pictures[0].read_bytes()).json()
    with contextlib.ExitStack() as held:
        for number in range(200):
            connection = held.enter_context(connected(server))
            # Silent, half a head, no end of a head, half a body; and one that never reads its many answers.
            kinds = (b"", b"GET /livez HT", HEAD, HEAD + b"\r\n" + b"x" * 1000, UNREAD * 40)
            connection.sendall(kinds[number % 5])
        assert server.get("/livez").status == 200
        assert server.post("/v1/predict", pictures[0].read_bytes()).json() == expected


@pytest.mark.parametrize("sent", [b"", b"GET /livez HT", HEAD, HEAD + b"\r\n" + b"x" * 1000])
def test_whoever_has_sent_nothing_longest_makes_room(
    start_server: Callable[..., Server], pictures: list[Path], sent: bytes
) -> None:
    server = start_server(max_connections=8)
    server.wait_until_ready()
    with contextlib.ExitStack() as held:
        silent = []
        for _ in range(12):
            silent.append(held.enter_context(connected(server)))
            silent[-1].sendall(sent)
        assert all_of(silent[0]).startswith(b"HTTP/1.1 429 ")
        for _ in range(12):
            assert server.get("/livez").status == 200
            assert server.post("/v1/predict", pictures[0].read_bytes()).status == 200


def test_a_connection_between_two_requests_makes_room_without_a_word(start_server: Callable[..., Server]) -> None:
    server = start_server(max_connections=1)
    server.wait_until_ready()
    with connected(server) as first:
        first.sendall(b"GET /livez HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
        said = first.recv(65536)
        assert server.get("/livez").status == 200
        assert (said + all_of(first)).count(b"HTTP/1.1 ") == 1


def test_whoever_is_being_answered_makes_no_room(start_server: Callable[..., Server], pictures: list[Path]) -> None:
    server = start_server(max_connections=4, batch_size=1)
    server.wait_until_ready()
    body, kind = form_of([("a.jpg", pictures[0].read_bytes())] * 64)
    with ThreadPoolExecutor(1) as asking, contextlib.ExitStack() as held:
        answer = asking.submit(server.post, "/v1/predict", body, kind)
        while b"vitrail_waiting_pictures 64.0" not in server.get("/metrics").body and not answer.done():
            pass
        for _ in range(40):
            held.enter_context(connected(server))
        assert answer.result().status == 200
