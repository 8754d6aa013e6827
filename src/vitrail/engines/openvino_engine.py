"""OpenVINO as an engine: it converts the folded model, and quantizes it with NNCF (both Apache-2.0)."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitrail.configuration import to_dict
from vitrail.engines import trials
from vitrail.engines.base import Description, Prepared
from vitrail.engines.config import InferenceConfig, Precision
from vitrail.engines.module_for_export import module_for_export
from vitrail.errors import ConfigError
from vitrail.weights.bundle import Bundle

_TRY = """
import json, sys
import numpy, openvino
core = openvino.Core()
model = core.read_model(sys.argv[1])
shape = json.loads(sys.argv[3])
model.reshape({model.input(0): shape})
compiled = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": sys.argv[2], "INFERENCE_NUM_THREADS": 1})
compiled.create_infer_request().infer({0: numpy.zeros(shape, numpy.uint8)})
"""
_HINTS = {"float32": "f32", "bfloat16": "bf16"}


class OpenVINOEngine:
    """See `Engine`."""

    precisions: tuple[Precision, ...] = ("float32", "bfloat16", "int8")

    def missing(self) -> str | None:
        """See `Engine.missing`."""
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO is not installed: pip install 'vitrail[openvino]'"
        return None

    def prepare(self, bundle: Bundle, config: InferenceConfig, calibration: Tensor | None) -> Prepared:
        """See `Engine.prepare`."""
        if config.compile is False:
            raise ConfigError("OpenVINO always compiles: leave compile out, or choose engine 'torch'")
        has_bfloat16 = "BF16" in _capabilities()
        if config.precision == "bfloat16" and not has_bfloat16:
            raise ConfigError("OpenVINO has no bfloat16 on this processor: choose float32 or int8")
        preprocessing = bundle.config.preprocessing
        module, way = module_for_export(bundle.model, preprocessing, config.answer)
        shape = (preprocessing.num_channels, *preprocessing.image_size)
        model = _convert(module, torch.zeros(2, *shape, dtype=torch.uint8))
        notes: tuple[str, ...] = ()
        if config.precision == "int8":
            model = _quantize(model, calibration)
            hint = "bf16" if has_bfloat16 else "f32"
            notes = (f"first and last product, and the rest, in {'bfloat16' if has_bfloat16 else 'float32'}",)
        else:
            hint = _HINTS[config.precision]
        facts = {"architecture": to_dict(bundle.config.model), "answer": config.answer, "precision": config.precision}
        for size in {1, config.batch_size}:
            _require_survival(model, (size, *shape), hint, facts)
        answer = _by_shape(model, shape, config.batch_size, hint, facts)
        return Prepared(answer, Description("openvino", config.precision, True, way, notes), preprocessing)


def _by_shape(
    model: Any, shape: tuple[int, ...], batch_size: int, hint: str, facts: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    """An answer to any batch from two compiled shapes: whole batches, and what is left over one by one."""
    single = _compile(model, (1, *shape), hint)
    whole = _whole_batches(model, (batch_size, *shape), hint, facts) if batch_size > 1 else single

    def answer(images: Tensor) -> Tensor:
        rest = len(images) % batch_size
        end = len(images) - rest
        parts = [whole(part) for part in images[:end].split(batch_size)] if end else []
        return torch.cat([*parts, *(single(part) for part in images[end:].split(1) if len(part))])

    return answer


def _require_survival(model: Any, shape: tuple[int, ...], hint: str, facts: dict[str, Any]) -> None:
    """Compile and ask in a process of its own first: OpenVINO 2026.4 ends the process on some models (in float32, a
    convolutional stem with group norm and one picture). Remembered for each machine.

    Raises:
        ConfigError: it does not survive.
    """
    import openvino

    def measure() -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.xml"
            openvino.save_model(model, path, compress_to_fp16=False)
            command = [sys.executable, "-c", _TRY, str(path), hint, json.dumps(shape)]
            return {"code": subprocess.run(command, capture_output=True, check=False).returncode}

    asked = {**facts, "shape": list(shape), "hint": hint, "openvino": openvino.__version__}
    code = trials.remembered("openvino survives", asked, measure)["code"]
    if code:
        raise ConfigError(
            f"OpenVINO {openvino.__version__} fails on this model in batches of {shape[0]} (a trial process of it ended"
            f" with {code}): choose another precision or engine 'torch'"
        )


def _whole_batches(model: Any, shape: tuple[int, ...], hint: str, facts: dict[str, Any]) -> Callable[[Tensor], Tensor]:
    """All threads at one batch, or each at a part of it, which waits for no other: the faster way, by a trial."""
    threads = torch.get_num_threads()
    if threads == 1 or shape[0] % threads:
        return _compile(model, shape, hint)

    def measure() -> dict[str, Any]:
        example = torch.zeros(shape, dtype=torch.uint8)
        ways = {count: _compile(model, shape, hint, count) for count in (1, threads)}
        times = trials.time_in_turns({str(count): partial(way, example) for count, way in ways.items()}, 2.0)
        return {"streams": int(min(times, key=lambda count: times[count])), "seconds": times}

    asked = {**facts, "shape": list(shape), "hint": hint}
    return _compile(model, shape, hint, trials.remembered("openvino streams", asked, measure)["streams"])


def _compile(model: Any, shape: tuple[int, ...], hint: str, num_streams: int = 1) -> Callable[[Tensor], Tensor]:
    """An answer to batches of just this shape, in so many equal parts at once."""
    import openvino

    fixed = model.clone()
    fixed.reshape({fixed.input(0): [shape[0] // num_streams, *shape[1:]]})
    settings = {
        "INFERENCE_PRECISION_HINT": hint,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": num_streams,
        "PERFORMANCE_HINT": "LATENCY" if num_streams == 1 else "THROUGHPUT",
    }
    compiled = openvino.Core().compile_model(fixed, "CPU", settings)
    requests = [compiled.create_infer_request() for _ in range(num_streams)]

    def answer(images: Tensor) -> Tensor:
        for request, part in zip(requests, images.chunk(num_streams), strict=True):
            request.start_async({0: part.numpy()})
        for request in requests:
            request.wait()
        return torch.from_numpy(np.concatenate([request.get_output_tensor(0).data for request in requests]))

    return answer


def _convert(module: torch.nn.Module, example: Tensor) -> Any:
    with _no_reports(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its tracing of shapes, which are fixed but for the batch
        import openvino

        model = openvino.convert_model(module, example_input=example)
    model.reshape({model.input(0): [-1, *example.shape[1:]]})
    return model


def _quantize(model: Any, calibration: Tensor | None) -> Any:
    if calibration is None or not len(calibration):
        raise ConfigError("int8 needs some of your pictures to measure its ranges on: give a few dozen to 256")
    if importlib.util.find_spec("nncf") is None:
        raise ConfigError("int8 with OpenVINO needs NNCF: pip install 'vitrail[openvino]', or choose engine 'torch'")
    # It draws its progress on stdout, which belongs to the caller.
    with _no_reports(), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        import nncf

        nncf.set_log_level(40)
        pictures = nncf.Dataset([picture.numpy() for picture in calibration.split(1)])
        # In 8 bits the two together put a trained model's logits off by up to 89 % of their length, all others by 5 %.
        products = [one for one in model.get_ordered_ops() if one.get_type_name() in ("MatMul", "Convolution")]
        first_and_last = nncf.IgnoredScope(names=[products[place].get_friendly_name() for place in (0, -1)])
        return nncf.quantize(
            model,
            pictures,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            ignored_scope=first_and_last,
        )


def _capabilities() -> tuple[str, ...]:
    import openvino

    return tuple(openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"))


@contextlib.contextmanager
def _no_reports() -> Iterator[None]:
    """Both packages tell their maker of each use unless that module is missing: here it is."""
    name = "openvino_telemetry"
    is_loaded = name in sys.modules
    if not is_loaded:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if not is_loaded:
            del sys.modules[name]
