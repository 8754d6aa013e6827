"""Who may ask: by the server's own names, from its own page, and with its token where it has one."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import TOKEN, Answer, Server


def ask_raw(server: Server, *lines: str) -> int:
    """The status of a GET of /v1/model with exactly these header lines."""
    request = "\r\n".join(["GET /v1/model HTTP/1.1", *lines, "Connection: close", "", ""])
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(request.encode("latin-1"))
        return int(connection.recv(65536).split(b" ", 2)[1])


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:8000", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("evil.example:8000", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("localhost@evil.example", 421),
        ("localhost:80:80", 421),
        ("192.168.0.1", 421),
        ("[::1", 421),
        ("[::1]", 200),
        ("[2001:db8::1]", 421),
        ("[::ffff:192.168.0.1]", 421),
        ("LOCALHOST", 200),
        ("localhost.", 421),
        ("127.0.0.1.", 421),
        ("127.1", 421),
        ("2130706433", 421),
        ("evil.example, localhost", 421),
        ("", 421),
    ],
)
def test_only_its_own_names_are_answered(server: Server, host: str, status: int) -> None:
    assert ask_raw(server, f"Host: {host}") == status


def test_no_name_or_two_names_are_no_request(server: Server) -> None:
    assert ask_raw(server, "X-Nothing: here") == 400
    assert ask_raw(server, "Host: localhost", "Host: evil.example") == 400


@pytest.mark.parametrize(
    "header",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "file://"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_origin_may_not_ask(server: Server, pictures: list[Path], header: dict[str, str]) -> None:
    answer = server.post("/v1/predict", pictures[0].read_bytes(), headers=header)
    assert answer.status == 403
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_its_own_page_may_ask(server: Server, pictures: list[Path]) -> None:
    own = {"Origin": f"http://{server.address}", "Sec-Fetch-Site": "same-origin"}
    assert server.post("/v1/predict", pictures[0].read_bytes(), headers=own).status == 200


def test_a_name_can_be_allowed(start_server: Callable[..., Server]) -> None:
    server = start_server(allowed_hosts=("photos.example",))
    server.wait_until_ready()
    assert ask_raw(server, "Host: photos.example") == 200
    assert ask_raw(server, "Host: photos.example.evil") == 421


ROUTES = ("/", "/page/app.js", "/v1/model", "/metrics", "/openapi.json", "/nothing-here")


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_but_health_asks_for_the_token(guarded: Server, path: str) -> None:
    assert guarded.get(path).status == 401
    assert guarded.get(path, {"Authorization": f"Bearer {TOKEN}"}).status in (200, 404)
    for wrong in (f"Bearer {TOKEN[:-1]}", f"Bearer {TOKEN}x", f"Basic {TOKEN}", TOKEN, "Bearer ", "Bearer \xe9"):
        assert guarded.get(path, {"Authorization": wrong}).status == 401


@pytest.mark.parametrize("path", ["/v1/predict", "/v1/embed"])
def test_pictures_are_answered_with_the_token_or_the_cookie(guarded: Server, pictures: list[Path], path: str) -> None:
    data = pictures[0].read_bytes()
    cookie = sign_in(guarded, TOKEN).headers["set-cookie"].partition(";")[0]
    assert guarded.post(path, data).status == 401
    by_header = guarded.post(path, data, headers={"Authorization": f"Bearer {TOKEN}"})
    by_cookie = guarded.post(path, data, headers={"Cookie": cookie})
    assert by_header.status == by_cookie.status == 200
    assert by_header.body == by_cookie.body


def test_no_answer_says_the_token(guarded: Server) -> None:
    shown = {"Authorization": f"Bearer {TOKEN}", "Accept": "text/html"}
    answers = [guarded.get(path, headers) for path in (*ROUTES, "/livez", "/readyz") for headers in (shown, {})]
    answers += [guarded.get(f"/{TOKEN[:-1]}"), guarded.get("/v1/model?top_k=1", shown), sign_in(guarded, TOKEN)]
    answers += [sign_in(guarded, TOKEN + "x"), guarded.post("/v1/predict", b"x", headers=shown)]
    for answer in answers:
        assert TOKEN not in str(answer.headers)
        assert TOKEN.encode() not in answer.body


def test_health_does_not(guarded: Server) -> None:
    assert guarded.get("/livez").status == 200
    assert guarded.get("/readyz").status == 200


def sign_in(server: Server, token: str, **headers: str) -> Answer:
    return server.post("/sign-in", f"token={token}".encode(), "application/x-www-form-urlencoded", headers)


def test_a_person_signs_in_with_it_once(guarded: Server) -> None:
    page = guarded.get("/", {"Accept": "text/html"})
    assert page.status == 401
    assert b'<form method="post" action="/sign-in">' in page.body
    answer = sign_in(guarded, TOKEN, Origin=f"http://{guarded.address}")
    assert answer.status == 303
    cookie = answer.headers["set-cookie"]
    assert TOKEN not in cookie
    assert "httponly" in cookie.lower()
    assert "samesite=strict" in cookie.lower()
    assert guarded.get("/", {"Cookie": cookie.partition(";")[0]}).status == 200
    assert guarded.get("/", {"Cookie": "vitrail=guess"}).status == 401
    assert sign_in(guarded, "wrong-token-of-some-length").status == 401
    assert sign_in(guarded, TOKEN, Origin="http://evil.example").status == 403


def test_another_address_needs_a_token(bundle: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "VITRAIL_TOKEN"}
    command = [sys.executable, "-m", "vitrail", "serve", bundle, "--host", "0.0.0.0", "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=120)
    assert done.returncode == 2
    assert "needs a token" in done.stderr
    short = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**environment, "VITRAIL_TOKEN": "short"}, timeout=120
    )
    assert short.returncode == 2
    assert "at least 16" in short.stderr
