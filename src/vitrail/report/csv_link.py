"""Tables behind a figure, to take along from a page that loads nothing."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np


def csv_link(file: str, rows: Sequence[Sequence[object]]) -> str:
    """A link that saves `rows`, the first of them the names of the columns, as `file`."""
    lines = "\r\n".join(",".join(_cell(value) for value in row) for row in rows) + "\r\n"
    data = base64.b64encode(lines.encode("utf-8", "backslashreplace")).decode("ascii")
    return f'<p><a download="{file}" href="data:text/csv;base64,{data}">{file}</a></p>'


def _cell(value: object) -> str:
    shown = str(value)
    if (
        shown[:1] in ("=", "+", "-", "@", "\t")
        and not isinstance(value, int | float | np.integer)
        and not _is_number(shown)
    ):
        shown = f"'{shown}"  # a table program would take it for a formula
    return '"' + shown.replace('"', '""') + '"' if any(c in shown for c in ',"\r\n') else shown


def _is_number(shown: str) -> bool:
    try:
        float(shown)
    except ValueError:
        return False
    return True
