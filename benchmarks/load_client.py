"""Many clients of a server in one process, each asking again as soon as it is answered; prints what they met as JSON.

python -m benchmarks.load_client HOST PORT CLIENTS SECONDS PICTURE [PICTURE ...]
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path


def request_of(picture: bytes, host: str) -> bytes:
    head = (
        f"POST /v1/predict HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/octet-stream\r\n"
        f"Content-Length: {len(picture)}\r\n\r\n"
    )
    return head.encode() + picture


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bool]:
    """The status, and whether the connection stays open."""
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    length = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
    await reader.readexactly(length)
    return int(head.split(b" ", 2)[1]), b"connection: close" not in head


async def client(
    host: str, port: int, requests: list[bytes], number: int, until: float, statuses: Counter[str], seconds: list[float]
) -> None:
    """Ask until the time is over; refused ones try again after a moment."""
    writer = None
    while time.perf_counter() < until:
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection(host, port)
            begin = time.perf_counter()
            writer.write(requests[number % len(requests)])
            number += 1
            status, stays = await read_answer(reader)
            statuses[str(status)] += 1
            if status == 200:
                seconds.append(time.perf_counter() - begin)
            else:
                await asyncio.sleep(0.5)
            if not stays:
                writer.close()
                writer = None
        except (OSError, asyncio.IncompleteReadError) as error:
            statuses[type(error).__name__] += 1
            writer = None
            await asyncio.sleep(0.1)
    if writer is not None:
        writer.close()


async def load(host: str, port: int, clients: int, seconds: float, pictures: list[bytes]) -> dict[str, object]:
    requests = [request_of(picture, f"{host}:{port}") for picture in pictures]
    statuses: Counter[str] = Counter()
    answered: list[float] = []
    begin = time.perf_counter()
    until = begin + seconds
    await asyncio.gather(
        *(client(host, port, requests, number, until, statuses, answered) for number in range(clients))
    )
    took = time.perf_counter() - begin
    answered.sort()

    def quantile(share: float) -> float | None:
        return answered[min(len(answered) - 1, int(share * len(answered)))] if answered else None

    return {
        "statuses": dict(statuses),
        "seconds": took,
        "a_second": len(answered) / took,
        "median": quantile(0.5),
        "p99": quantile(0.99),
        "slowest": answered[-1] if answered else None,
    }


def main() -> None:
    host, port, clients, seconds, *files = sys.argv[1:]
    pictures = [Path(file).read_bytes() for file in files]
    print(json.dumps(asyncio.run(load(host, int(port), int(clients), float(seconds), pictures))))


if __name__ == "__main__":
    main()
