"""HTTP/1.1 guarded against what the application never sees: heads that do not arrive, answers that nobody reads, bodies
in crumbs."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from vitrail.serve.config import ServeConfig

_MAX_HEAD = 32 * 1024  # bytes
_READ = 65_536  # bytes: what one client sent is looked at in pieces of this size, so that the others get their turn
_CROWDED = "Too many connections; try again in a moment."
_FREE_CHUNKS, _LEAST_CHUNK = 256, 256  # chunks of a body that may be of any size; mean bytes of those that follow


class _Connection(h11.Connection):
    """h11's, which refuses a body in crumbs: each chunk costs the event loop as much as thousands of bytes do.

    Attributes:
        refusal: why the body was refused.
    """

    refusal: str | None = None
    _chunks = _bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._bytes += len(event.data)
            if self._chunks > _FREE_CHUNKS + self._bytes / _LEAST_CHUNK:
                self.refusal = f"The chunks of the body are too small: send {_LEAST_CHUNK} bytes and more in each."
                raise h11.RemoteProtocolError(self.refusal)
        return event


class GuardedProtocol(H11Protocol, asyncio.BufferedProtocol):
    """uvicorn's protocol, whose connections end when a head takes longer than `receive_seconds` to arrive, an answer
    longer than `send_seconds` to be read, or a body comes in crumbs.

    Where there are more than `max_connections`, a new one takes the place of the one whose client has kept the server
    waiting longest without sending anything; it is refused where all are being answered.

    Use the classes that `protocol_of` makes: what all connections of a server share is theirs.
    """

    _serving: ServeConfig
    _buffer: bytearray  # whoever reads into it hands it on before anyone else reads
    _owing: dict[GuardedProtocol, None]  # whose clients are to send something; the longest silent comes first
    conn: _Connection

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.conn = _Connection(h11.SERVER, _MAX_HEAD)
        self._head: asyncio.TimerHandle | None = None  # while a head is awaited
        self._reading: asyncio.TimerHandle | None = None  # while the client is behind with reading

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self._serving.max_connections and not self._make_room():
            self._end(429, _CROWDED)
            return
        self._await_head()
        self._note_who_owes()

    def get_buffer(self, sizehint: int) -> bytearray:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(memoryview(self._buffer)[:nbytes]))

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        super().data_received(data)
        # Nobody waits for these bytes: they are a part of a head, or what is left of a body after its answer.
        if self.cycle is None or self.cycle.response_complete:
            self._await_head()
        else:
            self._stop_awaiting()
        self._note_who_owes()

    def send_400_response(self, msg: str) -> None:
        self._end(400, self.conn.refusal or msg)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owing.pop(self, None)
        self._stop_awaiting()
        if self._reading is not None:
            self._reading.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._note_who_owes()
        if self.transport.is_closing():
            self._await_reader()  # closing waits for the last bytes to be read, for ever if need be

    def pause_writing(self) -> None:
        super().pause_writing()
        self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._reading is not None and not self.transport.is_closing():
            self._reading.cancel()
            self._reading = None

    def timeout_keep_alive_handler(self) -> None:
        super().timeout_keep_alive_handler()
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _note_who_owes(self) -> None:
        self._owing.pop(self, None)
        is_answered = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        if not is_answered and not self.transport.is_closing():
            self._owing[self] = None

    def _make_room(self) -> bool:
        oldest = next(iter(self._owing), None)
        if oldest is None:
            return False
        if oldest.cycle is not None and oldest.cycle.response_complete and oldest._head is None:
            del self._owing[oldest]
            oldest.transport.close()  # between two requests, where its client expects no answer
        else:
            oldest._end(429, _CROWDED)
        return True

    def _await_head(self) -> None:
        if self._head is None:
            self._head = self.loop.call_later(self._serving.receive_seconds, self._head_is_late)

    def _stop_awaiting(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _await_reader(self) -> None:
        if self._reading is None:
            self._reading = self.loop.call_later(self._serving.send_seconds, self.transport.abort)

    def _head_is_late(self) -> None:
        self._head = None
        self._end(408, "The request did not arrive in time.")

    def _end(self, status: int, said: str) -> None:
        """Say why, and close."""
        self._owing.pop(self, None)
        if self.transport.is_closing():
            return
        cycle = self.cycle
        if cycle is not None and not cycle.response_complete:
            # The rest of a body does not come or cannot be understood: whoever waits hears that the client is gone.
            cycle.disconnected = True
            cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            self._say(status, said)
        self.transport.close()
        self._await_reader()

    def _say(self, status: int, said: str) -> None:
        # A request is being answered only in this state; else its head never arrived. HEAD is told no body.
        to_head = self.conn.our_state is h11.SEND_RESPONSE and self.scope["method"] == "HEAD"
        body = f"{said}\n".encode()
        head = [("content-type", "text/plain; charset=utf-8"), ("content-length", str(len(body)))]
        retry = [("retry-after", "1")] if status == 429 else []
        response = h11.Response(
            status_code=status,
            headers=[*head, *retry, ("connection", "close")],
            reason=HTTPStatus(status).phrase.encode(),
        )
        self.transport.write(self.conn.send(response) or b"")
        if not to_head:
            self.transport.write(self.conn.send(h11.Data(data=body)) or b"")
        self.transport.write(self.conn.send(h11.EndOfMessage()) or b"")


def protocol_of(config: ServeConfig) -> type[GuardedProtocol]:
    """The protocol of one server."""
    shared = {"_serving": config, "_buffer": bytearray(_READ), "_owing": {}}
    return type("GuardedProtocol", (GuardedProtocol,), shared)
