"""Importing torch without Python's garbage collector, which looks through what comes in a thousand times, in vain."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def heavy_imports() -> Iterator[None]:
    """Keep the collector out of the block, and what the block leaves behind out of its later rounds.

    Importing torch takes a quarter less time so.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()
