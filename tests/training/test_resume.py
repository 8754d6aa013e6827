"""A run that is stopped anywhere and resumed equals, bit for bit, one that was left alone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

Results = dict[str, dict[str, Any]]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    program = Path(__file__).with_name("kill_and_resume.py")
    out = tmp_path_factory.mktemp("runs")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(program), str(out)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_resumed_run_equals_the_undisturbed_one(results: Results) -> None:
    expected = results["undisturbed"]
    assert expected["exit"] == 0
    for name, result in results.items():
        assert result["resumed_exit"] == 0, name
        for part in ("tensors", "metrics", "best", "evaluated_step"):
            assert result[part] == expected[part], f"{name}: {part}"


def test_runs_were_killed_at_every_step_and_while_saving(results: Results) -> None:
    killed = {name: result for name, result in results.items() if name.startswith("kill")}
    steps = {line["step"] for line in results["undisturbed"]["metrics"]}
    assert {f"kill after step {step}" for step in steps} <= set(killed)
    assert all(result["exit"] == -signal.SIGKILL for result in killed.values())
    # Some died with a half-written checkpoint beside whole ones.
    assert any(any(name.startswith(".") for name in result["saved"]) for result in killed.values())


def test_only_as_many_checkpoints_as_asked_are_kept(results: Results) -> None:
    for name, result in results.items():
        whole = [name for name in result["checkpoints"] if not name.startswith(".")]
        assert whole == ["step-00000008", "step-00000010"], name


def test_sigterm_and_ctrl_c_finish_the_step_and_save(results: Results) -> None:
    for name, exit_code in (("SIGTERM", 143), ("SIGINT", 130)):
        for step in (1, 4, 10):
            result = results[f"{name} in step {step}"]
            assert result["exit"] == exit_code
            assert result["saved"][-1] == f"step-{step:08d}"


def test_a_signal_abandons_an_evaluation_and_the_resumed_run_makes_up_for_it(results: Results) -> None:
    result = results["SIGTERM in the first evaluation"]
    assert result["exit"] == 143
    assert result["saved"] == ["step-00000002"]


def test_a_second_ctrl_c_ends_at_once(results: Results) -> None:
    result = results["two SIGINTs in step 3"]
    assert result["exit"] == 99  # KeyboardInterrupt
    assert result["saved"] == ["step-00000002"]  # nothing saved for it


def test_the_toy_run_learns_and_keeps_its_best(results: Results) -> None:
    undisturbed = results["undisturbed"]
    evaluations = [line for line in undisturbed["metrics"] if "validation_loss" in line]
    best = max(evaluations, key=lambda line: (line["validation_accuracy"], -line["validation_loss"]))
    assert undisturbed["best"]["step"] == best["step"]
    assert undisturbed["best"]["metrics"]["loss"] == best["validation_loss"]
