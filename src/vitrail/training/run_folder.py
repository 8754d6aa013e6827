"""The folder of a run: created once, never overwritten, and described well enough to repeat the run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vitrail.configuration import from_dict, to_dict
from vitrail.errors import ConfigError, RunError
from vitrail.storage import write_file, write_json
from vitrail.training.config import TrainConfig

__all__ = ["create_run_folder", "describe_environment", "describe_run", "lock_run", "read_config", "write_json"]

CONFIG_FILE, COMMAND_FILE, ENVIRONMENT_FILE = "config.json", "command.txt", "environment.json"
METRICS_FILE, LOG_FILE = "metrics.jsonl", "log.txt"
_PACKAGES = ("vitrail", "torch", "numpy", "pillow", "safetensors", "scikit-learn", "simplejpeg")


def create_run_folder(out: Path | None, name: str, parent: Path = Path("runs")) -> Path:
    """Create the folder of a new run.

    Args:
        out: exactly this folder, which must not hold anything yet; None: parent/name, or parent/name-2, -3, ... where
            that is taken, even by a run that starts at the same moment.
        name: of the data; characters that file systems dislike become "-".
    Raises:
        RunError: the folder is taken, or nothing can be written there.
    """
    if out is not None:
        _make(out, taken_is_an_error=True)
        return out
    plain = re.sub(r"[^\w.+-]+", "-", name).strip("-.") or "run"
    number = 1
    while True:
        folder = parent / (plain if number == 1 else f"{plain}-{number}")
        if _make(folder, taken_is_an_error=False):
            return folder
        number += 1


def _make(folder: Path, taken_is_an_error: bool) -> bool:
    """Whether the folder is now ours; True too for an empty one that the user made for the run."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
    except FileExistsError as error:
        if not taken_is_an_error:
            return False
        if not folder.is_dir() or any(folder.iterdir()):
            raise RunError(
                f"{folder}: exists already and is never overwritten; choose another --out,"
                f" or go on with it: vitrail fit --resume {folder}"
            ) from error
    except OSError as error:
        raise RunError(f"{folder}: cannot be created ({error.strerror}); choose a writable place with --out") from error
    require_writable(folder)
    return True


def require_writable(folder: Path) -> None:
    """Raises RunError where no file can be created in `folder`; found out before any work is done."""
    probe = folder / f".writable-{os.getpid()}"
    try:
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"{folder}: cannot be written to ({error.strerror}); choose a writable place with --out"
        ) from error


def describe_run(folder: Path, config: TrainConfig, command: str) -> None:
    """Write config.json (every field), command.txt and environment.json."""
    try:
        write_json(folder / CONFIG_FILE, to_dict(config))
        write_file(folder / COMMAND_FILE, (command + "\n").encode("utf-8", "backslashreplace"))
        write_json(folder / ENVIRONMENT_FILE, describe_environment())
    except OSError as error:
        raise RunError(f"{folder}: cannot be written to ({error.strerror})") from error


def read_config(folder: Path) -> TrainConfig:
    """The config of a run folder, for going on with it or repeating it.

    Raises:
        RunError: no run folder. ConfigError: a config.json with unknown fields or impossible values.
    """
    path = folder / CONFIG_FILE
    try:
        values = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise RunError(
            f"{folder}: not a run folder, it has no {CONFIG_FILE}; a study or a suite goes on with the command that"
            " began it"
        ) from error
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise RunError(f"{path}: not JSON ({error})") from error
    try:
        return from_dict(TrainConfig, values, str(path))
    except ConfigError:
        raise
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def describe_environment() -> dict[str, Any]:
    """What the numbers of a run may depend on beside its config: versions, machine, threads, code."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": _processor(),
        "num_cores": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "accelerators": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "packages": {name: version for name in _PACKAGES if (version := _version(name))},
        "cuda": torch.version.cuda,
        "git_commit": _git_commit(),
        "executable": sys.executable,
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _git_commit() -> str | None:
    """The commit of vitrail's own checkout, with "+" where files differ from it; None where it was installed."""
    here = Path(__file__).resolve().parents[3]
    if not (here / ".git").exists():  # or the commit would be that of whatever project surrounds an installed copy
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(here), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=5).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep a second process from going on with the same run at the same time; released even by a kill.

    Raises:
        RunError: another process holds it.
    """
    try:
        import fcntl
    except ImportError:  # Windows: no such lock, and two runs in one folder are the user's own doing
        yield
        return
    with (folder / ".lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"{folder}: another process is working on this run; wait for it, or stop it") from error
        except OSError:
            pass  # a file system without locks
        yield
