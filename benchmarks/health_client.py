"""Ask a server whether it lives, 50 times a second: `python -m benchmarks.health_client HOST PORT SECONDS`.

Prints the seconds that each answer took, a new connection included, as JSON.
"""

from __future__ import annotations

import http.client
import json
import sys
import time


def main() -> None:
    host, port, seconds = sys.argv[1:]
    took = []
    until = time.perf_counter() + float(seconds)
    while time.perf_counter() < until:
        begin = time.perf_counter()
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        answer.read()
        assert answer.status == 200, answer.status
        connection.close()
        took.append(time.perf_counter() - begin)
        time.sleep(0.02)
    print(json.dumps(took))


if __name__ == "__main__":
    main()
