"""The command as a process: it leaves at once, with its exit code and with everything written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def vitrail(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vitrail", *arguments], capture_output=True, text=True, check=False, **options
    )  # type: ignore[call-overload,no-any-return]


def test_exit_codes_and_both_streams_come_out_whole(tmp_path: Path) -> None:
    done = vitrail("models", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.rstrip().endswith("]")
    done = vitrail("predict", str(tmp_path / "nowhere"), "a.jpg")
    assert done.returncode == 1
    assert done.stderr.startswith("vitrail: ")
    assert vitrail("predict", "--colour").returncode == 2
    assert vitrail("predict", "--help").returncode == 0


def test_what_was_registered_for_the_exit_still_runs() -> None:
    program = "import atexit, sys; from vitrail.cli.main import main; sys.argv = ['vitrail', 'predict']\n"
    program += "code = main(); atexit.register(print, 'last'); sys.exit(code)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.stdout.splitlines()[-1] == "last"
    assert done.returncode == 2
