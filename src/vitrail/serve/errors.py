"""What a client is told when something is wrong: a status, a code for programs, a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class ApiError(Exception):
    """An answer that is an error.

    Attributes:
        status: of HTTP.
        code: for programs: "too_large".
        message: what happened and what to do next.
        closes: whether the connection ends with it, because the rest of the request is not wanted.
    """

    status: int
    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)
    closes: bool = False

    def __str__(self) -> str:
        return f"{self.status} {self.code}: {self.message}"


def too_busy(code: str, what: str, retry_after: int) -> ApiError:
    """429, with the seconds after which trying again makes sense."""
    message = f"{what}; try again in {retry_after} s"
    return ApiError(429, code, message, {"Retry-After": str(retry_after)})


def not_ready(state: str) -> ApiError:
    """503 while the model is loading, or once the server is told to end."""
    said = "the model is being loaded" if state == "loading" else "the server is ending and takes no new work"
    return ApiError(503, state, said, {"Retry-After": "2"})
