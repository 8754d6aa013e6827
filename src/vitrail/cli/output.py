"""Answers on stdout: JSON for programs, aligned columns for people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

from vitrail.cli.terminal import printable


def write_json(value: Any) -> None:
    """One JSON document. Names stay readable where stdout can write them all, and are escaped elsewhere."""
    is_utf8 = (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"
    # A lone surrogate (a file name that is no UTF-8) becomes \udcff on the way out: in JSON, the right escape.
    write_text(json.dumps(value, indent=2, ensure_ascii=not is_utf8, allow_nan=False) + "\n")


def write_text(text: str) -> None:
    """`text` as it is; what stdout's encoding lacks is written as a backslash escape."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def write_line(text: str = "") -> None:
    """One line for people: characters that would steer the terminal are escaped."""
    write_text(printable(text) + "\n")


def write_columns(rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> None:
    """Rows of cells in columns as wide as their widest cell; the columns in `right` are aligned right."""
    cells = [[printable(cell).replace("\n", "\\n") for cell in row] for row in rows]
    if not cells:
        return
    widths = [max(_width(row[column]) for row in cells) for column in range(len(cells[0]))]
    for row in cells:
        padded = [
            " " * (width - _width(cell)) + cell if column in right else cell + " " * (width - _width(cell))
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        write_line("  ".join(padded).rstrip())


def percent(share: float | None) -> str:
    """ "83.1 %", or a dash for what cannot be said."""
    return "-" if share is None or share != share else f"{100 * share:.1f} %"


def _width(text: str) -> int:
    """Cells of a terminal: Chinese characters take two, combining marks none."""
    if text.isascii():
        return len(text)
    from rich.cells import cell_len

    return cell_len(text)
