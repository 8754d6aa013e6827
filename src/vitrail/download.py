"""Large files over HTTP that go on where they stopped, and are there whole and checked or not at all. Free of torch."""

from __future__ import annotations

import errno
import http.client
import os
import shutil
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from vitrail.errors import DownloadError
from vitrail.storage import sha256_of

Progress = Callable[[int, int], None]  # bytes that have arrived, bytes in all

TIMEOUT = 10.0  # seconds without an answer, or without a byte
_ATTEMPTS = 4  # without a single new byte
_CHUNK = 1 << 20
MAX_BYTES = 50_000_000_000  # no plain ViT's weights are nearly as large
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LOCAL_HOSTS = ("127.0.0.1", "localhost")


class _Broken(Exception):
    """The connection ended before the file did."""


class _HttpsOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but not from an address that cannot be tampered with to one that can."""

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        require_https(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def require_https(address: str) -> None:
    """Raises DownloadError for addresses other than https, except on this machine itself."""
    parts = urlsplit(address)
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOCAL_HOSTS):
        raise DownloadError(
            f"{address}: only https addresses are downloaded: anyone on the way could change the others"
        )


def download(
    address: str,
    target: Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    secret_headers: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    home: str = "HF_HOME",
) -> None:
    """Put the file of an address at `target`. What an interrupted call has left beside it is taken up.

    Args:
        size: bytes, where they are known beforehand.
        sha256: that the file must have: the whole, or its published beginning.
        secret_headers: sent to the address itself, and not to where it redirects.
        home: the environment variable that moves the folder of downloads, for the message when a disk is full.
    Raises:
        DownloadError: not to be reached, refused, broken off time and again, no space, or other content; says what to
            do next. What has arrived is kept, except where it is wrong.
    """
    require_https(address)
    partial = target.with_name(f"{target.name}.vitrail.incomplete")
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        _require_space(partial, size)
        with _locked(partial):
            if target.exists():  # another process was faster
                return
            _fill(address, partial, size, secret_headers or {}, progress)
            found = sha256_of(partial)
            if sha256 is not None and not found.startswith(sha256.lower()):
                partial.unlink()
                raise DownloadError(
                    f"{address}: what arrived has the SHA-256 {found[: max(12, len(sha256))]}, not the published"
                    f" {sha256}; it was deleted. Try again; if it happens again, something on the way changes files."
                )
            os.replace(partial, target)
    except OSError as error:
        raise explain_storage(error, target, size, home) from error


def explain_storage(error: OSError, target: Path, size: int | None = None, home: str = "HF_HOME") -> DownloadError:
    """What to do about a folder of downloads that cannot be written."""
    if error.errno in _FULL:
        needed = f" for {size / 1e6:,.0f} MB" if size else ""
        return DownloadError(
            f"{target.parent}: no space left{needed} ({error.strerror}). Free some, or set {home} to a folder on"
            " another disk; what has arrived is kept."
        )
    return DownloadError(
        f"{target.parent}: cannot be written ({error.strerror or error}). Set {home} to a folder that can."
    )


def _require_space(partial: Path, size: int | None) -> None:
    if size is None:
        return
    there = partial.stat().st_size if partial.exists() else 0
    if shutil.disk_usage(partial.parent).free < size - there:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _locked(partial: Path) -> Any:
    from filelock import FileLock

    return FileLock(partial.with_name(f"{partial.name}.lock"))


def _fill(
    address: str,
    partial: Path,
    size: int | None,
    secret_headers: Mapping[str, str],
    progress: Progress | None,
) -> None:
    """Append to `partial` until it is whole, over as many connections as it takes."""
    attempts = 0
    while True:
        before = partial.stat().st_size if partial.exists() else 0
        if size is not None and before == size:
            return
        if size is not None and before > size:
            partial.unlink()
            continue
        try:
            _receive(address, partial, before, size, secret_headers, progress)
            return
        except (_Broken, TimeoutError, http.client.HTTPException, ConnectionError, urllib.error.URLError) as error:
            if isinstance(error, urllib.error.HTTPError):
                if error.code == 416 and before:  # what is there is not a beginning of what the server has
                    partial.unlink()
                    continue
                if error.code not in (408, 429, 500, 502, 503, 504):
                    raise DownloadError(f"{address}: the server answered {error.code} {error.reason}") from error
            there = partial.stat().st_size if partial.exists() else 0
            attempts = 1 if there > before else attempts + 1
            is_unreachable = isinstance(error, urllib.error.URLError) and not isinstance(error, urllib.error.HTTPError)
            if attempts >= _ATTEMPTS or (is_unreachable and there == 0):
                raise DownloadError(_gave_up(address, there, size, error)) from error
            time.sleep(0.5 * (attempts - 1))


def _gave_up(address: str, there: int, size: int | None, error: Exception) -> str:
    host = urlsplit(address).hostname
    cause = getattr(error, "reason", None) or error
    if there:
        of = f" of {size / 1e6:,.1f}" if size else ""
        return (
            f"{address}: the connection to {host} broke off time and again ({cause}). {there / 1e6:,.1f}{of} MB have"
            " arrived and are kept: the same command goes on from there."
        )
    return (
        f"{address}: {host} cannot be reached ({cause}). Is there a network, and does a proxy need HTTPS_PROXY? Without"
        " one, give the path of a file that is on this machine."
    )


def _receive(
    address: str,
    partial: Path,
    before: int,
    size: int | None,
    secret_headers: Mapping[str, str],
    progress: Progress | None,
) -> None:
    request = urllib.request.Request(address, headers={"Accept-Encoding": "identity", "User-Agent": "vitrail"})
    for name, value in secret_headers.items():
        request.add_unredirected_header(name, value)
    if before:
        request.add_header("Range", f"bytes={before}-")
    opener = urllib.request.build_opener(_HttpsOnly())
    with opener.open(request, timeout=TIMEOUT) as response:
        done = before if response.status == 206 else 0  # 200: the server sends all of it
        if response.status == 206 and not response.headers.get("Content-Range", "").startswith(f"bytes {before}-"):
            raise _Broken("the server sent another part than the one it was asked for")
        length = response.headers.get("Content-Length")
        total = size if size is not None else (done + int(length) if length else None)
        if (total or 0) > MAX_BYTES:
            raise DownloadError(f"{address}: {total:,} bytes, more than the limit of {MAX_BYTES:,}; not downloaded")
        if length is not None and total is not None and done + int(length) != total:
            raise DownloadError(f"{address}: the server sends {done + int(length):,} bytes, {total:,} were announced")
        with partial.open("r+b" if done else "wb") as file:
            file.seek(done)
            file.truncate()
            done = _copy(response, file, done, total, progress)
    if total is not None and done < total:
        raise _Broken("the connection was closed")


def _copy(response: IO[bytes], file: IO[bytes], done: int, total: int | None, progress: Progress | None) -> int:
    limit = total if total is not None else MAX_BYTES
    while chunk := response.read(_CHUNK):
        done += len(chunk)
        if done > limit:
            raise DownloadError(f"{file.name}: the server sends more than {limit:,} bytes; stopped")
        file.write(chunk)
        file.flush()
        if progress is not None and total is not None:
            progress(done, total)
    return done
