"""From the body of a request to the pictures in it: limits before memory, a deadline, and nothing written anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from vitrail.serve.config import ServeConfig
from vitrail.serve.errors import ApiError, too_busy

_RAW_TYPES = ("image/jpeg", "image/png", "image/webp", "application/octet-stream")
_MAX_PART_HEADERS, _MAX_PART_HEADER_BYTES = 16, 8192
_PIECE = 65_536  # bytes of a form that are looked through at once
_MAX_NAME = 255  # characters of a file's name that come back in the answer


@dataclass(frozen=True)
class Upload:
    """One picture as it was sent. The name is only ever said again, never looked up."""

    name: str
    data: bytes


class Bodies:
    """Receives bodies, and knows what all of them together weigh. For one event loop."""

    def __init__(self, config: ServeConfig) -> None:
        self._config = config
        self._held = 0  # bytes

    @property
    def held(self) -> int:
        """Bytes of all bodies that are in memory."""
        return self._held

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[bytearray]:
        """The body, counted until the block ends.

        Raises:
            ApiError: 413 too large, 408 too slow, 429 too much in memory already, 400 a client that went away.
        """
        body = bytearray()
        size = 0
        try:
            _check_declared(request, self._config.max_body_bytes)
            try:
                async with asyncio.timeout(self._config.receive_seconds):
                    async for part in _parts(request):
                        size += len(part)
                        self._held += len(part)
                        self._check(size)
                        body += part
            except TimeoutError:
                raise ApiError(
                    408,
                    "too_slow",
                    f"the request did not arrive within {self._config.receive_seconds:g} s",
                    closes=True,
                ) from None
            yield body
        finally:
            self._held -= size

    def _check(self, size: int) -> None:
        if size > self._config.max_body_bytes:
            raise _too_large(self._config.max_body_bytes)
        if self._held > self._config.max_bodies_bytes:
            error = too_busy("too_many_bytes", "the requests being received fill the memory set aside for them", 1)
            error.closes = True
            raise error


def _check_declared(request: Request, limit: int) -> None:
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "too_large", f"the request is larger than {limit / 1e6:g} MB", closes=True)


async def _parts(request: Request) -> AsyncIterator[bytes]:
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "disconnected", "the client went away before the request was whole", closes=True)
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body", False):
            return


def uploads_of(body: bytes | bytearray, content_type: str, max_pictures: int) -> list[Upload]:
    """The pictures in a body: all parts of a form, or the one picture that the body is.

    Raises:
        ApiError: 415 another type, 400 a form that is none, no picture or too many.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        uploads = _parts_of_form(body, options.get(b"boundary", b""), max_pictures)
    elif kind.decode("latin-1") in _RAW_TYPES:
        uploads = [Upload("picture", bytes(body))] if body else []
    else:
        raise ApiError(
            415,
            "unsupported_type",
            f"send pictures as multipart/form-data, or one as {', '.join(_RAW_TYPES)}; the content type is"
            f" {content_type[:80]!r}",
        )
    if not uploads:
        raise ApiError(400, "no_picture", "the request has no picture in it")
    return uploads


def _parts_of_form(body: bytes | bytearray, boundary: bytes, max_pictures: int) -> list[Upload]:
    if not boundary:
        raise _malformed("its content type names no boundary")
    form = _Form(max_pictures)
    try:
        parser = MultipartParser(
            boundary,
            form.callbacks(),  # type: ignore[arg-type]
            max_header_count=_MAX_PART_HEADERS,
            max_header_size=_MAX_PART_HEADER_BYTES,
        )
        for piece in _pieces(body, b"\r\n--" + boundary, max_pictures):
            parser.write(piece)
        parser.finalize()
    except FormParserError as error:
        raise _malformed(str(error)) from None
    if not form.is_whole:
        raise _malformed("its last boundary is missing")
    return list(form.uploads())


def _pieces(body: bytes | bytearray, delimiter: bytes, max_pictures: int) -> Iterator[bytes]:
    """The body bit by bit: one search through all of it would keep the event loop, and /livez, waiting.

    Raises:
        ApiError: 400 for more delimiters than pictures may have. None may stand inside a part, and a body full of them
            would take seconds to take apart.
    """
    found = 0
    for start in range(0, len(body), _PIECE):
        found += body.count(delimiter, start, start + _PIECE + len(delimiter) - 1)
        if found > max_pictures + 1:
            raise _too_many(max_pictures)
        yield bytes(body[start : start + _PIECE])


def _malformed(why: str) -> ApiError:
    return ApiError(400, "malformed_form", f"the body is no whole multipart form: {why[:200]}")


def _too_many(limit: int) -> ApiError:
    return ApiError(400, "too_many_pictures", f"more than {limit} pictures in a request: send several requests")


@dataclass
class _Part:
    headers: dict[bytes, bytes] = field(default_factory=dict)
    data: list[bytes] = field(default_factory=list)


class _Form:
    """What the parser tells, kept as parts."""

    def __init__(self, max_parts: int) -> None:
        self.is_whole = False
        self._parts: list[_Part] = []
        self._max_parts = max_parts
        self._name, self._value = b"", b""

    def callbacks(self) -> dict[str, object]:
        return {
            "on_part_begin": self._begin,
            "on_part_data": lambda data, start, end: self._parts[-1].data.append(data[start:end]),
            "on_header_field": self._header_name,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_end": self._end,
        }

    def uploads(self) -> Iterator[Upload]:
        for number, part in enumerate(self._parts, 1):
            _, options = parse_options_header(part.headers.get(b"content-disposition", b""))
            name = options.get(b"filename")
            if name is None and not part.headers.get(b"content-type", b"").startswith(b"image/"):
                field_name = options.get(b"name", b"").decode("utf-8", "replace")
                raise ApiError(
                    400,
                    "no_picture",
                    f"the field {field_name[:40]!r} is no file: send files, and options in the address, as ?top_k=3",
                )
            said = (name or b"").decode("utf-8", "replace").rpartition("\\")[2].rpartition("/")[2]
            yield Upload(said[:_MAX_NAME] or f"picture {number}", b"".join(part.data))

    def _begin(self) -> None:
        if len(self._parts) == self._max_parts:
            raise _too_many(self._max_parts)
        self._parts.append(_Part())

    def _header_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header_end(self) -> None:
        self._parts[-1].headers[self._name.lower()] = self._value
        self._name, self._value = b"", b""

    def _end(self) -> None:
        self.is_whole = True
