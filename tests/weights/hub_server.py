"""A small Hugging Face hub on this machine: real HTTP, with the headers and answers that huggingface_hub expects."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE = (".safetensors", ".bin", ".npz", ".pth")


@dataclass
class Hub:
    """What the hub holds, and what it saw.

    Attributes:
        repositories: name -> file -> bytes.
        gated, private: names that nobody, or only who has `token`, may read.
        break_after: path -> bytes after which the next answer is cut off; each entry serves once.
        requests: "METHOD path", in order.
        ranges: the Range headers seen.
        tokens: what was sent as authorization, by path.
        uploaded: repository -> file -> bytes.
    """

    address: str = ""
    repositories: dict[str, dict[str, bytes]] = field(default_factory=dict)
    cards: dict[str, dict[str, Any]] = field(default_factory=dict)
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    token: str = "hf_right"
    break_after: dict[str, list[int]] = field(default_factory=dict)
    status: dict[str, int] = field(default_factory=dict)
    ignores_ranges: bool = False
    requests: list[str] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    uploaded: dict[str, dict[str, bytes]] = field(default_factory=dict)

    def asked(self, part: str) -> int:
        """How many requests had `part` in their method and path."""
        return sum(part in request for request in self.requests)


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """`hub` at 127.0.0.1, on a free port; its address is put into it."""

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        path = unquote(urlsplit(self.path).path)
        body = self._body()
        self._saw(path)
        if self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self._fail(401, "", "Invalid username or password.")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else f"me/{asked['name']}"
            self.hub.repositories[name] = self.hub.uploaded.setdefault(name, {})
            self._json({"url": f"{self.hub.address}/{name}", "name": name})
        elif path == "/api/validate-yaml":  # the header of a README.md
            self._json({"errors": [], "warnings": []})
        elif "/preupload/" in path:
            files = [{"path": file["path"], "uploadMode": "regular"} for file in json.loads(body)["files"]]
            self._json({"files": [{**file, "shouldIgnore": False, "oid": None} for file in files]})
        elif "/commit/" in path:
            name = "/".join(path.split("/")[3:5])
            for line in body.splitlines():
                record = json.loads(line)
                if record["key"] == "file":
                    self.hub.uploaded[name][record["value"]["path"]] = base64.b64decode(record["value"]["content"])
            self._json(
                {"commitUrl": f"{self.hub.address}/{name}/commit/{COMMIT}", "commitOid": COMMIT, "success": True}
            )
        else:
            self._fail(404, "", "no such call")

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self._saw(path)
        if path in self.hub.status:
            return self._fail(self.hub.status[path], "", "")
        if path.startswith("/api/models/"):
            return self._describe(path)
        if path.startswith("/files/"):
            return self._send(path, self.hub.repositories["files"].get(path.removeprefix("/files/")), large=True)
        parts = path.strip("/").split("/")
        if len(parts) < 5 or parts[2] != "resolve":
            return self._fail(404, "", "")
        name, revision, file = "/".join(parts[:2]), parts[3], "/".join(parts[4:])
        if not self._allowed(name, revision):
            return None
        content = self.hub.repositories[name].get(file)
        if content is None:
            return self._fail(404, "EntryNotFound", "Entry not found")
        return self._send(path, content, large=file.endswith(LARGE))

    def _saw(self, path: str) -> None:
        self.hub.requests.append(f"{self.command} {path}")
        if "Range" in self.headers:
            self.hub.ranges.append(self.headers["Range"])
        if "Authorization" in self.headers:
            self.hub.tokens[path] = self.headers["Authorization"]

    def _allowed(self, name: str, revision: str) -> bool:
        has_token = self.headers.get("Authorization") == f"Bearer {self.hub.token}"
        if name in self.hub.gated:
            self._fail(403 if has_token else 401, "GatedRepo", f"Access to model {name} is restricted.")
        elif name not in self.hub.repositories or (name in self.hub.private and not has_token):
            if has_token:
                self._fail(404, "RepoNotFound", "Repository not found")
            else:  # as the hub does, which does not tell strangers what exists
                self._fail(401, "RepoNotFound", "Invalid username or password.")
        elif revision not in ("main", COMMIT, "refs"):
            self._fail(404, "RevisionNotFound", f"Invalid rev id: {revision}")
        else:
            return True
        return False

    def _describe(self, path: str) -> None:
        parts = path.removeprefix("/api/models/").split("/")
        name, revision = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "main"
        if not self._allowed(name, revision):
            return
        files = []
        for file, content in self.hub.repositories[name].items():
            record: dict[str, Any] = {"rfilename": file, "size": len(content), "blobId": _git_id(content)}
            if file.endswith(LARGE):
                sha256 = hashlib.sha256(content).hexdigest()
                record["lfs"] = {"sha256": sha256, "size": len(content), "pointerSize": 134}
            files.append(record)
        answer = {"id": name, "modelId": name, "sha": COMMIT, "siblings": files, "tags": [], "private": False}
        self._json({**answer, "cardData": self.hub.cards.get(name), "downloads": 0, "likes": 0})

    def _send(self, path: str, content: bytes | None, large: bool) -> None:
        if content is None:
            return self._fail(404, "", "")
        etag = hashlib.sha256(content).hexdigest() if large else _git_id(content)
        start = 0
        asked = self.headers.get("Range")
        if asked and not self.hub.ignores_ranges:
            start = int(asked.removeprefix("bytes=").partition("-")[0])
            if start >= len(content):
                return self._fail(416, "", "")
        self.send_response(206 if asked and not self.hub.ignores_ranges else 200)
        if asked and not self.hub.ignores_ranges:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", COMMIT)
        if large:
            self.send_header("X-Linked-Etag", f'"{etag}"')
            self.send_header("X-Linked-Size", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return None
        cuts = self.hub.break_after.get(path, [])
        if cuts:
            self.wfile.write(content[start : start + cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            return None
        self.wfile.write(content[start:])
        return None

    def _json(self, value: object) -> None:
        content = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _fail(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        if message:
            self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
