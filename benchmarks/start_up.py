"""How long a user waits before anything happens."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.measure import Row, Timing, limit_row, time_command, vitrail


def _detail(timing: Timing) -> str:
    return f" ({timing.spread[0]:.2f} to {timing.spread[1]:.2f})"


def measure_start_up(data: Path | None) -> list[Row]:
    bare = time_command([sys.executable, "-c", "pass"], runs=9)
    helps = time_command(vitrail("--help"), runs=9)
    imports = time_command([sys.executable, "-c", "import vitrail"], runs=9)
    return [
        Row("python -c pass, whole process", f"{bare.seconds:.2f} s{_detail(bare)}"),
        limit_row("vitrail --help, whole process", helps.seconds, 0.3, "s", _detail(helps)),
        limit_row("import vitrail, whole process", imports.seconds, 0.15, "s", _detail(imports)),
    ]
