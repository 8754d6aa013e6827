"""Inference of ViT-B/16 at 224 pixels on this CPU: ours beside compiled timm and OpenVINO, in turns in one process.

The weights are random and the same for all. Each is asked for float32 logits; the peers get normalised pictures, which
costs them nothing here, ours get bytes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.goals import goal_row
from benchmarks.measure import Row
from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.engines.config import InferenceConfig, Precision
from vitrail.engines.prepare import check, own_answers, prepare
from vitrail.engines.registry import installed_engines
from vitrail.errors import VitrailError
from vitrail.models.variants import get_config
from vitrail.models.vit import VisionTransformer
from vitrail.weights.bundle import Bundle, BundleConfig
from vitrail.weights.labels import default_labels

NAME, TIMM_NAME = "ViT-B/16", "vit_base_patch16_224"
BATCHES, ROUNDS, CALLS, CALIBRATION = (16, 1), 9, 4, 32
LEAST_COSINE = 0.999  # of logits, promised for 8-bit integers; what has less is not counted
Ask = Callable[[Tensor], Any]


def measure_inference(_: Path | None) -> list[Row]:
    bundle, images = _bundle(), _pictures(max(BATCHES), 0)
    calibration = _pictures(CALIBRATION, 1)
    rows: list[Row] = []
    for precision in ("bfloat16", "int8"):
        ours, cosines = _ours(bundle, precision, calibration, rows, images)
        peers = _peers(bundle, precision, calibration, rows)
        for size in BATCHES:
            times = _in_turns({**ours, **peers}, images[:size], bundle.config.preprocessing, set(ours))
            for name, seconds in times.items():
                rows.append(Row(f"{precision}, batch {size}: {name}", f"{1000 * seconds / size:.1f} ms a picture"))
            if not ours or not peers:
                rows.append(Row(f"{precision}, batch {size}", "no peer or none of ours runs here"))
                continue
            near = [name for name in ours if cosines[name] >= LEAST_COSINE] or list(ours)
            best, peer = (min(names, key=times.__getitem__) for names in (near, peers))
            conditions = {}
            if precision == "int8":
                said = f"cosine {cosines[best]:.5f}, at least {LEAST_COSINE}"
                conditions[said] = cosines[best] >= LEAST_COSINE
            what = f"{precision}, batch {size}: {best}, beside {peer}"
            rows.append(
                goal_row(f"{precision}-{size}", times[peer] / times[best], peer, what=what, conditions=conditions)
            )
    return rows


def _bundle() -> Bundle:
    torch.manual_seed(0)
    config = get_config(NAME)
    model = VisionTransformer(config).eval()
    torch.nn.init.normal_(model.head.weight, std=0.02)  # a fresh head answers 0 whatever it sees
    return Bundle(model, BundleConfig(config, default_labels(config.num_classes), Preprocessing()), Path(NAME))


def _pictures(count: int, seed: int) -> Tensor:
    """(count, 3, 224, 224) uint8: smooth colours, as photographs have, and not noise."""
    draw = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 28, 28, generator=draw)
    smooth = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bicubic")
    return ((smooth + torch.randn(count, 3, 1, 1, generator=draw)) * 50 + 128).clamp(0, 255).to(torch.uint8)


def _ours(
    bundle: Bundle, precision: Precision, calibration: Tensor, rows: list[Row], images: Tensor
) -> tuple[dict[str, Ask], dict[str, float]]:
    """Our engines that run here, and the cosine of their logits with the model's own."""
    found: dict[str, Ask] = {}
    cosines: dict[str, float] = {}
    for engine in installed_engines():
        config = InferenceConfig(engine=engine, precision=precision, batch_size=max(BATCHES))
        try:
            prepared = prepare(bundle, config, calibration=calibration)
        except VitrailError:
            continue  # it has no such precision
        cosine = check(prepared, images, own_answers(bundle, images)).cosine
        rows.append(Row(f"{precision}: ours, {engine}: cosine of logits", f"{cosine:.5f} ({prepared.description})"))
        name = f"ours, {engine}"
        found[name], cosines[name] = prepared, cosine
    return found, cosines


def _peers(bundle: Bundle, precision: Precision, calibration: Tensor, rows: list[Row]) -> dict[str, Ask]:
    import timm
    from torch._inductor import config as inductor

    peers: dict[str, Ask] = {}
    if precision == "bfloat16":
        model = timm.create_model(TIMM_NAME).eval()
        model.load_state_dict(bundle.model.state_dict())
        with inductor.patch(freezing=True), torch.inference_mode():
            compiled = torch.compile(model.bfloat16())
            for size in BATCHES:
                compiled(torch.zeros(size, 3, 224, 224, dtype=torch.bfloat16))
        peers["timm, compiled and frozen"] = lambda pictures: compiled(pictures.bfloat16()).float()
    if "openvino" in installed_engines():
        peers["OpenVINO" + (" with NNCF" if precision == "int8" else "")] = _openvino(
            timm.create_model(TIMM_NAME).eval(), bundle, precision, calibration
        )
    else:
        rows.append(Row(f"{precision}: OpenVINO", "not installed"))
    return peers


def _openvino(model: Any, bundle: Bundle, precision: Precision, calibration: Tensor) -> Ask:
    """timm's model through OpenVINO, as its documents have it; a fixed shape for each batch size."""
    import nncf
    import openvino

    model.load_state_dict(bundle.model.state_dict())
    converted = openvino.convert_model(model, example_input=torch.zeros(2, 3, 224, 224))
    if precision == "int8":
        pictures = normalize(calibration, bundle.config.preprocessing)
        converted = nncf.quantize(
            converted,
            nncf.Dataset([picture.numpy() for picture in pictures.split(1)]),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(pictures),
        )
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16",
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
    }
    requests = {}
    for size in BATCHES:
        fixed = converted.clone()
        fixed.reshape({fixed.input(0): [size, 3, 224, 224]})
        requests[size] = openvino.Core().compile_model(fixed, "CPU", settings).create_infer_request()
    return lambda pictures: requests[len(pictures)].infer({0: pictures.numpy()})[0]


def _in_turns(
    asked: dict[str, Ask], images: Tensor, preprocessing: Preprocessing, take_bytes: set[str]
) -> dict[str, float]:
    """Median seconds of a batch, A B A B; of each turn the first call is left out, in which the weights come back into
    the processor's cache and the threads of the one before it still wait for work."""
    normalised = normalize(images, preprocessing)
    times: dict[str, list[float]] = {name: [] for name in asked}
    with torch.inference_mode():
        for turn in range(1 + ROUNDS):
            for name, ask in asked.items():
                given = images if name in take_bytes else normalised
                for call in range(CALLS):
                    begin = time.perf_counter()
                    ask(given)
                    if turn and call:
                        times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(values) for name, values in times.items()}
