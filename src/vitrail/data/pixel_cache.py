"""Decoded pictures on the disk, for all workers and later runs: what a loader's `cache` "disk" is.

A file a picture and scale, named after the SHA-256 of the picture's bytes and of all else that decides its pixels: a
picture that changes has another name, and the batches are the same bit for bit as without. A file gets its name when it
is whole, so a kill leaves none that is half; a checksum is compared when a process first reads one, so a disk that lost
some of it is noticed, and the picture decoded again. Several processes may write at once.

The folder is bounded: what no run has used since this one began gives way, and where nothing does, or the disk is full,
the rest is decoded each time, as without.
"""

from __future__ import annotations

import contextlib
import hashlib
import math
import os
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path

import numpy as np
from PIL import Image

from vitrail.data.images import Picture
from vitrail.data.jpeg import DECODERS
from vitrail.data.scratch import scratch
from vitrail.errors import DataError
from vitrail.storage import cache_folder

_HEADER = struct.Struct("<16s3II")  # what it is; height, width, channels; the checksum of the pixels
_MAGIC = b"vitrail-pixels-1"
_COUNT_AGAIN = 0.02  # of the most bytes: after so many written ones the folder is looked through, as others write too
_ABANDONED_SECONDS = 3600  # after which an unfinished file belongs to nobody


@dataclass
class PixelCache:
    """Files below `folder`, of `max_bytes` in all. Picklable: each worker has its own, on the same folder."""

    folder: Path
    max_bytes: int
    began: float = field(default_factory=time.time)
    _checked: set[bytes] = field(default_factory=set)  # names whose checksum this process has compared
    _left: int = 0  # bytes that may be written before the folder is looked through again
    _is_full: bool = False

    @staticmethod
    def open(max_bytes: int, folder: Path | None = None) -> PixelCache:
        """Raises DataError where the folder (None: "pixels" in the cache folder) cannot be written to."""
        folder = cache_folder("pixels") if folder is None else folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            probe = folder / f".{os.getpid()}.partial"
            probe.touch()
            probe.unlink()
        except OSError as error:
            raise DataError(
                f"{folder}: decoded pictures cannot be kept there ({error.strerror}); name another folder with "
                "VITRAIL_CACHE, or leave --loader.cache out"
            ) from error
        return PixelCache(folder, max_bytes)

    def keep(self, picture: Picture) -> Picture:
        """The same picture, decoded at most once at each scale."""
        return picture if picture.data is None else _CachedPicture(picture, picture.data, self)

    def read(self, name: bytes, size: tuple[int, int, int], rows: slice = slice(None)) -> np.ndarray | None:
        """Rows of a picture of (height, width, channels), in memory that the next call of this thread may write to.

        Returns:
            None where it is not here, or not whole.
        """
        path = self._path(name)
        try:
            with open(path, "rb", buffering=0) as file:
                header = file.read(_HEADER.size)
                if os.fstat(file.fileno()).st_size != _HEADER.size + math.prod(size):
                    return None
                *found, checksum = _HEADER.unpack(header)
                if found != [_MAGIC, *size]:
                    return None
                if name in self._checked:
                    first, last, _ = rows.indices(size[0])
                    file.seek(first * size[1] * size[2], os.SEEK_CUR)
                    return _read_into(file, (last - first, *size[1:]))
                pixels = _read_into(file, size)
                if pixels is None or zlib.crc32(pixels.data) != checksum:
                    return None
            self._checked.add(name)
            os.utime(path)  # in use since now
            return pixels[rows]
        except (OSError, struct.error):
            return None

    def write(self, name: bytes, pixels: np.ndarray) -> None:
        """Keep (height, width, channels) uint8, contiguous, where there is room."""
        size = _HEADER.size + pixels.nbytes
        if self._is_full or not self._has_room(size):
            return
        path = self._path(name)
        partial = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.partial")
        try:
            path.parent.mkdir(exist_ok=True)
            with partial.open("wb") as file:
                file.write(_HEADER.pack(_MAGIC, *pixels.shape, zlib.crc32(pixels.data)))
                file.write(pixels.data)
            os.replace(partial, path)
            self._left -= size
        except OSError:
            self._is_full = True
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)

    def _path(self, name: bytes) -> Path:
        text = name.hex()
        return self.folder / text[:2] / text[2:]

    def _has_room(self, size: int) -> bool:
        if self._left < size:
            files = sorted(self._files())
            used = sum(file[1] for file in files)
            for last_use, bytes_of, path in files:
                if used + size <= self.max_bytes * (1 - _COUNT_AGAIN) or last_use >= self.began:
                    break
                with contextlib.suppress(OSError):
                    os.unlink(path)
                    used -= bytes_of
            self._left = min(max(int(self.max_bytes * _COUNT_AGAIN), size), self.max_bytes - used)
            self._is_full = self._left < size
        return not self._is_full

    def _files(self) -> Iterator[tuple[float, int, str]]:
        """(last use, bytes, path) of every file; unfinished ones that nobody writes any more are removed."""
        for shard in os.scandir(self.folder):
            if not shard.is_dir():
                continue
            for file in os.scandir(shard):
                with contextlib.suppress(OSError):  # another process may remove it meanwhile
                    status = file.stat()
                    if file.name.startswith(".") and time.time() - status.st_mtime > _ABANDONED_SECONDS:
                        os.unlink(file)
                    else:
                        yield status.st_mtime, status.st_size, file.path


class _CachedPicture(Picture):
    def __init__(self, picture: Picture, data: bytes, cache: PixelCache) -> None:
        self.name, self.size, self.format, self.mode = picture.name, picture.size, picture.format, picture.mode
        self._picture, self._cache = picture, cache
        self._content = hashlib.sha256(data).digest()

    def _factor(self, at_least: tuple[int, int] | None) -> int:
        return self._picture._factor(at_least)

    def image(self, at_least: tuple[int, int] | None = None, num_channels: int = 3) -> Image.Image:
        factor = self._factor(at_least)
        name, size = self._name(factor, num_channels), self._size(factor, num_channels)
        pixels = self._cache.read(name, size)
        if pixels is not None:
            return Image.fromarray(pixels[:, :, 0] if num_channels == 1 else pixels)
        image = self._picture.image(at_least, num_channels)
        if (image.height, image.width) == size[:2]:
            self._cache.write(name, np.ascontiguousarray(image).reshape(size))
        return image

    def region(self, box: tuple[int, int, int, int], num_channels: int = 3) -> np.ndarray:
        left, top, right, bottom = box
        pixels = self._cache.read(self._name(1, num_channels), self._size(1, num_channels), slice(top, bottom))
        return super().region(box, num_channels) if pixels is None else pixels[:, left:right]

    def _size(self, factor: int, num_channels: int) -> tuple[int, int, int]:
        height, width = self.size
        return -(-height // factor), -(-width // factor), num_channels

    def _name(self, factor: int, num_channels: int) -> bytes:
        return hashlib.sha256(self._content + f"{DECODERS} {factor} {num_channels}".encode()).digest()[:20]


def _read_into(file: FileIO, shape: tuple[int, int, int]) -> np.ndarray | None:
    pixels = scratch("cached", shape)
    return pixels if file.readinto(pixels.data) == pixels.nbytes else None
