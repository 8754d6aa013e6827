"""A figure of a page that loads nothing, with what can be taken along of it: its numbers, and a picture of it."""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np

Rows = Sequence[Sequence[object]]


def exhibit(file: str, body: str, rows: Rows, more: Sequence[tuple[str, Rows]] = ()) -> str:
    """A figure, and below it links that save what is behind it.

    The picture is drawn by the script of the page from what is shown, so its button stays hidden where none runs.

    Args:
        file: what it is saved as, without an ending.
        body: HTML.
        rows: the numbers, the first row the names of the columns.
        more: (file, rows) of further tables.
    """
    links = "".join(
        f'<a download="{name}.csv" href="{_csv(table)}">{name}.csv</a>' for name, table in [(file, rows), *more]
    )
    button = f'<button type="button" data-save="{file}.png" hidden>{file}.png</button>'
    return f'<div class="exhibit">{body}<p class="take">{links}{button}</p></div>'


def _csv(rows: Rows) -> str:
    lines = "\r\n".join(",".join(_cell(value) for value in row) for row in rows) + "\r\n"
    data = base64.b64encode(lines.encode("utf-8", "backslashreplace")).decode("ascii")
    return f"data:text/csv;base64,{data}"


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
