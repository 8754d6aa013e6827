"""A program: stops toy runs in every way, resumes them, and prints what came out as JSON.

    python kill_and_resume.py FOLDER

One process imports torch and forks a child for every run, which is a hundred times faster than as many interpreters.
torch's threads are not started before the fork (one thread), so the children are sound.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # torch's optimizers import it at first use: once here, not in every child
from torch import nn
from toy_run import Toy

from vitrail.storage import sha256_of
from vitrail.training.events import SilentSink
from vitrail.training.interrupts import Interrupted


class SignalAt(SilentSink):
    """Sends this process a signal when the given line of metrics is told."""

    def __init__(self, step: int, number: int, validation: bool = False, times: int = 1) -> None:
        self.step, self.number, self.validation, self.times = step, number, validation, times

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        if step == self.step and self.validation == ("validation_loss" in values):
            for _ in range(self.times):
                os.kill(os.getpid(), self.number)


def in_child(work: Callable[[], Any]) -> int:
    """Exit status of `work` in a process of its own; minus the number of the signal it died of."""
    child = os.fork()
    if child == 0:
        try:
            work()
            os._exit(0)
        except Interrupted as interrupted:
            os._exit(interrupted.exit_code)
        except KeyboardInterrupt:
            os._exit(99)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run leaves behind and that must not depend on where it was stopped."""
    checkpoints = sorted((folder / "checkpoints").iterdir())
    state = json.loads((checkpoints[-1] / "state.json").read_bytes())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "checkpoints": [path.name for path in checkpoints],
        "tensors": {path.name: sha256_of(path) for path in sorted(checkpoints[-1].glob("*.safetensors"))},
        "best": state["best"],
        "evaluated_step": state["evaluated_step"],
        "metrics": [{name: value for name, value in line.items() if name != "seconds"} for line in lines],
    }


def die_at_disk_operation(number: int) -> None:
    """Kill this process just before its `number`-th call that puts something on the disk."""
    count = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments)

        return call

    os.fsync, os.rename, os.replace = counted(os.fsync), counted(os.rename), counted(os.replace)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    toy = Toy()
    num_steps = toy.plan.total_steps
    stops: dict[str, Callable[[], Any]] = {"undisturbed": toy.run}

    def stop_at(step: int, number: int, **options: Any) -> Callable[[], Any]:
        return lambda: toy.run(SignalAt(step, number, **options))

    def signal_in_evaluation() -> None:
        def evaluate(model: nn.Module) -> Mapping[str, float]:
            os.kill(os.getpid(), signal.SIGTERM)
            return toy.evaluate(model)

        toy.run(evaluate=evaluate)

    def disk(number: int) -> Callable[[], Any]:
        def run() -> None:
            die_at_disk_operation(number)
            toy.run()

        return run

    for step in range(1, num_steps + 1):
        stops[f"kill after step {step}"] = stop_at(step, signal.SIGKILL)
    for step in (2, num_steps):
        stops[f"kill after the evaluation of step {step}"] = stop_at(step, signal.SIGKILL, validation=True)
    for number in range(1, 45, 4):
        stops[f"kill at disk operation {number}"] = disk(number)
    for step in (1, 4, num_steps):
        stops[f"SIGTERM in step {step}"] = stop_at(step, signal.SIGTERM)
        stops[f"SIGINT in step {step}"] = stop_at(step, signal.SIGINT)
    stops["SIGTERM in the first evaluation"] = signal_in_evaluation
    stops["two SIGINTs in step 3"] = stop_at(3, signal.SIGINT, times=2)

    results = {}
    for number, (name, run) in enumerate(stops.items()):
        toy.folder = out / str(number)
        first = in_child(run)
        checkpoints = toy.folder / "checkpoints"
        saved = sorted(path.name for path in checkpoints.iterdir()) if checkpoints.exists() else []
        resumed = in_child(toy.run)
        results[name] = {"exit": first, "saved": saved, "resumed_exit": resumed, **outcome(toy.folder)}
    print(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
