"""How fast a model answers on this machine, by engine, precision and batch, and what holds it back."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from vitrail.data.config import Preprocessing
from vitrail.data.sources.pictures import find_pictures
from vitrail.data.transforms import EvaluationTransform
from vitrail.engines import trials
from vitrail.engines.base import Prepared
from vitrail.engines.ceiling import measure_ceiling
from vitrail.engines.config import MAX_LOSS, EngineName, InferenceConfig, Precision, require_max_loss
from vitrail.engines.prepare import Check, Labelled, check, own_answers, prepare, require_accuracy
from vitrail.engines.registry import ENGINES, installed_engines
from vitrail.errors import ConfigError, DataError, ImageError, VitrailError
from vitrail.models.build import build_model
from vitrail.models.kinds import MODELS, count_macs, get_model_config
from vitrail.tasks.labelled import CheckPictures, read_check_pictures
from vitrail.training.events import Events
from vitrail.weights.bundle import Bundle, BundleConfig, made_up_pictures
from vitrail.weights.labels import default_labels
from vitrail.weights.load import load

_MAX_PICTURES = 128  # that are read: enough for a rate and for the ranges of int8
_MAX_COMPARED = 32  # of these: for the cosine
_ATTENTION = ("bmm", "softmax", "scaled_dot_product", "baddbmm")
_PRODUCTS = ("linear", "addmm", "aten::mm", "conv")


@dataclass(frozen=True)
class BenchConfig:
    model: str  # whatever `load` takes, or the name of a model, which then has random weights
    pictures: tuple[str, ...] = ()  # files or folders; none: made-up ones, and nothing is decoded
    engines: tuple[EngineName, ...] = ()  # (): those installed
    precisions: tuple[Precision, ...] = ("float32", "bfloat16", "int8")
    batch_sizes: tuple[int, ...] = (1, 16)
    compile: bool = True  # whether torch compiles; OpenVINO and ONNX Runtime always do
    seconds: float = 3.0  # of timing for each row
    labelled: str | None = None  # as DataConfig.source: int8 is calibrated and every accuracy measured on them
    max_loss: float = MAX_LOSS  # of the accuracy, as a share: what loses more is refused

    def __post_init__(self) -> None:
        for name in self.engines:
            if name not in ENGINES:
                raise ConfigError(f"engine '{name}' is none of {', '.join(ENGINES)}")
            obstacle = ENGINES[name].missing()
            if obstacle is not None:
                raise ConfigError(f"engine '{name}': {obstacle}")
        if not self.batch_sizes or min(self.batch_sizes) < 1:
            raise ConfigError(f"batch_sizes {self.batch_sizes} are not whole numbers of at least 1")
        if not self.precisions:
            raise ConfigError("precisions is empty: name one at least")
        require_max_loss(self.max_loss)


@dataclass(frozen=True)
class BenchRow:
    """One engine, precision and batch size.

    Attributes:
        milliseconds: of a batch, the median.
        images_per_second: of it.
        share_of_ceiling: multiply-adds of the whole model a second over the machine's ceiling in this precision; None:
            that was not measured. Work that folding leaves out counts as done.
        cosine: mean cosine of its answers with the model's own in float32, on the pictures.
        accuracy: on the labelled pictures, as a share; None without any.
        loss: how much less that is than the model's own in float32; below 0 where it is more.
    """

    engine: EngineName
    precision: Precision
    batch_size: int
    milliseconds: float
    images_per_second: float
    share_of_ceiling: float | None
    cosine: float
    description: str
    accuracy: float | None = None
    loss: float | None = None


@dataclass(frozen=True)
class Reading:
    """Milliseconds of one core for a picture: decoding and the evaluation transform; how many were read."""

    decode: float
    transform: float
    pictures: int
    cores: int

    @property
    def images_per_second(self) -> float:
        """With every core at it."""
        return 1000 * self.cores / (self.decode + self.transform)


@dataclass(frozen=True)
class BenchResult:
    model: str
    parameters: int
    macs: int  # multiply-adds of a picture
    threads: int
    ceiling: dict[Precision, float]  # multiply-adds a second by precision
    rows: tuple[BenchRow, ...]
    refused: tuple[tuple[str, str], ...]  # (engine and precision, reason): it cannot run, or loses too much accuracy
    reading: Reading | None
    time_goes: dict[str, float] = field(default_factory=dict)  # share of torch's fastest row: products, attention, rest
    profiled: str = ""  # which row that is
    verdict: str = ""
    labelled_pictures: int = 0  # that the accuracy was measured on
    own_accuracy: float | None = None  # of the model itself in float32, on these
    keeps_accuracy: str = ""  # a sentence: the fastest row of those that are not refused

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "refused": [{"what": what, "reason": reason} for what, reason in self.refused]}


def bench(config: BenchConfig, events: Events) -> BenchResult:
    """Time every engine and precision that can run here, one after the other.

    Raises:
        WeightsError: as `load`. DataError: none of the pictures can be read, or the labelled ones have no class that
            the model knows. ConfigError: no engine can run the model.
    """
    bundle = _bundle(config.model, events)
    given = None if config.labelled is None else read_check_pictures(config.labelled, bundle, events)
    reading, images = _pictures(config.pictures, bundle.config.preprocessing, given, events)
    events.note("measuring the machine's ceiling")
    ceiling = measure_ceiling()
    standards = _Standards.of(bundle, images, given)
    rows: list[BenchRow] = []
    refused: list[tuple[str, str]] = []
    fastest: tuple[float, Prepared] | None = None
    wanted = [
        (name, precision)
        for name in config.engines or installed_engines()
        for precision in config.precisions
        if precision in ENGINES[name].precisions
    ]
    for number, (name, precision) in enumerate(wanted):
        events.progress(f"timing {name} {precision}", number, len(wanted))
        plan = InferenceConfig(engine=name, precision=precision, batch_size=max(config.batch_sizes))
        if name == "torch":
            plan = replace(plan, compile=None if config.compile else False)
        try:
            prepared = prepare(bundle, plan, calibration=images if given is None else given.calibration)
            near, judged = standards.hold_against(prepared)
            found = _time(prepared, plan, count_macs(bundle.config.model), images, config, ceiling, near, judged)
            rows += found
            best = max(row.images_per_second for row in found)
            if name == "torch" and (fastest is None or best > fastest[0]):
                fastest = (best, prepared)
            if judged is not None:
                require_accuracy(judged, plan, config.max_loss)
        except VitrailError as error:
            refused.append((f"{name} {precision}", str(error)))
    events.progress("timing", len(wanted), len(wanted))
    if not rows:
        raise ConfigError("no engine can run it: " + "; ".join(f"{what}: {reason}" for what, reason in refused))
    time_goes, profiled = ({}, "") if fastest is None else _where(fastest[1], images, max(config.batch_sizes))
    kept = [row for row in rows if row.loss is None or row.loss <= config.max_loss]
    return BenchResult(
        model=config.model,
        parameters=sum(parameter.numel() for parameter in bundle.model.parameters()),
        macs=count_macs(bundle.config.model),
        threads=torch.get_num_threads(),
        ceiling=ceiling,
        rows=tuple(rows),
        refused=tuple(refused),
        reading=reading,
        time_goes=time_goes,
        profiled=profiled,
        verdict=_verdict(kept or rows, reading, ceiling, time_goes),
        labelled_pictures=0 if given is None else len(given.labelled.images),
        own_accuracy=standards.own_accuracy,
        keeps_accuracy="" if given is None else _keeps_accuracy(kept, config.max_loss),
    )


@dataclass(frozen=True)
class _Standards:
    """The model's own answers in float32, on the pictures and on the labelled ones, computed once for all engines."""

    images: Tensor
    own: Tensor
    labelled: Labelled | None
    labelled_own: Tensor | None

    @staticmethod
    def of(bundle: Bundle, images: Tensor, given: CheckPictures | None) -> _Standards:
        labelled = None if given is None else given.labelled
        images = images[:_MAX_COMPARED]
        labelled_own = None if labelled is None else own_answers(bundle, labelled.images)
        return _Standards(images, own_answers(bundle, images), labelled, labelled_own)

    @property
    def own_accuracy(self) -> float | None:
        if self.labelled is None or self.labelled_own is None:
            return None
        return float((self.labelled_own.argmax(1) == self.labelled.labels).double().mean())

    def hold_against(self, prepared: Prepared) -> tuple[Check, Check | None]:
        """Its check on the pictures, and on the labelled ones."""
        near = check(prepared, self.images, self.own)
        if self.labelled is None or self.labelled_own is None:
            return near, None
        return near, check(prepared, self.labelled.images, self.labelled_own, self.labelled.labels)


def _keeps_accuracy(kept: Sequence[BenchRow], max_loss: float) -> str:
    """One sentence: the fastest of the rows that keep the accuracy."""
    if not kept:
        return f"nothing keeps the accuracy: everything loses more than the {100 * max_loss:.2f} points allowed"
    best = max(kept, key=lambda row: row.images_per_second)
    assert best.loss is not None
    change = "gained" if best.loss < 0 else "lost"
    return (
        f"the fastest that keeps the accuracy: {best.engine} {best.precision}, {best.images_per_second:,.0f} pictures a"
        f" second in batches of {best.batch_size}, {100 * abs(best.loss):.2f} points {change},"
        f" {100 * max_loss:.2f} allowed"
    )


def _bundle(name: str, events: Events) -> Bundle:
    """Loaded weights; or a model by its name, with random ones, which are as fast."""
    if name not in MODELS or Path(name).exists():
        return load(name, progress=events.download)
    config = get_model_config(name)
    model = build_model(config, generator=torch.Generator().manual_seed(0)).eval()
    events.note(f"{name} has random weights: its speed is that of trained ones, its answers mean nothing")
    labels, preprocessing = default_labels(config.num_classes), Preprocessing(image_size=config.image_size)
    return Bundle(model, BundleConfig(config, labels, preprocessing), Path(name))


def _as_channels(pixels: Any) -> Any:
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _pictures(
    paths: Sequence[str], preprocessing: Preprocessing, given: CheckPictures | None, events: Events
) -> tuple[Reading | None, Tensor]:
    """What reading them costs, and the pictures, (N, C, H, W) uint8: where none are named, labelled or made-up ones."""
    if paths:
        return _read(paths, preprocessing, events)
    if given is not None:
        return None, given.calibration
    made_up = [np.asarray(pixels) for _, pixels in made_up_pictures(preprocessing)]
    return None, torch.from_numpy(np.stack([_as_channels(pixels) for pixels in made_up]))


def _read(paths: Sequence[str], preprocessing: Preprocessing, events: Events) -> tuple[Reading, Tensor]:
    """What decoding and transforming cost on one core, and the pictures, (N, C, H, W) uint8."""
    source = find_pictures(paths)
    chosen = np.random.default_rng(0).permutation(len(source))[:_MAX_PICTURES].tolist()
    transform = EvaluationTransform(preprocessing)
    decode, whole, images = [], [], []
    for number, index in enumerate(chosen):
        events.progress("reading pictures", number + 1, len(chosen))
        try:
            begin = time.perf_counter()
            pixels = transform(source.open(index))
            whole.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            source.open(index).pixels(preprocessing.image_size, preprocessing.num_channels)
            decode.append(time.perf_counter() - begin)
        except ImageError as error:
            events.warning(f"left out: {error}")
            continue
        images.append(torch.from_numpy(pixels))
    if not images:
        raise DataError(f"{', '.join(paths)}: none of the pictures can be read")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    decoding = 1000 * statistics.median(decode)
    rest = max(0.0, 1000 * statistics.median(whole) - decoding)
    return Reading(decoding, rest, len(images), cores), torch.stack(images)


def _time(
    prepared: Prepared,
    plan: InferenceConfig,
    macs: int,
    images: Tensor,
    config: BenchConfig,
    ceiling: dict[Precision, float],
    near: Check,
    judged: Check | None,
) -> list[BenchRow]:
    rows = []
    for size in config.batch_sizes:
        batch = _batch(images, size)
        seconds = trials.time_in_turns({"it": lambda batch=batch: prepared(batch)}, config.seconds)["it"]  # type: ignore[misc]
        peak = ceiling.get(plan.precision)
        share = None if peak is None else macs * size / seconds / peak
        rows.append(
            BenchRow(
                plan.engine,
                plan.precision,
                size,
                1000 * seconds,
                size / seconds,
                share,
                near.cosine,
                str(prepared.description),
                None if judged is None else judged.accuracy,
                None if judged is None else judged.loss,
            )
        )
    return rows


def _batch(images: Tensor, size: int) -> Tensor:
    """(size, C, H, W), the pictures over and over."""
    return images[torch.arange(size) % len(images)].contiguous()


def _where(prepared: Prepared, images: Tensor, size: int) -> tuple[dict[str, float], str]:
    """Shares of the time of one batch: products, attention, rest."""
    batch = _batch(images, size)
    prepared(batch)
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # it tells stderr of its beginning and of GPUs that are not there
    with profile(activities=[ProfilerActivity.CPU]) as found:
        prepared(batch)
    shares = {"products": 0.0, "attention": 0.0, "rest": 0.0}
    for event in found.key_averages():
        name = event.key.lower()
        kind = "rest"
        if any(part in name for part in _ATTENTION):
            kind = "attention"
        elif any(part in name for part in _PRODUCTS) and "fused" not in name:
            kind = "products"
        shares[kind] += event.self_cpu_time_total
    total = sum(shares.values())
    return {kind: share / total for kind, share in shares.items()}, str(prepared.description)


def _verdict(
    rows: list[BenchRow], reading: Reading | None, ceiling: dict[Precision, float], time_goes: dict[str, float]
) -> str:
    """One sentence: what holds it back."""
    best = max(rows, key=lambda row: row.images_per_second)
    speed = f"{best.engine} {best.precision} takes {best.images_per_second:,.0f} pictures a second"
    if reading is not None and reading.images_per_second < best.images_per_second:
        return (
            f"loader-bound: {reading.cores} cores decode at most {reading.images_per_second:,.0f} pictures a second,"
            f" and {speed} in batches of {best.batch_size}"
        )
    loader = ""
    if reading is not None:
        loader = f", while {reading.cores} cores decode up to {reading.images_per_second:,.0f}"
    if best.share_of_ceiling is not None and best.share_of_ceiling > 0.7:
        return f"bound by the machine's products: {speed}{loader}, at {best.share_of_ceiling:.0%} of the ceiling"
    other = 1 - time_goes.get("products", 1.0)
    where = f"; {other:.0%} of torch's time is not in products" if time_goes else ""
    return f"model-bound: {speed}{loader}{where}"
