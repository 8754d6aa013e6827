"""What the C library does with freed memory: glibc's choices suit neither checkpointing nor the usual update."""

from __future__ import annotations

import ctypes
import sys

# malloc.h of glibc
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_SMALL, _LARGE = 1 << 20, 32 << 20  # bytes; glibc allows no larger threshold


def give_back_freed_memory() -> None:
    """From now on this process gives every freed block above 1 MiB back at once, where the C library is glibc.

    glibc keeps blocks of up to 32 MiB for later, and before version 2.38 an aligned one, as torch asks for, does not
    fit where one of the same size was freed. With checkpointing, which frees and asks for the same sizes block by
    block, nearly nothing is used again: updates of ViT-Ti/16 with 32 pictures took 720 MiB, and 215 with this (peaks,
    over Python and torch). The system clears each new block: 20 % more time there, on a busy machine. Without
    checkpointing 16 pictures would take 30 to 50 % more time for 5 % less memory, so it is left off.
    """
    _set(_M_TRIM_THRESHOLD, _SMALL)
    _set(_M_MMAP_THRESHOLD, _SMALL)


def keep_freed_memory() -> None:
    """From now on this process keeps freed blocks of up to 32 MiB for the next ones, where the C library is glibc.

    Otherwise each update asks the system anew for its largest blocks, which are cleared page by page: 16 % of the
    processor's time of ViT-S/16's updates with 16 pictures, and 7 to 10 % of those of a 32-pixel ViT (width 192, 12
    blocks, 256 pictures), for 0 to 3 % more memory. With convolutions it is left off: R+ViT-Ti/16 and BiT-R26 took 5 %
    more memory and no less time.
    """
    _set(_M_MMAP_THRESHOLD, _LARGE)
    _set(_M_TRIM_THRESHOLD, -1)


def _set(parameter: int, value: int) -> None:
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "mallopt"):
            library.mallopt(parameter, value)
