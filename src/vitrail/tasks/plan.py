"""What a run needs before anything starts: parameters, FLOPs, memory, steps, hours, cost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vitrail.data.sources.base import Source
from vitrail.errors import ConfigError, did_you_mean
from vitrail.models.kinds import ModelConfig, count_macs, count_parameters
from vitrail.objectives.config import SupervisedConfig
from vitrail.training.config import EVALUATION_BATCH, TrainConfig
from vitrail.training.schedule import make_plan

if TYPE_CHECKING:
    from vitrail.training.memory import RunMemory

Precision = Literal["float32", "bfloat16"]
HERE = "here"
# A backward pass is two forward ones: the gradient of the input and that of the weights.
_PASSES = 3
# The driver, the libraries' kernels and fragmentation take some of an accelerator's memory: the rest is for the run.
_USABLE = 0.9


@dataclass(frozen=True)
class Device:
    """An accelerator by its makers' figures: dense products, without sparsity."""

    name: str
    gigabytes: float  # 1e9 bytes
    teraflops: dict[Precision, float]  # 1e12 a second; bfloat16 is missing where the device has none


DEVICES = {
    device.name: device
    for device in (
        # NVIDIA A100 data sheet: float32 without TF32, bfloat16 on tensor cores.
        Device("A100-40GB", 40, {"float32": 19.5, "bfloat16": 312}),
        Device("A100-80GB", 80, {"float32": 19.5, "bfloat16": 312}),
        # NVIDIA H100 and H200 data sheets, SXM; bfloat16 is stated as 1,979 with sparsity: half of it.
        Device("H100", 80, {"float32": 67, "bfloat16": 989}),
        Device("H200", 141, {"float32": 67, "bfloat16": 989}),
        # NVIDIA V100 data sheet, SXM2; its tensor cores know float16 alone.
        Device("V100", 16, {"float32": 15.7}),
        # NVIDIA T4 data sheet; likewise.
        Device("T4", 16, {"float32": 8.1}),
        # NVIDIA Ada architecture paper; bfloat16 with sums in float32.
        Device("RTX-4090", 24, {"float32": 82.6, "bfloat16": 165.2}),
        # Google Cloud TPU documentation: a v3 chip has 123 teraFLOPs and 32 GB in two cores.
        Device("TPUv3-core", 16, {"bfloat16": 61.5}),
    )
}


@dataclass(frozen=True)
class PlanResult:
    device: str
    num_devices: int
    precision: Precision
    parameters: int
    step_flops: float  # of one update, all devices together; recomputed blocks not counted
    total_steps: int
    steps_per_epoch: int
    batch_size: int
    accumulation_steps: int
    checkpointing: bool
    exaflops: float  # of the run, as Dosovitskiy et al. 2021, table 6, counts
    memory: RunMemory  # of one device
    memory_process: int  # bytes around it here, of Python, torch and all that a run loads; 0 for a named device
    memory_worker: int  # likewise, of each of the loader's processes; 0 where there are none
    memory_needed: int  # bytes of one device at the most memory-hungry moment, the process around it included
    memory_available: int
    remedy: str | None  # what would fit, where this does not; None where it fits
    seconds_per_step: float
    hours: float
    hours_by_part: dict[str, float]
    cost: float | None
    how: str  # where the time comes from

    @property
    def fits(self) -> bool:
        return self.memory_needed <= self.memory_available


def training_flops(model: ModelConfig) -> int:
    """FLOPs of one picture's forward and backward pass: 3 passes of 2 FLOPs a multiply-add."""
    return 2 * _PASSES * count_macs(model)


def run_exaflops(model: ModelConfig, num_pictures: float) -> float:
    """FLOPs of training on so many pictures, repetitions counted, in 1e18.

    With 303e6 pictures an epoch this is table 6 of Dosovitskiy et al. 2021 ("exaFLOPs"): within 2 % for every
    ViT, 3 % for the hybrids, 3 to 4 % above for the ResNets.
    """
    return training_flops(model) * num_pictures / 1e18


def get_device(name: str) -> Device:
    """Raises ConfigError for a name that is not in `DEVICES`, with the nearest one that is."""
    if name not in DEVICES:
        known = [HERE, *DEVICES]
        raise ConfigError(f"unknown device '{name}'.{did_you_mean(name, known)} Known are {', '.join(known)}.")
    return DEVICES[name]


def plan(
    config: TrainConfig,
    num_pictures: int,
    on: str = HERE,
    *,
    num_devices: int = 1,
    num_validation: int = 0,
    num_test: int = 0,
    source: Source | None = None,
    utilization: float = 0.4,
    price: float | None = None,
) -> PlanResult:
    """Count what `config` needs on `num_pictures` training pictures.

    Args:
        on: "here", where a few real updates are timed, or a name of `DEVICES`.
        num_devices: that share each batch.
        num_validation: pictures of each evaluation.
        num_test: pictures of the last one.
        source: the pictures to time updates with here; None: made-up ones.
        utilization: share of a named device's peak that training reaches.
        price: of one device for an hour.
    Raises:
        ConfigError: an unknown device, a precision it does not have, or numbers out of range.
    """
    _check(config, num_pictures, on, num_devices, utilization, price)
    schedule = make_plan(config, max(1, num_pictures // config.batch_size))
    updates = schedule.total_steps
    counts = _Counts(updates, -(-updates // schedule.evaluate_every_steps), num_validation, num_test)
    if on == HERE:
        settled, machine, seconds, parts, how = _measure_here(config, source, counts)
    else:
        settled, machine, seconds, parts, how = _reckon(config, get_device(on), num_devices, utilization, counts)
        config = settled
    result = PlanResult(
        device=on,
        num_devices=num_devices,
        precision="bfloat16" if settled.precision == "bfloat16" else "float32",
        parameters=count_parameters(config.model),
        step_flops=training_flops(config.model) * config.batch_size,
        total_steps=updates,
        steps_per_epoch=schedule.steps_per_epoch,
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
        checkpointing=config.checkpointing,
        exaflops=run_exaflops(config.model, updates * config.batch_size),
        memory=machine.memory(config, num_devices),
        memory_process=machine.process,
        memory_worker=machine.worker,
        memory_needed=machine.needed(config, num_devices),
        memory_available=machine.available,
        remedy=None,
        seconds_per_step=seconds,
        hours=sum(parts.values()),
        hours_by_part=parts,
        cost=None if price is None else sum(parts.values()) * num_devices * price,
        how=how,
    )
    return result if result.fits else replace(result, remedy=what_would_fit(config, num_devices, machine))


@dataclass(frozen=True)
class _Counts:
    updates: int
    evaluations: int
    validation: int  # pictures
    test: int

    @property
    def at_once(self) -> int:
        """Pictures of the largest batch of an evaluation."""
        return min(EVALUATION_BATCH, max(self.validation, self.test) or EVALUATION_BATCH)


@dataclass(frozen=True)
class _Machine:
    """Bytes."""

    available: int
    process: int = 0
    worker: int = 0
    precisions: tuple[str, ...] = ("float32", "bfloat16")
    is_here: bool = False  # there are no more of it
    is_cpu: bool = False
    num_evaluated: int = EVALUATION_BATCH  # pictures at once

    def memory(self, config: TrainConfig, num_devices: int) -> RunMemory:
        from vitrail.training.memory import run_memory

        # "auto" tries both precisions, so it needs what float32 needs.
        precision: Precision = "bfloat16" if config.precision == "bfloat16" else "float32"
        return run_memory(config, precision, num_devices=num_devices, num_evaluated=self.num_evaluated)

    def needed(self, config: TrainConfig, num_devices: int) -> int:
        memory = self.memory(config, num_devices)
        return self.process + (memory.peak_on_cpu if self.is_cpu else memory.peak)


def _machine_of(device: Device, counts: _Counts) -> _Machine:
    available = int(device.gigabytes * 1e9 * _USABLE)
    return _Machine(available, precisions=tuple(device.teraflops), num_evaluated=counts.at_once)


def _this_machine(counts: _Counts) -> _Machine:
    import torch

    if torch.cuda.is_available():
        return _Machine(torch.cuda.mem_get_info()[0], is_here=True, num_evaluated=counts.at_once)
    return _Machine(available_memory(), is_here=True, is_cpu=True, num_evaluated=counts.at_once)


def _hours(counts: _Counts, seconds: float, evaluated: float, tested: float) -> dict[str, float]:
    # The validation pictures once more and the test pictures, when the run is over.
    at_the_end = (counts.validation + counts.test) * tested
    return {
        "updates": counts.updates * seconds / 3600,
        "evaluations": (counts.evaluations * counts.validation * evaluated + at_the_end) / 3600,
    }


def _reckon(
    config: TrainConfig, device: Device, num_devices: int, utilization: float, counts: _Counts
) -> tuple[TrainConfig, _Machine, float, dict[str, float], str]:
    """As `_measure_here`, of a named device, from its maker's figures."""
    config = _settle(config, device)
    seconds = _seconds(config, device, num_devices, utilization)
    forward = seconds / config.batch_size / _PASSES
    parts = _hours(counts, seconds, forward, forward if isinstance(config.objective, SupervisedConfig) else 0.0)
    how = f"{utilization:.0%} of the peak of {num_devices} x {device.name}"
    return config, _machine_of(device, counts), seconds, parts, how


def _measure_here(
    config: TrainConfig, source: Source | None, counts: _Counts
) -> tuple[TrainConfig, _Machine, float, dict[str, float], str]:
    """(config with precision and threads settled, this machine, seconds of an update, hours by part, how)."""
    from vitrail.tasks.rehearsal import rehearse, time_smallest_run

    machine = _this_machine(counts)
    _require_room(config, machine)
    measured = rehearse(config, source)
    smallest = time_smallest_run()
    parts = _hours(counts, measured.seconds_per_step, measured.seconds_per_evaluated, measured.seconds_per_tested)
    num_checkpoints = 1 + sum(parts.values()) * 60 / config.checkpoint_every_minutes
    parts["checkpoints"] = num_checkpoints * measured.checkpoint_seconds / 3600
    parts["beginning and end"] = (smallest.seconds + measured.begin_seconds) / 3600
    if machine.is_cpu:
        # Memory that is freed and given back, as checkpointing has it, makes room for what a run needs at its end.
        around = smallest.update_bytes if config.checkpointing else smallest.peak_bytes
        around -= machine.memory(_digits(), 1).peak_on_cpu
        machine = replace(machine, process=max(0, around))
    machine = replace(machine, worker=measured.worker_bytes)
    return measured.config, machine, measured.seconds_per_step, parts, measured.how


def _digits() -> TrainConfig:
    """The config of `time_smallest_run`."""
    from vitrail.data.config import DataConfig
    from vitrail.data.facts import DataFacts
    from vitrail.recipes import RECIPES, Situation

    config = RECIPES["digits_vit"](Situation(DataConfig("digits"), DataFacts(num_classes=10)))
    return replace(config, precision="float32")


def what_would_fit(config: TrainConfig, num_devices: int, machine: _Machine) -> str:
    """A sentence naming the first change that fits: smaller micro-batches, then bfloat16, then checkpointing, then
    all, then more devices, which make the micro-batches smaller but not the weights."""
    for devices in [num_devices] if machine.is_here else [num_devices * 2**power for power in range(7)]:
        for changed in _smaller(config, devices, machine):
            needed = machine.needed(changed, devices)
            if needed <= machine.available:
                return _describe_change(config, changed, devices if devices != num_devices else None, needed)
    least = machine.needed(replace(config, accumulation_steps=1, batch_size=1, checkpointing=True), 1)
    return (
        f"nothing tried fits: one picture at a time, with checkpointing, takes {least / 1e9:.1f} GB. Take a smaller"
        " model, or a device with more memory"
    )


def _smaller(config: TrainConfig, num_devices: int, machine: _Machine) -> Iterator[TrainConfig]:
    """The config with less and less memory, the changes that cost the least first."""
    per_device = -(-config.batch_size // num_devices)
    counts = [n for n in range(config.accumulation_steps, per_device + 1) if config.batch_size % n == 0]
    lower = replace(config, precision="bfloat16") if "bfloat16" in machine.precisions else config
    for changed, parts in (
        (config, counts),
        (lower, counts),
        (replace(config, checkpointing=True), counts[:1]),
        (replace(lower, checkpointing=True), counts),
    ):
        for count in parts:
            yield replace(changed, accumulation_steps=count)


def available_memory() -> int:
    """Bytes that a run here may take: what the system can give without swapping, or what it has."""
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            for line in file:
                if line.startswith("MemAvailable:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _check(
    config: TrainConfig, num_pictures: int, on: str, num_devices: int, utilization: float, price: float | None
) -> None:
    if on == HERE and num_devices > 1:
        raise ConfigError(f"here is one device, not {num_devices}: name the accelerator of a cluster (--on A100-80GB)")
    if num_pictures < 1 or num_devices < 1:
        raise ConfigError(f"{num_pictures} pictures on {num_devices} devices: both must be at least 1")
    if not 0 < utilization <= 1:
        raise ConfigError(f"utilization {utilization} is not above 0 and at most 1")
    if price is not None and price < 0:
        raise ConfigError(f"price {price} is negative")
    if config.batch_size < num_devices:
        raise ConfigError(f"batch_size {config.batch_size} cannot be shared by {num_devices} devices: take fewer")


def _require_room(config: TrainConfig, machine: _Machine) -> None:
    """A trial of what does not fit would take this machine down with it, so it is refused before it starts."""
    needed = machine.needed(config, 1)
    if needed > machine.available:
        raise ConfigError(
            f"a run needs {needed / 1e9:.1f} GB here, where {machine.available / 1e9:.1f} GB are free, so nothing was"
            f" timed; {what_would_fit(config, 1, machine)}. Or name the device that it is meant for (--on A100-80GB)"
        )


def _settle(config: TrainConfig, device: Device) -> TrainConfig:
    """The config in a precision that the device has."""
    if config.precision == "auto":
        return replace(config, precision="bfloat16" if "bfloat16" in device.teraflops else "float32")
    if config.precision not in device.teraflops:
        raise ConfigError(
            f"{device.name} has no stated peak in {config.precision}: choose --precision {next(iter(device.teraflops))}"
        )
    return config


def _seconds(config: TrainConfig, device: Device, num_devices: int, utilization: float) -> float:
    # Checkpointing computes every block's forward pass once more.
    passes = (_PASSES + 1) / _PASSES if config.checkpointing else 1.0
    flops = training_flops(config.model) * config.batch_size * passes
    return flops / (num_devices * utilization * device.teraflops[config.precision] * 1e12)  # type: ignore[index]


def _describe_change(config: TrainConfig, changed: TrainConfig, devices: int | None, needed: int) -> str:
    parts = []
    if devices is not None:
        parts.append(f"{devices} devices")
    if changed.accumulation_steps != config.accumulation_steps:
        micro = -(-changed.batch_size // ((devices or 1) * changed.accumulation_steps))
        parts.append(f"--accumulation-steps {changed.accumulation_steps} (micro-batches of {micro})")
    if changed.precision != config.precision:
        parts.append(f"--precision {changed.precision}")
    if changed.checkpointing and not config.checkpointing:
        parts.append("--checkpointing")
    return f"{' and '.join(parts)} would fit: {needed / 1e9:.2f} GB"
