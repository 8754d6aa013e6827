"""What every run does between its preparation and its first update."""

from __future__ import annotations

from pathlib import Path

import torch

from vitrail.tasks.floor import Floor
from vitrail.tasks.prepare import write_data_record
from vitrail.tasks.run import Run
from vitrail.tasks.timing import Stopwatch, plan_minutes
from vitrail.training.precision import run_trial
from vitrail.training.run_folder import describe_run

TRIAL_SECONDS = 3.0


def begin(
    run: Run, folder: Path, floor: Floor | None, watch: Stopwatch, command: str, minutes: float | None = None
) -> None:
    """Settle what a measured trial decides, and write down everything that the run needs to go on or be repeated.

    Args:
        floor: None where the run has no labels to be right about.
    """
    with watch.phase("trial"):
        trial = run_trial(run.state.objective, run.loader, run.config, TRIAL_SECONDS)
        torch.set_num_threads(trial.num_threads)
        evaluation_seconds = run.time_evaluation(trial.precision)
    config = trial.settle(run.config)
    if minutes is not None:
        with watch.phase("trial"):
            # The test is computed in float32, which may take several times as long as a validation in bfloat16.
            is_same = trial.precision == "float32"
            test_seconds = evaluation_seconds if is_same else run.time_evaluation()
        available = 60 * minutes - watch.total()
        config = plan_minutes(config, run, trial.seconds_per_step, evaluation_seconds, test_seconds, available)
    run.config = config
    plan = run.plan
    evaluations = plan.total_steps // plan.evaluate_every_steps + 1
    seconds = plan.total_steps * trial.seconds_per_step + evaluations * evaluation_seconds
    threads = "1 thread" if config.num_threads == 1 else f"{config.num_threads} threads"
    how = f"{config.precision} with fused blocks" if config.fused_blocks else config.precision
    run.events.note(
        f"training: {plan.total_steps:,} steps of {config.batch_size} pictures in {how} on {threads},"
        f" about {max(1, round(seconds / 60))} min"
    )
    describe_run(folder, config, command)
    write_data_record(folder, run.prepared, [] if floor is None else floor.to_json(run.prepared))
