"""Google's npz files, read here and written for timm's reader of them; the numbers of the first paper's layout."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights.adapters import flax_names
from vitrail.weights.adapters.base import Model, Writing
from vitrail.weights.adapters.google import write
from vitrail.weights.adapters.mapping import from_native, native_shapes
from vitrail.weights.bundle import Bundle, build_model
from vitrail.weights.checkpoint import Checkpoint, Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

Arrays = dict[str, npt.NDArray[Any]]
TINY = ViTConfig(
    image_size=(12, 12),
    patch_size=4,
    num_classes=5,
    width=16,
    depth=2,
    num_heads=4,
    mlp_size=24,
    activation="gelu_tanh",
)
# LayerNorms, attention and MLP of a block: before Linen, of Linen, and as no code is known to number them.
NUMBERINGS = {"pre-Linen": (0, 1, 2, 3), "Linen": (0, 0, 1, 0), "mixed": (0, 1, 1, 0), "other": (3, 2, 7, 5)}


def oracle_names(numbering: str, positions: str, prefix: str = "") -> list[tuple[str, tuple[int, ...]]]:
    """Name and shape in the order of the formula's tensor numbers."""
    norm1, attention, norm2, mlp = NUMBERINGS[numbering]
    names: list[tuple[str, tuple[int, ...]]] = [
        ("cls", (1, 1, 8)),
        ("embedding/kernel", (2, 2, 3, 8)),
        ("embedding/bias", (8,)),
        (positions, (1, 5, 8)),
    ]
    for index in range(2):
        block = f"Transformer/encoderblock_{index}/"
        names += [(f"{block}LayerNorm_{norm1}/scale", (8,)), (f"{block}LayerNorm_{norm1}/bias", (8,))]
        heads = f"{block}MultiHeadDotProductAttention_{attention}/"
        for part in ("query", "key", "value"):
            names += [(f"{heads}{part}/kernel", (8, 2, 4)), (f"{heads}{part}/bias", (2, 4))]
        names += [(f"{heads}out/kernel", (2, 4, 8)), (f"{heads}out/bias", (8,))]
        names += [(f"{block}LayerNorm_{norm2}/scale", (8,)), (f"{block}LayerNorm_{norm2}/bias", (8,))]
        names += [(f"{block}MlpBlock_{mlp}/Dense_0/kernel", (8, 16)), (f"{block}MlpBlock_{mlp}/Dense_0/bias", (16,))]
        names += [(f"{block}MlpBlock_{mlp}/Dense_1/kernel", (16, 8)), (f"{block}MlpBlock_{mlp}/Dense_1/bias", (8,))]
    names += [("Transformer/encoder_norm/scale", (8,)), ("Transformer/encoder_norm/bias", (8,))]
    names += [("head/kernel", (8, 3)), ("head/bias", (3,))]
    return [(prefix + name, shape) for name, shape in names]


def oracle(numbering: str, positions: str, prefix: str = "") -> Arrays:
    """A tiny model whose every weight is given by a formula."""
    arrays: Arrays = {}
    for number, (name, shape) in enumerate(oracle_names(numbering, positions, prefix)):
        index = np.arange(prod(shape), dtype=np.int64)
        values = ((31 * index**2 + 17 * index + 101 * number) % 1009) / 1009 - 0.5
        if name.endswith("bias"):
            values = 0.2 * values
        elif name.endswith("scale"):
            values = 1 + 0.2 * values
        arrays[name] = values.reshape(shape).astype(np.float32)
    return arrays


def oracle_picture() -> torch.Tensor:
    return torch.from_numpy(np.sin(0.5 * np.arange(48)).reshape(1, 4, 4, 3).transpose(0, 3, 1, 2)).float()


PAPER = "Transformer/posembed_input/pos_embedding"


def read(path: Path, **choices: Any) -> Bundle:
    return read_checkpoint(open_checkpoint(path, Choices(**choices)), path)


def save(arrays: Arrays, folder: Path) -> Path:
    np.savez(folder / "model.npz", **arrays)  # type: ignore[arg-type]
    return folder / "model.npz"


def model_of(config: ViTConfig, seed: int = 0) -> VisionTransformer:
    """Every tensor random, so that no mistake hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    model = VisionTransformer(config, generator=generator).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name), 0.3 if config.width < 100 else 0.05, generator=generator)
    return model


def written(model: VisionTransformer, folder: Path) -> tuple[Path, Writing]:
    writing = write(Model(model.config, Preprocessing(model.config.image_size), ()))
    arrays = {name: tensor.numpy() for name, tensor in from_native(model.state_dict(), writing.entries).items()}
    assert writing.weights_file == "model.npz"
    return save(arrays, folder), writing


def arrays_of(config: ViTConfig = TINY) -> Arrays:
    writing = write(Model(config, Preprocessing(config.image_size), ()))
    tensors = from_native(model_of(config).state_dict(), writing.entries)
    return {name: tensor.numpy() for name, tensor in tensors.items()}


def largest_relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize("prefix", ["", "opt/target/", "params/", "target/"])
@pytest.mark.parametrize(
    ("numbering", "positions"),
    [
        *((numbering, PAPER) for numbering in NUMBERINGS),
        ("Linen", "pos_embedding"),
        ("Linen", "Transformer/pos_embedding"),
    ],
)
def test_the_logits_of_a_model_known_by_formula(numbering: str, positions: str, prefix: str, tmp_path: Path) -> None:
    bundle = read(save(oracle(numbering, positions, prefix), tmp_path))
    expected = {
        "gelu_tanh": [-0.186644647, 1.631694913, 0.420067205],
        "gelu": [-0.186598966, 1.631591395, 0.419992410],
    }
    assert bundle.config.model.activation == "gelu_tanh"
    assert bundle.certificate is not None
    assert (bundle.certificate.num_matched, bundle.certificate.unused) == (40, ())
    for activation, logits in expected.items():
        config = replace(bundle.config.model, activation=activation)  # type: ignore[arg-type]
        model = build_model(config, bundle.model.state_dict(), "the oracle")
        with torch.no_grad():
            np.testing.assert_allclose(model(oracle_picture())[0].numpy(), logits, atol=2e-6, rtol=0)


def test_without_a_class_token_the_mean_of_the_patches_is_taken(tmp_path: Path) -> None:
    arrays = oracle("pre-Linen", PAPER)
    del arrays["cls"]
    arrays[PAPER] = arrays[PAPER][:, 1:]
    bundle = read(save(arrays, tmp_path))
    assert bundle.config.model.pooling == "gap"
    assert bundle.config.model.num_tokens == 4
    assert bundle.certificate is not None
    assert bundle.certificate.family == "Google's npz files"


def test_the_familys_rules_travel_with_the_weights(tmp_path: Path) -> None:
    path, _ = written(model_of(TINY), tmp_path)
    bundle = read(path)
    assert bundle.config.model == TINY
    assert bundle.config.preprocessing == Preprocessing((12, 12), "squash", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert (bundle.config.resampling, bundle.config.patch_resampling) == ("bilinear_align_corners", "bilinear")
    assert bundle.certificate is not None
    sources = {setting.name: setting.source for setting in bundle.certificate.settings}
    assert sources["num_heads"].startswith("the shape of 'Transformer/encoderblock_0/")
    assert sources["activation"] == sources["layer_norm_eps"] == "the family's rule"
    assert "10 rows" in sources["image_size"]


CASES: dict[str, dict[str, Any]] = {
    "class token": {},
    "hidden layer before the head": {"pre_logits_size": 7},
    "no head": {"num_classes": 0},
    "no head but the hidden layer": {"num_classes": 0, "pre_logits_size": 16},
    "grey": {"in_channels": 1},
    "mean": {"class_token": False, "pooling": "gap"},
    "attention pooling": {"class_token": False, "pooling": "map"},
    "class token without a position": {"position_for_prefix": False},
    "sincos": {"class_token": False, "pooling": "gap", "position_embedding": "sincos_2d_big_vision"},
    "another epsilon and GELU": {"layer_norm_eps": 1e-5, "activation": "gelu"},
}


@pytest.mark.parametrize("case", list(CASES))
def test_there_and_back_every_bit_is_the_same(case: str, tmp_path: Path) -> None:
    model = model_of(replace(TINY, **CASES[case]))
    path, writing = written(model, tmp_path)
    assert set(native_shapes(model.config)) <= {entry.native for entry in writing.entries}
    bundle = read(path, image_size=(12, 12))
    state, back = model.state_dict(), bundle.model.state_dict()
    assert set(state) == set(back)
    for name, tensor in state.items():
        assert torch.equal(tensor, back[name]), name
    assert replace(bundle.config.model, **writing.assumed) == replace(model.config, **writing.assumed)
    assert replace(model.config, **writing.assumed) == bundle.config.model


def test_what_the_layout_cannot_carry_is_said_and_only_that(tmp_path: Path) -> None:
    assert written(model_of(TINY), tmp_path)[1].assumed == {}
    other = replace(TINY, layer_norm_eps=1e-5, activation="gelu", dropout_rate=0.1)
    _, writing = written(model_of(other), tmp_path)
    assert writing.assumed == {"activation": "gelu_tanh", "layer_norm_eps": 1e-6}


@pytest.mark.parametrize(
    "config",
    [
        TINY,
        replace(TINY, image_size=(8, 20)),
        replace(TINY, num_classes=0),
        replace(TINY, in_channels=1),
        replace(TINY, mlp_size=25, num_heads=2),
        replace(TINY, image_size=(224, 224), patch_size=16, width=192, depth=12, num_heads=3, mlp_size=768),
    ],
    ids=["tiny", "rectangle", "no head", "grey", "odd MLP", "ViT-Ti/16"],
)
@torch.no_grad()
def test_timm_reads_what_is_written_and_answers_the_same(config: ViTConfig, tmp_path: Path) -> None:
    model = model_of(config)
    path, writing = written(model, tmp_path)
    assert writing.how_to_load.startswith("timm.create_model(")
    peer = eval(writing.how_to_load.format(file=path)).eval()
    pictures = torch.randn(2, config.in_channels, *config.image_size, generator=torch.Generator().manual_seed(1))
    expected = peer(pictures)
    assert float(expected.abs().max()) > 0.1
    assert largest_relative(model(pictures), expected) < 1e-5
    bundle = read(path, image_size=config.image_size)
    assert largest_relative(bundle.model(pictures), expected) < 1e-5


@pytest.mark.parametrize("config", [replace(TINY, pre_logits_size=16), replace(TINY, num_classes=0, pre_logits_size=4)])
def test_timm_is_not_recommended_where_it_would_leave_the_hidden_layer_out(config: ViTConfig) -> None:
    assert "vit_jax" in write(Model(config, Preprocessing(), ())).how_to_load


def test_the_names_are_those_of_the_released_files() -> None:
    released = {name for name, _ in oracle_names("pre-Linen", PAPER)}
    assert set(arrays_of()) == released
    assert set(arrays_of(replace(TINY, pre_logits_size=9))) - released == {"pre_logits/kernel", "pre_logits/bias"}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"num_register_tokens": 2}, "num_register_tokens 2"),
        ({"distillation_token": True}, "distillation_token True"),
        ({"layer_scale_init": 0.1}, "layer_scale_init 0.1"),
        ({"activation": "swiglu"}, "activation 'swiglu'"),
        ({"activation": "relu"}, "activation 'relu'"),
        ({"qkv_bias": False}, "qkv_bias False"),
        ({"patch_norm": True}, "patch_norm True"),
        ({"patch_bias": False}, "patch_bias False"),
        ({"input_norm": True}, "input_norm True"),
        ({"activation": "quick_gelu"}, "activation 'quick_gelu'"),
        ({"pooling": "avg"}, "pooling 'avg'"),
        ({"pooling": "token_and_gap"}, "pooling 'token_and_gap'"),
        ({"pooling": "gap"}, "class_token True with pooling 'gap'"),
        ({"pooling": "map"}, "class_token True with pooling 'map'"),
        ({"pooling": "gap", "pool_prefix": True}, "pool_prefix True"),
        ({"position_embedding": "none"}, "position_embedding 'none'"),
        ({"position_embedding": "relative"}, "position_embedding 'relative'"),
        ({"position_embedding": "learned_2d"}, "position_embedding 'learned_2d'"),
        ({"position_embedding": "sincos_2d_mae"}, "position_embedding 'sincos_2d_mae'"),
        ({"position_placement": "every_layer"}, "position_placement 'every_layer'"),
        ({"block_style": "post_norm"}, "block_style 'post_norm'"),
        ({"head_dim": 8}, "head_dim 8"),
        ({"stem": "conv", "stem_widths": (4,)}, "stem 'conv'"),
    ],
)
def test_what_the_layout_cannot_say_is_refused_by_name(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(WeightsError, match=field):
        write(Model(replace(TINY, **changes), Preprocessing(), ()))


def test_a_training_states_optimizer_is_no_loss(tmp_path: Path) -> None:
    arrays = {f"opt/target/{name}": array for name, array in arrays_of().items()}
    moments = {f"opt/state/param_states/{name}/grad_ema": array for name, array in arrays_of().items()}
    bundle = read(save({**arrays, **moments, "opt/state/step": np.array(7)}, tmp_path))
    assert bundle.certificate is not None
    assert len(bundle.certificate.unused) == len(moments) + 1
    assert {tensor.reason for tensor in bundle.certificate.unused} == {"the optimizer's state"}


@pytest.mark.parametrize("name", list(arrays_of()))
def test_a_missing_tensor_stops_the_load(name: str, tmp_path: Path) -> None:
    arrays = arrays_of()
    del arrays[name]
    # A kernel by which the family is known; a token without which its row of the table, and a kernel without which its
    # bias, has no place.
    told = {
        "embedding/kernel": "of no family",
        "cls": "rows of .* are no square",
        "head/kernel": "head/bias",
    }
    with pytest.raises(WeightsError, match=told.get(name, name)):
        read(save(arrays, tmp_path))


def test_a_missing_block_stops_the_load(tmp_path: Path) -> None:
    arrays = {k: v for k, v in arrays_of(replace(TINY, depth=4)).items() if "encoderblock_2" not in k}
    with pytest.raises(WeightsError, match=r"'Transformer/encoderblock_2/\.\.\.' is missing"):
        read(save(arrays, tmp_path))


@pytest.mark.parametrize(
    "extra",
    ["head_2/kernel", "Transformer/encoderblock_1/LayerNorm_4/scale", "opt/target/head/kernel", "Transformer/x/scale"],
)
def test_a_tensor_left_over_stops_the_load_with_its_name(extra: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=f"left over: '{extra}'"):
        read(save({**arrays_of(), extra: np.ones(16, np.float32)}, tmp_path))


@pytest.mark.parametrize("part", ["query/kernel", "key/kernel", "value/bias", "out/kernel"])
def test_heads_that_disagree_are_not_read_by_reshaping(part: str, tmp_path: Path) -> None:
    arrays = arrays_of()
    name = f"Transformer/encoderblock_1/MultiHeadDotProductAttention_1/{part}"
    shape = {"query/kernel": (16, 2, 8), "key/kernel": (16, 2, 8), "value/bias": (2, 8), "out/kernel": (2, 8, 16)}
    arrays[name] = arrays[name].reshape(shape[part])
    with pytest.raises(WeightsError, match=f"{name}.* heads of 4"):
        read(save(arrays, tmp_path))


def test_another_number_of_heads_than_the_kernels_is_refused(tmp_path: Path) -> None:
    path = save(arrays_of(), tmp_path)
    assert read(path, num_heads=4).config.model.num_heads == 4
    with pytest.raises(WeightsError, match="--num-heads 8 contradicts"):
        read(path, num_heads=8)


def test_a_rectangle_needs_its_picture_size_and_no_other_does(tmp_path: Path) -> None:
    path = save(arrays_of(replace(TINY, image_size=(8, 20))), tmp_path)
    with pytest.raises(WeightsError, match=r"11 rows .* --image-size"):
        read(path)
    assert read(path, image_size=(20, 8)).config.model.grid == (5, 2)
    with pytest.raises(WeightsError, match=r"--image-size 8 16 .* 11 rows"):
        read(path, image_size=(8, 16))


def test_labels_of_the_caller_must_be_as_many_as_the_classes(tmp_path: Path) -> None:
    path = save(arrays_of(), tmp_path)
    assert read(path, labels=tuple("abcde")).config.labels == tuple("abcde")
    with pytest.raises(WeightsError, match=r"2 labels \(the caller\) for a head of 5 classes"):
        read(path, labels=("a", "b"))


def test_a_bit_resnet_without_units_is_refused_as_such() -> None:
    names = ["resnet/root_block/standardized_conv2d/kernel", "resnet/head/conv2d/kernel"]
    checkpoint = Checkpoint("R50.npz", "R50", "npz", {name: torch.zeros(1, 1, 3, 8) for name in names})
    with pytest.raises(WeightsError, match="BiT ResNet"):
        read_checkpoint(checkpoint, Path("R50.npz"))


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("embedding/kernel", (48, 16), "NaFlex"),
        ("embedding/kernel", (4, 2, 3, 16), "patches of 4x2"),
        ("embedding/kernel", (4, 4, 4, 16), "4 channels"),
        ("embedding/kernel", (0, 0, 3, 16), "is empty"),
        ("embedding/kernel", (4, 4, 3, 15), "are those of no model|another shape"),
        (PAPER, (10, 16), "3 axes"),
        (PAPER, (3, 10, 16), "not one table"),
        ("Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query_ln/scale", (4,), "normalises queries"),
        ("head/kernel", (5,), "2 axes"),
        ("Transformer/encoderblock_1/MlpBlock_3/Dense_0/kernel", (16, 23), "another shape"),
    ],
)
def test_shapes_that_the_model_cannot_have_are_named(
    name: str, shape: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=message):
        read(save({**arrays_of(), name: np.ones(shape, np.float32)}, tmp_path))


@settings(derandomize=True, max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(1, 5), st.integers(1, 3))
def test_kernels_of_heads_become_rows_and_back_bit_by_bit(width: int, heads: int, head_dim: int, parts: int) -> None:
    kernels = [torch.randn(width, heads, head_dim) for _ in range(parts)]
    biases = [torch.randn(heads, head_dim) for _ in range(parts)]
    out = torch.randn(heads, head_dim, width)
    tokens = torch.randn(3, width)
    codec = flax_names.head_kernels(heads, head_dim)
    rows = codec.decode(*kernels)
    assert rows.shape == (parts * heads * head_dim, width)
    for part, kernel in enumerate(kernels):
        # Row n * head_dim + e of a part is head n's feature e, as einsum over (D, h, e) has it.
        expected = torch.einsum("td,dhe->the", tokens, kernel)
        found = (tokens @ rows.t()).unflatten(1, (parts, heads, head_dim))[:, part]
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert all(torch.equal(a, b) for a, b in zip(codec.encode(rows), kernels, strict=True))
    codec = flax_names.head_biases(heads, head_dim)
    assert all(torch.equal(a, b) for a, b in zip(codec.encode(codec.decode(*biases)), biases, strict=True))
    codec = flax_names.out_kernel(heads, head_dim)
    assert torch.equal(codec.encode(codec.decode(out))[0], out)
    attended = torch.randn(3, heads, head_dim)
    found = attended.flatten(1) @ codec.decode(out).t()
    torch.testing.assert_close(found, torch.einsum("the,hed->td", attended, out), atol=1e-5, rtol=1e-5)


def test_every_native_tensor_has_one_entry() -> None:
    for changes in CASES.values():
        config = replace(TINY, **changes)
        entries = write(Model(config, Preprocessing(), ())).entries
        assert sorted(entry.native for entry in entries) == sorted(native_shapes(config))
