"""Bodies that are too large, broken, or made to do harm: each is refused in words, and nothing else happens."""

from __future__ import annotations

import contextlib
import io
import json
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitrail.serve.bodies import uploads_of

from .conftest import Server, form_of, start

LARGE = 21_000_000  # bytes, over the limit of 20 MB


def raw(server: Server, head: str, body: bytes = b"") -> bytes:
    """What the server says to a request that is sent as far as the server takes it."""
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(f"POST /v1/predict HTTP/1.1\r\nHost: 127.0.0.1\r\n{head}\r\n\r\n".encode() + body)
        found = b""
        with contextlib.suppress(ConnectionError):
            while part := connection.recv(65536):
                found += part
        return found


def test_a_declared_giant_is_refused_before_it_is_sent(server: Server) -> None:
    said = raw(server, f"Content-Type: image/png\r\nContent-Length: {LARGE}")
    assert said.startswith(b"HTTP/1.1 413 ")
    assert b"larger than 20 MB" in said


def test_a_giant_that_is_sent_hears_why(server: Server) -> None:
    answer = server.post("/v1/predict", bytes(LARGE))
    assert answer.status == 413
    assert answer.json()["error"]["code"] == "too_large"


def test_a_giant_in_chunks_is_refused_where_it_passes_the_limit(server: Server) -> None:
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    said = raw(server, "Content-Type: image/png\r\nTransfer-Encoding: chunked", chunk * 21)
    assert said.startswith(b"HTTP/1.1 413 ")


def test_a_length_and_chunks_together_are_no_way_in(server: Server) -> None:
    said = raw(server, "Content-Type: image/png\r\nContent-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n")
    assert int(said.split(b" ", 2)[1]) in (400, 422)


def in_chunks(data: bytes, size: int) -> bytes:
    chunks = (data[start : start + size] for start in range(0, len(data), size))
    return b"".join(b"%x\r\n%b\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


def test_a_body_in_crumbs_is_refused(server: Server) -> None:
    said = raw(server, "Content-Type: image/png\r\nTransfer-Encoding: chunked", in_chunks(bytes(50_000), 1))
    assert said.startswith(b"HTTP/1.1 400 ")
    assert b"chunks of the body are too small" in said


@pytest.mark.parametrize("size", [1, 100, 100_000])
def test_a_body_in_chunks_is_as_good_as_whole(server: Server, size: int) -> None:
    data = saved("PNG")
    assert len(data) < 256  # so few crumbs cost nobody anything
    head = "Content-Type: image/png\r\nConnection: close\r\nTransfer-Encoding: chunked"
    said = raw(server, head, in_chunks(data, size))
    assert said.startswith(b"HTTP/1.1 200 ")
    assert json.loads(said.partition(b"\r\n\r\n")[2]) == server.post("/v1/predict", data).json()


def test_chunks_that_are_large_enough_may_be_many(server: Server) -> None:
    head = "Content-Type: image/png\r\nConnection: close\r\nTransfer-Encoding: chunked"
    said = raw(server, head, in_chunks(bytes(1_000_000), 256))
    assert said.startswith(b"HTTP/1.1 422 ")  # taken whole, and found to be no picture


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST", "OPTIONS"])
def test_a_broken_chunk_is_refused_and_not_logged(bundle: str, tmp_path: Path, method: str) -> None:
    log = tmp_path / "log"
    server = start(bundle, log=log)
    try:
        server.wait_until_ready()
        with socket.create_connection((server.host, server.port), timeout=60) as connection:
            head = f"{method} /v1/predict HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head.encode() + b"no length\r\n")
            said = connection.makefile("rb").read()
    finally:
        server.kill()
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert said.endswith(b"\r\n\r\n") == (method == "HEAD")
    assert log.read_text() == ""


def test_a_body_shorter_than_it_says_is_waited_for_and_no_longer(start_server: Callable[..., Server]) -> None:
    server = start_server(receive_seconds=0.5)
    server.wait_until_ready()
    assert raw(server, "Content-Type: image/png\r\nContent-Length: 50", b"x" * 49).startswith(b"HTTP/1.1 408 ")


def test_what_follows_a_body_is_another_request(server: Server) -> None:
    data = saved("PNG")
    head = f"Content-Type: image/png\r\nContent-Length: {len(data)}"
    said = raw(server, head, data + b"this is no request\r\n\r\n")
    assert said.startswith(b"HTTP/1.1 200 ")
    assert said.count(b"HTTP/1.1 400 ") == 1


@pytest.mark.parametrize(
    ("kind", "body", "status"),
    [
        ("text/plain", b"hello", 415),
        ("", b"hello", 415),
        ("image/svg+xml", b"<svg/>", 415),
        ("multipart/form-data", b"hello", 400),
        ("multipart/form-data; boundary=", b"hello", 400),
        (f"multipart/form-data; boundary={'b' * 5000}", b"hello", 400),
        ("multipart/form-data; boundary=b", b"", 400),
        ("multipart/form-data; boundary=b", b"--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\r\nhello", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nContent-Disposition: form-data; name=\r\n\r\n3\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"--b\r\nA: " + b"x" * 100_000 + b"\r\n\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n" + b"A: x\r\n" * 1000 + b"\r\n--b--\r\n", 400),
        ("multipart/form-data; boundary=b", b"--b\r\n\x00\xff: x\r\n\r\n--b--\r\n", 400),
        ("image/png", b"", 400),
    ],
)  # fmt: skip
def test_what_is_no_picture_and_no_form_is_refused(server: Server, kind: str, body: bytes, status: int) -> None:
    assert server.post("/v1/predict", body, kind).status == status


def test_more_pictures_than_fit_are_refused(server: Server, pictures: list[Path]) -> None:
    body, kind = form_of([("a.png", b"x")] * 65)
    answer = server.post("/v1/predict", body, kind)
    assert answer.status == 400
    assert answer.json()["error"]["code"] == "too_many_pictures"


def test_a_form_made_to_be_slow_is_refused(server: Server) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="p"; filename="a"\r\n\r\n'
    # What begins as a boundary does and is none: the parser stops at each.
    body = part + b"\r\n--b-x" * 100_000 + b"\r\n--b--\r\n"
    answer = server.post("/v1/predict", body, "multipart/form-data; boundary=b")
    assert answer.status == 400
    assert answer.json()["error"]["code"] == "too_many_pictures"


@pytest.mark.parametrize("number", [1, 64])
@pytest.mark.parametrize("shift", range(-6, 7))
def test_a_picture_is_whole_wherever_its_form_is_cut(number: int, shift: int) -> None:
    # Pictures that end near the place where the form is cut into pieces, with near misses of its boundary in them.
    empty, kind = form_of([("a.png", b"")])
    first = bytes(65_536 - len(empty) + len("\r\n------vitrail--\r\n") + shift)
    files = [("a.png", first), *[("b.png", b"\r\n------vitrai\r\r\n\r\n--" * 9)] * (number - 1)]
    found = uploads_of(*form_of(files), max_pictures=64)
    assert [(one.name, one.data) for one in found] == files
    assert kind == form_of(files)[1]


def png(width: int, height: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def saved(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.zeros((8, 8, 3), dtype=np.uint8)).save(file, kind)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (png(50_000, 50_000, b"\0"), "50000x50000 = 2.5e+03 megapixels, above the limit of 25 megapixels"),
        (png(5_001, 5_000, bytes(5_002 * 5_000)), "above the limit of 25 megapixels"),
        (png(100, 100, b"\0" * 50), "truncated"),
        (saved("GIF"), "GIF is not among the allowed formats JPEG, PNG, WEBP"),
        (saved("TIFF"), "TIFF is not among the allowed formats"),
        (saved("BMP"), "BMP is not among the allowed formats"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>", "not a picture"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", ""),
        (b"\x89PNG\r\n\x1a\n", ""),
        (b"\xff\xd8\xff", ""),
        (b"RIFF\xff\xff\xff\xffWEBPVP8 ", ""),
    ],
)
def test_bombs_and_other_formats_are_refused(server: Server, data: bytes, why: str) -> None:
    answer = server.post("/v1/predict", data, "application/octet-stream")
    assert answer.status == 422
    assert why in answer.json()["predictions"][0]["error"]


def animated(kind: str) -> bytes:
    file = io.BytesIO()
    pictures = [Image.new("RGB", (40, 40), (shade, 0, 90)) for shade in (0, 120, 255)]
    pictures[0].save(file, kind, save_all=True, append_images=pictures[1:])
    return file.getvalue()


def in_inks() -> bytes:
    file = io.BytesIO()
    Image.new("CMYK", (40, 40), (9, 90, 190, 20)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize("data", [animated("PNG"), animated("WEBP"), in_inks()], ids=["apng", "webp", "cmyk"])
def test_unusual_pictures_are_answered_or_refused_in_words(server: Server, data: bytes) -> None:
    answer = server.post("/v1/predict", data, "application/octet-stream")
    told = answer.json()["predictions"][0]
    assert answer.status == (200 if told["error"] is None else 422)
    assert told["error"] is None or told["error"].startswith("picture: ")


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "C:\\boot.ini", "..\\..\\x", "a\x00b", "<b>x</b>", "\u202egnp.exe", "x" * 5000,
     'a"b', "a\r\nSet-Cookie: x=y", "a\nb", "y" * 10_000, ".", "%2e%2e%2fx", "caf\u00e9.png", "\udcff.png"],
)  # fmt: skip
def test_a_name_is_only_ever_said_again(server: Server, pictures: list[Path], name: str) -> None:
    data = pictures[0].read_bytes()
    body, kind = form_of([(name, data)])
    answer = server.post("/v1/predict", body, kind)
    if answer.status == 400:  # a name that no form may have
        return
    told = answer.json()["predictions"][0]
    assert answer.status == 200
    assert told["error"] is None
    assert "set-cookie" not in answer.headers
    assert "/" not in told["file"]
    assert "\\" not in told["file"]
    assert len(told["file"]) <= 255
    assert told["probability"] == server.post("/v1/predict", data).json()["predictions"][0]["probability"]


@pytest.mark.parametrize(
    "path",
    ["/page/../app.py", "/page/%2e%2e/app.py", "/page/..%2fapp.py", "//etc/passwd", "/page/app.js%00.css", "/page/",
     "/page/index.html", "/PAGE/app.js", "/v1/../livez", "/page/..\\app.py", "/v1/predict/"],
)  # fmt: skip
def test_there_is_nothing_beside_the_routes(server: Server, path: str) -> None:
    with socket.create_connection((server.host, server.port), timeout=60) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        assert connection.recv(65536).startswith(b"HTTP/1.1 404 ")


GOOD = form_of([("a.png", saved("PNG")), ("b.jpg", saved("JPEG"))])


@st.composite
def broken_forms(draw: st.DrawFn) -> bytes:
    """A form with some of its bytes taken out, put in, doubled or changed."""
    body = bytearray(GOOD[0])
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(body)))
        stop = min(len(body), start + draw(st.integers(0, 60)))
        body[start:stop] = draw(
            st.one_of(st.binary(max_size=40), st.just(bytes(body[start:stop]) * 2), st.just(b"\r\n------vitrail"))
        )
    return bytes(body)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(broken_forms())
def test_a_broken_form_is_understood_or_refused(server: Server, body: bytes) -> None:
    answer = server.post("/v1/predict", body, GOOD[1])
    assert answer.status in (200, 400, 422)
    json.loads(answer.body)


def test_after_all_that_it_answers_as_before(server: Server) -> None:
    answer = server.post("/v1/predict", *GOOD)
    assert answer.status == 200
    assert [one["error"] for one in answer.json()["predictions"]] == [None, None]
    assert b"vitrail_body_bytes 0.0" in server.get("/metrics").body
