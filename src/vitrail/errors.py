"""The errors a user meets. Each message says what happened, where (file or field) and what to do next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class VitrailError(Exception):
    """Something the user can mend. Surfaces print its message without a traceback."""


class ConfigError(VitrailError, ValueError):
    """A configuration that cannot be: the message names the field and the values."""


class DataError(VitrailError):
    """A data set that cannot be used as it is: the message names the file, the class or the split."""


class ImageError(VitrailError):
    """One picture that cannot be read: `name` is the file, `cause` why, as one short clause."""

    def __init__(self, name: str, cause: str) -> None:
        super().__init__(f"{name}: {cause}")
        self.name = name
        self.cause = cause

    def __reduce__(self) -> tuple[type[ImageError], tuple[str, str]]:
        # Loader workers send errors home; the default would call __init__ with the joined message alone.
        return type(self), (self.name, self.cause)


class WeightsError(VitrailError):
    """Weights or a bundle that cannot be trusted or do not fit: the message names the file and the tensor."""


class DownloadError(WeightsError, DataError):
    """A file, of weights or of pictures, that cannot be fetched: the message names the address and the reason."""


class RunError(VitrailError):
    """A run folder that cannot be created, resumed or trusted."""


class NonFiniteError(VitrailError):
    """A loss or gradient that is not finite; raised before the update that would have destroyed the weights."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`" Did you mean 'x'?"` for the known name nearest to `name`, or an empty string where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean '{near[0]}'?" if near else ""
