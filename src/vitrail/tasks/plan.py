"""What a run needs before anything starts: parameters, FLOPs, memory, steps, hours, cost."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Literal

from vitrail.errors import ConfigError, did_you_mean
from vitrail.models.kinds import ModelConfig, count_macs, count_parameters
from vitrail.training.config import TrainConfig
from vitrail.training.memory import RunMemory, run_memory
from vitrail.training.schedule import Plan, make_plan

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
    memory: RunMemory | None  # of one device; None where it is not modelled
    memory_needed: int | None  # bytes; here with what the C library keeps
    memory_available: int
    remedy: str | None  # what would fit, where this does not; None where it fits or is not known
    seconds_per_step: float
    hours: float
    evaluation_hours: float  # of them
    cost: float | None
    how: str  # where the time comes from

    @property
    def fits(self) -> bool | None:
        """None where the memory is not modelled."""
        return None if self.memory_needed is None else self.memory_needed <= self.memory_available


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
    utilization: float = 0.4,
    price: float | None = None,
) -> PlanResult:
    """Count what `config` needs on `num_pictures` training pictures.

    Args:
        on: "here", where a few real updates on made-up pictures are timed, or a name of `DEVICES`.
        num_devices: that share each batch.
        num_validation: pictures of each evaluation.
        utilization: share of a named device's peak that training reaches.
        price: of one device for an hour.
    Raises:
        ConfigError: an unknown device, a precision it does not have, or numbers out of range.
    """
    _check(config, num_pictures, num_devices, utilization, price)
    if on == HERE and num_devices != 1:
        raise ConfigError(f"here is one device, not {num_devices}: name the accelerator of a cluster (--on A100-80GB)")
    device = None if on == HERE else get_device(on)
    steps_per_epoch = max(1, num_pictures // config.batch_size)
    schedule = make_plan(config, steps_per_epoch)
    how = f"{utilization:.0%} of the peak of {num_devices} x {on}"
    if device is None:
        _require_room(config)
        config, seconds, how = _timed_here(config)
    else:
        config = replace(config, precision=_precision(config, device))
        seconds = _seconds(config, device, num_devices, utilization)
    precision: Precision = "bfloat16" if config.precision == "bfloat16" else "float32"
    available = available_memory() if device is None else int(device.gigabytes * 1e9 * _USABLE)
    memory, needed = _memory(config, precision, num_devices, device is None)
    remedy = None
    if needed is not None and needed > available:
        remedy = what_would_fit(config, precision, num_devices, available, device is None)
    evaluation = _evaluation_hours(schedule, num_validation, seconds / config.batch_size)
    hours = seconds * schedule.total_steps / 3600 + evaluation
    return PlanResult(
        device=on,
        num_devices=num_devices,
        precision=precision,
        parameters=count_parameters(config.model),
        step_flops=training_flops(config.model) * config.batch_size,
        total_steps=schedule.total_steps,
        steps_per_epoch=steps_per_epoch,
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
        checkpointing=config.checkpointing,
        exaflops=run_exaflops(config.model, schedule.total_steps * config.batch_size),
        memory=memory,
        memory_needed=needed,
        memory_available=available,
        remedy=remedy,
        seconds_per_step=seconds,
        hours=hours,
        evaluation_hours=evaluation,
        cost=None if price is None else hours * num_devices * price,
        how=how,
    )


def _evaluation_hours(schedule: Plan, num_pictures: int, seconds_per_picture: float) -> float:
    evaluations = -(-schedule.total_steps // schedule.evaluate_every_steps)
    return evaluations * num_pictures * seconds_per_picture / _PASSES / 3600  # a forward pass alone


def what_would_fit(config: TrainConfig, precision: Precision, num_devices: int, available: int, is_cpu: bool) -> str:
    """A sentence naming the first change that fits: smaller micro-batches, then checkpointing, then both, then more
    devices, which make the micro-batches smaller but not the weights."""
    for devices in [num_devices * 2**power for power in range(7)]:
        per_device = -(-config.batch_size // devices)
        counts = [n for n in range(config.accumulation_steps, per_device + 1) if config.batch_size % n == 0]
        options = [(False, counts), (True, counts[:1]), (True, counts)]
        for checkpointing, parts in options:
            for count in parts:
                changed = replace(config, accumulation_steps=count, checkpointing=config.checkpointing or checkpointing)
                needed = _memory(changed, precision, devices, is_cpu)[1]
                if needed is not None and needed <= available:
                    return _describe_change(config, changed, devices if devices != num_devices else None, needed)
        if is_cpu:
            break
    state = _memory(replace(config, accumulation_steps=1, batch_size=1, checkpointing=True), precision, 1, is_cpu)[1]
    smallest = "" if state is None else f": one picture at a time, with checkpointing, takes {state / 1e9:.1f} GB"
    return f"nothing tried fits{smallest}. Take a smaller model, or a device with more memory"


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


def _check(config: TrainConfig, num_pictures: int, num_devices: int, utilization: float, price: float | None) -> None:
    if num_pictures < 1 or num_devices < 1:
        raise ConfigError(f"{num_pictures} pictures on {num_devices} devices: both must be at least 1")
    if not 0 < utilization <= 1:
        raise ConfigError(f"utilization {utilization} is not above 0 and at most 1")
    if price is not None and price < 0:
        raise ConfigError(f"price {price} is negative")
    if config.batch_size < num_devices:
        raise ConfigError(f"batch_size {config.batch_size} cannot be shared by {num_devices} devices")


def _require_room(config: TrainConfig) -> None:
    """A trial of what does not fit would take this machine down with it, so it is refused before it starts."""
    # bfloat16 is the smaller one, where it may be chosen at all.
    precision: Precision = "float32" if config.precision == "float32" else "bfloat16"
    available, needed = available_memory(), _memory(config, precision, 1, True)[1]
    if needed is not None and needed > available:
        remedy = what_would_fit(config, precision, 1, available, True)
        raise ConfigError(
            f"an update needs {needed / 1e9:.1f} GB here, where {available / 1e9:.1f} GB are free, so nothing was"
            f" timed; {remedy}. Or name the device that it is meant for (--on A100-80GB)."
        )


def _precision(config: TrainConfig, device: Device) -> Precision:
    if config.precision == "auto":
        return "bfloat16" if "bfloat16" in device.teraflops else "float32"
    if config.precision not in device.teraflops:
        raise ConfigError(
            f"{device.name} has no stated peak in {config.precision}: choose --precision {next(iter(device.teraflops))}"
        )
    return config.precision


def _seconds(config: TrainConfig, device: Device, num_devices: int, utilization: float) -> float:
    # Checkpointing computes every block's forward pass once more.
    passes = (_PASSES + 1) / _PASSES if config.checkpointing else 1.0
    flops = training_flops(config.model) * config.batch_size * passes
    return flops / (num_devices * utilization * device.teraflops[config.precision] * 1e12)  # type: ignore[index]


def _memory(
    config: TrainConfig, precision: Precision, num_devices: int, is_cpu: bool
) -> tuple[RunMemory | None, int | None]:
    try:
        memory = run_memory(config, precision, num_devices=num_devices)
    except ValueError:
        return None, None
    return memory, memory.with_heap(precision) if is_cpu else memory.peak


def _describe_change(config: TrainConfig, changed: TrainConfig, devices: int | None, needed: int) -> str:
    parts = []
    if devices is not None:
        parts.append(f"{devices} devices")
    if changed.accumulation_steps != config.accumulation_steps:
        micro = -(-changed.batch_size // ((devices or 1) * changed.accumulation_steps))
        parts.append(f"--accumulation-steps {changed.accumulation_steps} (micro-batches of {micro})")
    if changed.checkpointing and not config.checkpointing:
        parts.append("--checkpointing True")
    return f"{' and '.join(parts)} would fit: {needed / 1e9:.2f} GB"


def _timed_here(config: TrainConfig) -> tuple[TrainConfig, float, str]:
    """The config with its precision settled, seconds of an update, and how they were found."""
    import numpy as np

    from vitrail.data.config import LoaderConfig
    from vitrail.data.loader import Loader
    from vitrail.data.sources.base import ArraySource
    from vitrail.data.split import TRAIN
    from vitrail.data.transforms import TrainingTransform
    from vitrail.models.build import build_model
    from vitrail.training.build import build_state
    from vitrail.training.precision import run_trial

    model, count = config.model, config.batch_size
    pixels = np.random.default_rng(0).integers(0, 256, (count, *model.image_size, model.in_channels), dtype=np.uint8)
    classes = tuple(str(number) for number in range(max(1, model.num_classes)))
    labels, splits = np.arange(count, dtype=np.int64) % len(classes), np.full(count, TRAIN, dtype=np.int8)
    source = ArraySource("made-up", "", pixels, classes, labels, splits)
    transform = TrainingTransform(config.preprocessing, config.augmentation)
    loader = Loader(source, np.arange(count), transform, batch_size=count, seed=0, config=LoaderConfig(num_workers=0))
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    trial = run_trial(build_state(config, build_model(model), [1] * len(classes), device).objective, loader, config)
    how = f"{trial.num_steps} updates timed here on made-up pictures, {trial.num_threads} threads"
    return replace(config, precision=trial.precision), trial.seconds_per_step, how
