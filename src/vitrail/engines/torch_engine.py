"""torch as an engine: the folded Vision Transformer, packed, compiled where that pays; every other model as it is."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn

from vitrail.configuration import to_dict
from vitrail.data.config import Preprocessing
from vitrail.engines import trials
from vitrail.engines.base import Description, Prepared
from vitrail.engines.config import Answer, InferenceConfig, Precision
from vitrail.engines.folding import AttentionWay, FoldedViT, can_fold, has_kernel
from vitrail.engines.linear import Linear, PackedLinear, can_pack
from vitrail.engines.module_for_export import NormalizedModel
from vitrail.engines.quantization import has_int8, observe, quantize
from vitrail.errors import ConfigError
from vitrail.models.build import Model
from vitrail.models.vit import VisionTransformer
from vitrail.storage import cache_folder
from vitrail.weights.bundle import Bundle

# Until this machine has compiled once: what it takes and what it saves, measured with ViT-B/16 on two cores.
_COMPILE_SECONDS, _COMPILE_GAIN = 20.0, 0.15
_CALIBRATION_BATCH = 16
_MOST_SHAPES = 256  # of one block's code: batch of one or more, last block or not, precision, for every model


class TorchEngine:
    """See `Engine`."""

    precisions: tuple[Precision, ...] = ("float32", "bfloat16", "int8")

    def missing(self) -> str | None:
        """Never: torch is what the package stands on."""
        return None

    def prepare(self, bundle: Bundle, config: InferenceConfig, calibration: Tensor | None) -> Prepared:
        """See `Engine.prepare`."""
        model, preprocessing = bundle.model, bundle.config.preprocessing
        if not can_fold(model):
            return _plain(model, preprocessing, config)
        assert isinstance(model, VisionTransformer)
        folded, notes = _fold(model, preprocessing, config, calibration)
        example = torch.zeros(
            min(config.batch_size, config.pictures or config.batch_size),
            preprocessing.num_channels, *preprocessing.image_size, dtype=torch.uint8,
        )  # fmt: skip
        answer, is_compiled, more = _maybe_compiled(folded, config, example, to_dict(model.config))
        return Prepared(
            answer, Description("torch", config.precision, is_compiled, "folded", (*notes, *more)), preprocessing
        )


def _plain(model: Model, preprocessing: Preprocessing, config: InferenceConfig) -> Prepared:
    if config.precision == "int8":
        raise ConfigError(
            f"int8 is for Vision Transformers with global attention, and this model is a {model.config.family}: "
            "choose bfloat16 or float32"
        )
    if config.compile:
        raise ConfigError(f"a {model.config.family} runs as it is here, not compiled: leave compile out")
    own = NormalizedModel(model, preprocessing, config.answer)

    def answer(images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bfloat16"):
            return own(images)

    return Prepared(answer, Description("torch", config.precision, False, "plain"), preprocessing)


def _fold(
    model: VisionTransformer, preprocessing: Preprocessing, config: InferenceConfig, calibration: Tensor | None
) -> tuple[FoldedViT, tuple[str, ...]]:
    """The folded model, packed for the batch, and notes."""
    notes: tuple[str, ...] = ()
    answer: Answer = config.answer
    dtype = torch.float32 if config.precision == "float32" else torch.bfloat16
    if config.precision == "int8":
        if not has_int8():
            raise ConfigError("int8: this processor or build of torch has no exact 8-bit products; choose bfloat16")
        if calibration is None or not len(calibration):
            raise ConfigError("int8 needs some of your pictures to measure its ranges on: give a few dozen to 256")
        folded = FoldedViT(model, preprocessing, answer=answer)
        quantize(folded, observe(folded, calibration.split(_CALIBRATION_BATCH)), dtype)
        folded.lower(dtype)
        notes = ("patch embedding in bfloat16, head in float32",)
    else:
        folded = FoldedViT(model, preprocessing, dtype=dtype, answer=answer)
    if can_pack(dtype) and _is_faster_packed(model, config, dtype):
        folded.pack(config.batch_size * model.config.num_tokens)
    way = _attention_way(model, config, dtype)
    folded.attend_by(way)
    return folded, (*notes, f"attention: {way}")


def _is_faster_packed(model: VisionTransformer, config: InferenceConfig, dtype: torch.dtype) -> bool:
    """Whether oneDNN's products beat torch's own here, which in float32 are MKL's, half as fast on an AMD processor."""
    rows, width, hidden = config.batch_size * model.config.num_tokens, model.config.width, model.config.mlp_size

    def measure() -> dict[str, Any]:
        own = Linear(torch.randn(hidden, width), torch.randn(hidden)).to(dtype)
        packed, features = PackedLinear(own, rows), torch.randn(rows, width).to(dtype)
        with torch.inference_mode():
            times = trials.time_in_turns({"own": lambda: own(features), "packed": lambda: packed(features)}, 0.5)
        return {"choice": min(times, key=lambda way: times[way]), "seconds": times}

    facts = {"shape": [rows, width, hidden], "dtype": str(dtype)}
    return bool(trials.remembered("packing", facts, measure)["choice"] == "packed")


def _attention_way(model: VisionTransformer, config: InferenceConfig, dtype: torch.dtype) -> AttentionWay:
    """The faster way to attend for this shape on this machine, by a trial of some milliseconds."""
    heads, head_dim, tokens = model.config.num_heads, model.config.attention_head_dim, model.config.num_tokens
    batch = min(config.batch_size, 16)
    with_kernel = has_kernel(model, dtype)
    facts = {"shape": [batch, heads, tokens, head_dim], "dtype": str(dtype), "kernel": with_kernel}

    def measure() -> dict[str, Any]:
        parts = torch.randn(batch, tokens, 3, heads, head_dim).to(dtype)
        query, key, value = parts.permute(2, 0, 3, 1, 4).unbind(0)
        sdpa = nn.functional.scaled_dot_product_attention
        ways: dict[str, Callable[[], Tensor]] = {
            "products": lambda: ((query @ key.mT).softmax(-1) @ value).transpose(1, 2).flatten(2),
            "fused": lambda: sdpa(query, key, value, scale=1.0).transpose(1, 2).flatten(2),
        }
        if with_kernel:
            ways["kernel"] = lambda: torch.ops.vitrail.attention(parts.flatten(2), heads)
        times = trials.time_in_turns(ways)
        return {"choice": min(times, key=lambda way: times[way]), "seconds": times}

    choice = trials.remembered("attention", facts, measure)["choice"]
    assert choice in ("products", "fused", "kernel")
    return cast(AttentionWay, choice)


def _maybe_compiled(
    folded: FoldedViT, config: InferenceConfig, example: Tensor, architecture: Any
) -> tuple[Callable[[Tensor], Tensor], bool, tuple[str, ...]]:
    """The model, compiled where it is asked for or pays; whether it is; and why not."""
    if config.compile is False:
        return folded, False, ()
    obstacle = _no_compiler()
    if obstacle is not None:
        if config.compile:
            raise ConfigError(f"torch cannot compile here: {obstacle}; leave compile out, or install a C++ compiler")
        return folded, False, (f"torch cannot compile here: {obstacle}",)
    facts = {"architecture": architecture, "precision": config.precision, "batch": len(example)}
    with torch.inference_mode():
        plain_seconds = trials.time_in_turns({"plain": lambda: folded(example)}, seconds=0.5)["plain"]
        known = trials.recall("compile", facts) or {"seconds": _COMPILE_SECONDS, "gain": _COMPILE_GAIN}
        saved = math.inf
        if config.pictures is not None:
            saved = config.pictures / len(example) * plain_seconds * known["gain"]
        if config.compile is None and saved < known["seconds"]:
            return folded, False, (f"compiling would take {known['seconds']:.0f} s and save {saved:.0f}",)
        start = time.perf_counter()
        answer = compiled(folded)
        answer(example)
        seconds = time.perf_counter() - start
        fast_seconds = trials.time_in_turns({"compiled": lambda: answer(example)}, seconds=0.5)["compiled"]
    trials.keep("compile", facts, {"seconds": seconds, "gain": max(0.0, 1 - fast_seconds / plain_seconds)})
    return answer, True, ()


def compiled(folded: FoldedViT) -> Callable[[Tensor], Tensor]:
    """The model with its embedding and its blocks through torch.compile, for any batch size.

    Block by block: the code of one serves all, so that compiling takes a third of the time that the whole takes, for
    about 1 % of the speed. What the compiler makes stays in the cache folder.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder("inductor")))
    for module in (folded.embed, *folded.blocks):
        module.compile(fullgraph=True, dynamic=True)

    def answer(images: Tensor) -> Tensor:
        # One code serves every prepared model of a process, and there are more of them than torch expects.
        with torch._dynamo.config.patch(recompile_limit=_MOST_SHAPES):
            return folded(images)

    return answer


def _no_compiler() -> str | None:
    """Why torch.compile cannot work here, or None."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except Exception as error:  # torch's own kinds of error differ from version to version
        return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return None
