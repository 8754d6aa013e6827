"""The command `vitrail`: finds the command's file, runs it, and turns what goes wrong into a line and an exit code."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Callable, Sequence

from vitrail import __version__
from vitrail.errors import ConfigError, VitrailError, did_you_mean

# This module and the one of errors are all that `vitrail --help` imports.
Run = Callable[[list[str]], int]


def _fit() -> Run:
    from vitrail.cli.fit import run

    return run


def _predict() -> Run:
    from vitrail.cli.predict import run

    return run


def _embed() -> Run:
    from vitrail.cli.embed import run

    return run


def _evaluate() -> Run:
    from vitrail.cli.evaluate import run

    return run


def _check() -> Run:
    from vitrail.cli.check import run

    return run


def _train() -> Run:
    from vitrail.cli.train import run

    return run


def _inspect() -> Run:
    from vitrail.cli.inspect import run

    return run


def _serve() -> Run:
    from vitrail.cli.serve import run

    return run


def _models() -> Run:
    from vitrail.cli.models import run

    return run


def _convert() -> Run:
    from vitrail.cli.convert import run

    return run


def _study() -> Run:
    from vitrail.cli.study import run

    return run


def _probe() -> Run:
    from vitrail.cli.probe import run

    return run


def _suite() -> Run:
    from vitrail.cli.suite import run

    return run


def _dedup() -> Run:
    from vitrail.cli.dedup import run

    return run


def _plan() -> Run:
    from vitrail.cli.plan import run

    return run


def _bench() -> Run:
    from vitrail.cli.bench import run

    return run


COMMANDS: dict[str, tuple[str, Callable[[], Run]]] = {
    "fit": ("turn a folder of pictures into a trained, checked classifier", _fit),
    "predict": ("name what is in pictures, with probabilities", _predict),
    "embed": ("write feature vectors of pictures, for search, clustering or your own classifier", _embed),
    "inspect": ("show where a Vision Transformer looks, and what it has learnt to look at, as a page", _inspect),
    "serve": ("open a page where people drop pictures, and an API for programs", _serve),
    "evaluate": ("measure a trained model on other pictures", _evaluate),
    "probe": ("say whether a backbone is good for your pictures, before any training", _probe),
    "check": ("say what is wrong with a data set, before anyone trains on it", _check),
    "dedup": ("name the pictures of a test set that are in the training set too", _dedup),
    "train": ("run a recipe by name, with any of its fields changed", _train),
    "convert": ("read weights of any published layout and write them in another, with proof", _convert),
    "study": ("compare models that differ in one thing, on your own pictures", _study),
    "suite": ("score a backbone on VTAB-1k or the paper's transfer sets, beside the published figures", _suite),
    "plan": ("say what a run needs before it starts: memory, FLOPs, hours, cost", _plan),
    "bench": ("say how fast a model answers on this machine, and what holds it back", _bench),
    "models": ("list the Vision Transformers that can be built, or the public weights", _models),
}

_HELP = """\
Vitrail: Vision Transformers, from a folder of pictures to a trained, checked and usable classifier.

usage: vitrail COMMAND [ARGUMENTS]

{commands}

Start with:
  vitrail fit PHOTOS                             PHOTOS/<class>/*.jpg, or a .csv with path,label
  vitrail predict runs/photos holiday/*.jpg

  vitrail COMMAND --help   the arguments of a command
  --debug                  with any command: show a traceback when something fails
  --version                {version}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 failure, 2 usage, 130 or 143 interrupted.

    Args:
        arguments: None: this process is the command, and ends with it.
    """
    if arguments is None:
        codes: list[int] = []
        # Registered first, so it runs last: when threads have ended and all else that the exit asks for is done.
        atexit.register(_leave, codes)
        codes.append(main(sys.argv[1:]))
        return codes[0]
    arguments = list(arguments)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    is_debug = "--debug" in arguments[:end]
    arguments = [argument for argument in arguments[:end] if argument != "--debug"] + arguments[end:]
    try:
        code = _run(arguments)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`); Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        if is_debug:
            raise
        return _fail("interrupted", 128 + signal.SIGINT)
    except Exception as error:
        if is_debug:
            raise
        return _explain(error)


def _leave(codes: list[int]) -> None:
    """End the process. Python would first take apart all that torch has made, for half a second.

    Args:
        codes: the exit code; empty where `main` raised, and Python ends the process itself.
    """
    if codes:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(codes[0])


def _run(arguments: list[str]) -> int:
    if not arguments:
        sys.stderr.write(_help())
        return 2
    name, *rest = arguments
    if name in ("-h", "--help", "help"):
        sys.stdout.write(_help())
        return 0
    if name in ("--version", "-V"):
        sys.stdout.write(f"{__version__}\n")
        return 0
    if name not in COMMANDS:
        kind = "option" if name.startswith("-") else "command"
        suggestion = did_you_mean(name, COMMANDS) or f" The commands are {', '.join(COMMANDS)}."
        return _fail(f"unknown {kind} '{name}'.{suggestion} See `vitrail --help`.", 2)
    _, load = COMMANDS[name]
    return load()(rest)


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {summary}" for name, (summary, _) in COMMANDS.items()]
    return _HELP.format(commands="\n".join(lines), version=__version__)


def _explain(error: Exception) -> int:
    """One or two lines for what went wrong, and the exit code."""
    signal_number = getattr(error, "signal_number", None)
    if signal_number is not None:  # training.interrupts.Interrupted, which is not imported for a --help
        return _fail(str(error), 128 + signal_number)
    if isinstance(error, VitrailError):
        is_usage = isinstance(error, ConfigError) or getattr(error, "exit_code", 1) == 2
        return _fail(str(error), 2 if is_usage else 1)
    if isinstance(error, OSError) and error.strerror:
        where = f": {error.filename}" if error.filename is not None else ""
        return _fail(
            f"{error.strerror}{where}. Mend that and run the command again (--debug shows where it failed).", 1
        )
    if isinstance(error, MemoryError):
        return _fail("not enough memory. Try a smaller --batch-size or fewer loader workers.", 1)
    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return _fail(
        f"this is a bug in vitrail: {what}\nRun the command again with --debug to see where, and report it.", 1
    )


def _fail(message: str, code: int) -> int:
    from vitrail.cli.terminal import printable

    sys.stderr.write(f"vitrail: {printable(message)}\n")
    return code
