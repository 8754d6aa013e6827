from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest
from toy_run import Toy

from vitrail.training.run_state import load_latest_checkpoint


def passes_alone(body: str) -> None:
    """Run `body` in a process of its own: in one that has run other tests a SIGTERM, however it was sent, ended now and
    then the process instead of reaching the handler."""
    code = "import signal, time\nfrom vitrail.training.interrupts import Interrupted, Interrupts\n" + textwrap.dedent(
        body
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr or done.returncode


@pytest.mark.parametrize(("number", "exit_code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_remembered_and_the_old_handlers_come_back(number: signal.Signals, exit_code: int) -> None:
    passes_alone(f"""
        number = signal.Signals({int(number)})
        before = signal.getsignal(number)
        with Interrupts() as interrupts:
            signal.raise_signal(number)
            assert interrupts.pending == number
        assert signal.getsignal(number) is before
        assert Interrupted(number).exit_code == {exit_code}
    """)


def test_a_second_ctrl_c_is_a_keyboard_interrupt() -> None:
    passes_alone("""
        with Interrupts() as interrupts:
            signal.raise_signal(signal.SIGTERM)
            assert interrupts.pending == signal.SIGTERM
            try:
                signal.raise_signal(signal.SIGINT)
            except KeyboardInterrupt:
                pass
            else:
                raise AssertionError("it was ignored")
    """)


def test_a_signal_ends_only_the_part_that_may_be_abandoned() -> None:
    passes_alone("""
        reached = []
        with Interrupts() as interrupts:
            with interrupts.abandoning():
                reached.append("abandonable")
                signal.raise_signal(signal.SIGTERM)
                time.sleep(5)
                reached.append("never")
            reached.append("after")
            assert interrupts.pending == signal.SIGTERM
        assert reached == ["abandonable", "after"]
    """)


def test_outside_the_main_thread_training_leaves_signals_alone() -> None:
    before = signal.getsignal(signal.SIGINT)
    steps: list[int] = []
    thread = threading.Thread(target=lambda: steps.append(Toy().run().step))
    thread.start()
    thread.join()
    assert steps == [10]
    assert signal.getsignal(signal.SIGINT) is before


_WITH_WORKERS = """
import sys
from dataclasses import replace
from pathlib import Path
from toy_run import CONFIG, Toy
from vitrail.data.config import LoaderConfig
from vitrail.training.config import ScheduleConfig
from vitrail.training.events import SilentSink
from vitrail.training.interrupts import Interrupted

class Step(SilentSink):
    def metrics(self, step, values):
        if step == 3:
            print("running", flush=True)

if __name__ == "__main__":
    schedule = ScheduleConfig(epochs=100_000)
    config = replace(CONFIG, loader=LoaderConfig(num_workers=1), schedule=schedule, checkpoint_every_steps=None)
    try:
        Toy(config, Path(sys.argv[1])).run(Step(), evaluate=None)
    except Interrupted as interrupted:
        sys.exit(interrupted.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no process groups to signal")
def test_a_terminals_ctrl_c_may_reach_the_loaders_workers_too(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_WITH_WORKERS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    command = [sys.executable, str(program), str(tmp_path / "run")]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "running\n"
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    checkpoint, _ = load_latest_checkpoint(tmp_path / "run")
    assert checkpoint is not None
    assert checkpoint.step >= 3
