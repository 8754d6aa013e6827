"""Fetching a publisher's archives, and unpacking them without trusting them."""

from __future__ import annotations

import hashlib
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO
from urllib.parse import urlsplit

from vitrail.data.published.catalog import Archive, PublishedData
from vitrail.download import Progress, download
from vitrail.errors import DataError, DownloadError
from vitrail.storage import new_folder

MAX_BYTES = 20_000_000_000  # of one data set, unpacked
MAX_FILES = 1_000_000
_CHUNK = 1 << 20


def fetch(name: str, data: PublishedData, root: Path, progress: Progress | None = None) -> None:
    """Download the archives of a data set and unpack them to `root`, which is there whole or not at all.

    Raises:
        DataError: it cannot be downloaded, is not what was published, or does not unpack; says what to do instead.
    """
    downloads = root.parent / "downloads"
    try:
        files = [_fetch_one(archive, downloads / f"{name}-{_file_of(archive)}", progress) for archive in data.archives]
    except DownloadError as error:
        raise DataError(f"{error} {by_hand(name, data, root)}") from error
    with new_folder(root) as folder:
        for archive, file in zip(data.archives, files, strict=True):
            if _file_of(archive).endswith((".zip", ".tar.gz", ".tgz", ".tar")):
                unpack(file, folder)
            else:
                (folder / _file_of(archive)).write_bytes(file.read_bytes())
            for inner in archive.inner:
                unpack(folder / inner, (folder / inner).parent)
                (folder / inner).unlink()
    for file in files:
        file.unlink()


def by_hand(name: str, data: PublishedData, root: Path) -> str:
    """What to do without a download, as a sentence."""
    return (
        f"{data.title} is at {data.address} (licence: {data.licence}). Put {data.layout} into {root}, or give the"
        f" folder: {name}:FOLDER"
    )


def unpack(archive: Path, folder: Path, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> None:
    """Unpack a zip or tar into a folder: regular files inside the folder only, within limits.

    Raises:
        DataError: a damaged archive, a link or a device, a path that leads outside, or more than the limits.
    """
    left_bytes, num_files = max_bytes, 0
    try:
        for name, file in _members(archive):
            num_files += 1
            target = folder / _inside(archive, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as out:
                while chunk := file.read(_CHUNK):
                    left_bytes -= len(chunk)
                    if left_bytes < 0 or num_files > max_files:
                        raise DataError(f"{archive}: unpacks to more than {max_bytes:,} bytes or {max_files:,} files")
                    out.write(chunk)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError) as error:
        raise DataError(f"{archive}: cannot be unpacked ({error}); remove it and fetch it again") from error


def _members(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            for info in opened.infolist():
                if not info.is_dir():
                    with opened.open(info) as file:
                        yield info.filename, file
        return
    with tarfile.open(archive) as tar:
        for member in tar:
            if member.isdir():
                continue
            content = tar.extractfile(member) if member.isreg() else None
            if content is None:
                raise DataError(f"{archive}: {member.name!r} is a link or a device, which is not unpacked")
            yield member.name, content


def _inside(archive: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or any(part == ".." or set(part) & set("\\:\0") for part in path.parts):
        raise DataError(f"{archive}: {name!r} leads outside its folder, which is not unpacked")
    return path


def _file_of(archive: Archive) -> str:
    return os.path.basename(urlsplit(archive.address).path)


def _fetch_one(archive: Archive, target: Path, progress: Progress | None) -> Path:
    if not target.exists():
        download(archive.address, target, progress=progress, home="VITRAIL_DATA")
    with target.open("rb") as file:
        found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if found != archive.md5:
        target.unlink()
        raise DownloadError(
            f"{archive.address}: what arrived has the MD5 {found}, not the published {archive.md5}; it was deleted."
        )
    return target
