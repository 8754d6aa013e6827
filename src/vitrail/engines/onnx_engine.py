"""ONNX Runtime as an engine: in float32, from the folded model."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings

import torch
from torch import Tensor

from vitrail.engines.base import Description, Prepared
from vitrail.engines.config import InferenceConfig, Precision
from vitrail.engines.module_for_export import module_for_export
from vitrail.errors import ConfigError
from vitrail.weights.bundle import Bundle

_NEEDS = ("onnxruntime", "onnx", "onnxscript")
_MOST_BYTES = 2**31  # of one protobuf message


class OnnxEngine:
    """See `Engine`."""

    precisions: tuple[Precision, ...] = ("float32",)

    def missing(self) -> str | None:
        """See `Engine.missing`."""
        absent = [name for name in _NEEDS if importlib.util.find_spec(name) is None]
        return f"{absent[0]} is not installed: pip install 'vitrail[onnx]'" if absent else None

    def prepare(self, bundle: Bundle, config: InferenceConfig, calibration: Tensor | None) -> Prepared:
        """See `Engine.prepare`."""
        import onnxruntime

        if config.compile is False:
            raise ConfigError("ONNX Runtime always compiles: leave compile out, or choose engine 'torch'")
        preprocessing = bundle.config.preprocessing
        module, way = module_for_export(bundle.model, preprocessing, config.answer)
        if sum(parameter.nbytes for parameter in module.parameters()) > 0.9 * _MOST_BYTES:
            raise ConfigError("ONNX keeps at most 2 GB in one message, and this model is larger: choose another engine")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3
        shape = (preprocessing.num_channels, *preprocessing.image_size)
        session = onnxruntime.InferenceSession(
            _export(module, torch.zeros(2, *shape, dtype=torch.uint8)), options, providers=["CPUExecutionProvider"]
        )
        name = session.get_inputs()[0].name

        def answer(images: Tensor) -> Tensor:
            return torch.from_numpy(session.run(None, {name: images.numpy()})[0])

        return Prepared(answer, Description("onnx", config.precision, True, way), preprocessing)


def _export(module: torch.nn.Module, example: Tensor) -> bytes:
    """The model as ONNX, for any batch."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # of the exporter's own making
        batch = torch.export.Dim("batch", min=1, max=2**20)
        program = torch.onnx.export(
            module.eval(), (example,), dynamo=True, dynamic_shapes=({0: batch},), verbose=False, external_data=False
        )
    assert program is not None
    return bytes(program.model_proto.SerializeToString())
