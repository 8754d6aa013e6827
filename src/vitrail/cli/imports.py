"""Importing torch without Python's garbage collector, which looks through what comes in a thousand times, in vain."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Keep the collector out of the block, and what the block leaves behind out of its later rounds.

    Importing torch took 1.16 s of processor time so, 1.46 s without (medians of 5, a busy machine).
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
