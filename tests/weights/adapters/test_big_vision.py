"""big_vision's npz files: MAP heads, stacked blocks, two towers, bfloat16; timm's reader of them says what is right."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights.adapters.base import Model
from vitrail.weights.adapters.big_vision import write
from vitrail.weights.adapters.mapping import from_native
from vitrail.weights.bundle import Bundle
from vitrail.weights.checkpoint import Choices, open_checkpoint
from vitrail.weights.reading import read_checkpoint

timm = pytest.importorskip("timm")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

Arrays = dict[str, npt.NDArray[Any]]
GAP = ViTConfig(
    image_size=(12, 12), patch_size=4, num_classes=5, width=16, depth=3, num_heads=4, mlp_size=24, pooling="gap",
    class_token=False, activation="gelu_tanh",
)  # fmt: skip
MAP = replace(GAP, pooling="map")
TOKEN = replace(GAP, pooling="token", class_token=True, position_for_prefix=False)
SINCOS = replace(GAP, position_embedding="sincos_2d_big_vision")
CONFIGS = {"gap": GAP, "map": MAP, "token": TOKEN, "hidden layer": replace(MAP, pre_logits_size=7), "sincos": SINCOS}


def model_of(config: ViTConfig, seed: int = 0) -> VisionTransformer:
    """Every tensor random, so that no mistake hides behind a zero."""
    generator = torch.Generator().manual_seed(seed)
    model = VisionTransformer(config, generator=generator).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(float("norm" in name), 0.3 if config.width < 100 else 0.05, generator=generator)
    return model


def arrays_of(model: VisionTransformer) -> Arrays:
    writing = write(Model(model.config, Preprocessing(model.config.image_size), ()))
    return {name: tensor.numpy() for name, tensor in from_native(model.state_dict(), writing.entries).items()}


def save(arrays: Arrays, folder: Path) -> Path:
    np.savez(folder / "model.npz", **arrays)  # type: ignore[arg-type]
    return folder / "model.npz"


def read(path: Path, **choices: Any) -> Bundle:
    return read_checkpoint(open_checkpoint(path, Choices(**choices)), path)


def reasons(bundle: Bundle) -> dict[str, str]:
    assert bundle.certificate is not None
    return {tensor.name: tensor.reason for tensor in bundle.certificate.unused}


def same_bits(model: VisionTransformer, bundle: Bundle) -> bool:
    state, back = model.state_dict(), bundle.model.state_dict()
    return set(state) == set(back) and all(torch.equal(tensor, back[name]) for name, tensor in state.items())


def scanned(arrays: Arrays, depth: int) -> Arrays:
    """The blocks stacked along a leading axis, as nn.scan keeps them."""
    first = "Transformer/encoderblock_0/"
    stacked: Arrays = {}
    for name, array in arrays.items():
        if first in name:
            blocks = [arrays[name.replace(first, f"Transformer/encoderblock_{index}/")] for index in range(depth)]
            stacked[name.replace(first, "Transformer/encoderblock/")] = np.stack(blocks)
        elif "Transformer/encoderblock_" not in name:
            stacked[name] = array
    return stacked


def renamed(arrays: Arrays, old: str, new: str) -> Arrays:
    return {name.replace(old, new): array for name, array in arrays.items()}


@pytest.mark.parametrize("case", list(CONFIGS))
def test_there_and_back_every_bit_is_the_same(case: str, tmp_path: Path) -> None:
    model = model_of(CONFIGS[case])
    bundle = read(save(arrays_of(model), tmp_path), image_size=(12, 12))
    assert same_bits(model, bundle)
    assert bundle.config.model == model.config
    assert bundle.certificate is not None
    assert bundle.certificate.family == "big_vision"


@pytest.mark.parametrize("is_scanned", [False, True], ids=["blocks apart", "blocks stacked"])
@pytest.mark.parametrize(
    "config",
    [
        GAP,
        MAP,
        TOKEN,
        replace(TOKEN, image_size=(8, 20)),
        replace(MAP, num_classes=0),
        replace(MAP, image_size=(224, 224), patch_size=16, width=192, depth=12, num_heads=3, mlp_size=768),
    ],
    ids=["gap", "map", "token", "rectangle", "no head", "ViT-Ti/16 with MAP"],
)
@torch.no_grad()
def test_timm_reads_the_same_file_and_answers_the_same(config: ViTConfig, is_scanned: bool, tmp_path: Path) -> None:
    model = model_of(config)
    arrays = arrays_of(model)
    path = save(scanned(arrays, config.depth) if is_scanned else arrays, tmp_path)
    line = write(Model(config, Preprocessing(), ())).how_to_load
    assert line.startswith("timm.create_model(")
    pictures = torch.randn(2, 3, *config.image_size, generator=torch.Generator().manual_seed(1))
    expected = eval(line.format(file=path)).eval()(pictures)
    assert float(expected.abs().max()) > 0.1
    bundle = read(path, image_size=config.image_size)
    assert float((bundle.model(pictures) - expected).abs().max() / expected.abs().max()) < 1e-5
    assert same_bits(model, bundle)


def test_timm_is_not_recommended_where_it_would_answer_wrongly() -> None:
    for case in ("hidden layer", "sincos"):
        assert "big_vision" in write(Model(CONFIGS[case], Preprocessing(), ())).how_to_load


@pytest.mark.parametrize("positions", ["Transformer/pos_embedding", "Transformer/posembed_input/pos_embedding"])
def test_older_places_of_the_position_table_are_read(positions: str, tmp_path: Path) -> None:
    model = model_of(MAP)
    assert same_bits(model, read(save(renamed(arrays_of(model), "pos_embedding", positions), tmp_path)))


def test_the_parts_of_a_map_head_may_stand_beside_the_encoder(tmp_path: Path) -> None:
    model = model_of(MAP)
    assert same_bits(model, read(save(renamed(arrays_of(model), "MAPHead_0/", ""), tmp_path)))


@torch.no_grad()
def test_a_class_tokens_row_counts_as_added_to_the_token(tmp_path: Path) -> None:
    # What big_vision does with older files: cls + row 0, and the other rows alone (fix_old_checkpoints).
    arrays = arrays_of(model_of(TOKEN))
    row = np.full((1, 1, 16), 0.25, np.float32)
    older = {**arrays, "params/pos_embedding": np.concatenate([row, arrays["params/pos_embedding"]], axis=1)}
    newer = {**arrays, "params/cls": arrays["params/cls"] + row}
    bundles = []
    for name, tree in (("older", older), ("newer", newer)):
        (tmp_path / name).mkdir()
        bundles.append(read(save(tree, tmp_path / name)))
    assert [bundle.config.model.position_for_prefix for bundle in bundles] == [True, False]
    pictures = torch.randn(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(bundles[0].model(pictures), bundles[1].model(pictures))


def test_a_text_tower_is_no_loss_and_pictures_are_squashed(tmp_path: Path) -> None:
    model = model_of(replace(MAP, num_classes=0))
    arrays = renamed(arrays_of(model), "params/", "params/img/")
    text = {
        "params/txt/Embed_0/embedding": np.ones((9, 16), np.float32),
        "params/txt/Encoder_0/encoderblock/LayerNorm_0/scale": np.ones((2, 16), np.float32),
        "params/t": np.ones(1, np.float32),
        "params/b": np.ones(1, np.float32),
    }
    path = save({**arrays, **text}, tmp_path)
    bundle = read(path)
    assert same_bits(model, bundle)
    assert set(reasons(bundle)) == set(text)
    assert reasons(bundle)["params/txt/Embed_0/embedding"] == "the text tower"
    assert bundle.config.preprocessing == Preprocessing((12, 12), "squash", mean=(0.5,) * 3, std=(0.5,) * 3)
    assert same_bits(model, read(path, prefix="params/img/"))
    with pytest.raises(WeightsError, match="under --prefix 'params/text/'; there are: 'params/img/'"):
        read(path, prefix="params/text")


def test_a_projection_into_the_shared_space_is_told_from_a_classifier(tmp_path: Path) -> None:
    bundle = read(save(renamed(arrays_of(model_of(MAP)), "params/", "img/"), tmp_path))
    assert bundle.certificate is not None
    assert any("shared" in sentence or "share with the texts" in sentence for sentence in bundle.certificate.surgery)


def test_of_several_trees_the_caller_chooses(tmp_path: Path) -> None:
    models = {"student/": model_of(GAP), "teacher/": model_of(MAP, seed=1)}
    arrays: Arrays = {}
    for prefix, model in models.items():
        arrays.update(renamed(arrays_of(model), "params/", prefix))
    path = save(arrays, tmp_path)
    with pytest.raises(WeightsError, match="'student/', 'teacher/'; choose one with --prefix"):
        read(path)
    for prefix, model in models.items():
        bundle = read(path, prefix=prefix.rstrip("/"))
        assert same_bits(model, bundle)
        assert set(reasons(bundle).values()) == {"outside the tree that was asked for"}


def test_optimizer_and_clock_are_no_loss_and_no_model(tmp_path: Path) -> None:
    model = model_of(GAP)
    arrays = arrays_of(model)
    moments = {name.replace("params/", "opt/0/1/mu/"): array for name, array in arrays.items()}
    bundle = read(save({**moments, **arrays, "chrono/accum_train_time": np.array(3.0)}, tmp_path))
    assert same_bits(model, bundle)
    assert set(reasons(bundle)) == {*moments, "chrono/accum_train_time"}


def test_bfloat16_is_widened_and_said(tmp_path: Path) -> None:
    model = model_of(MAP)
    arrays: Arrays = {}
    for name, array in arrays_of(model).items():
        # As np.savez keeps what it has no name for: two nameless bytes a number.
        arrays[name] = torch.from_numpy(array).bfloat16().view(torch.int16).numpy().view("V2")
    bundle = read(save(arrays, tmp_path))
    state = bundle.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(state[name], tensor.bfloat16().float()), name
    assert bundle.certificate is not None
    assert any("bfloat16" in sentence for sentence in bundle.certificate.surgery)


@pytest.mark.parametrize(("size", "fraction"), [((12, 12), 0.875), ((384, 384), 384 / 448), ((8, 20), 0.875)], ids=str)
def test_a_classifiers_pictures_are_cut_from_their_centre(
    size: tuple[int, int], fraction: float, tmp_path: Path
) -> None:
    config = replace(GAP, image_size=size)
    bundle = read(save(arrays_of(model_of(config)), tmp_path), image_size=size)
    half = (0.5, 0.5, 0.5)
    assert bundle.config.preprocessing == Preprocessing(size, "crop", fraction, "bilinear", half, half)


def test_positions_that_no_table_holds_are_computed_and_that_is_said(tmp_path: Path) -> None:
    model = model_of(replace(SINCOS, image_size=(224, 224), patch_size=16))
    bundle = read(save(arrays_of(model), tmp_path))
    assert bundle.config.model == model.config
    assert bundle.certificate is not None
    sources = {setting.name: setting.source for setting in bundle.certificate.settings}
    assert "sincos2d" in sources["position_embedding"]
    assert "for want of a position table" in sources["image_size"]
    assert any("sincos2d" in sentence for sentence in bundle.certificate.surgery)


def test_without_a_table_a_picture_size_that_patches_do_not_divide_is_asked_for(tmp_path: Path) -> None:
    path = save(arrays_of(model_of(replace(SINCOS, image_size=(15, 15), patch_size=5))), tmp_path)
    with pytest.raises(WeightsError, match="--image-size"):
        read(path)
    assert read(path, image_size=(15, 15)).config.model.grid == (3, 3)
    with pytest.raises(WeightsError, match="patch_size 5 does not divide"):
        read(path, image_size=(16, 16))


@pytest.mark.parametrize("is_scanned", [False, True], ids=["apart", "stacked"])
def test_a_missing_or_a_left_over_tensor_stops_the_load_with_its_name(is_scanned: bool, tmp_path: Path) -> None:
    arrays = arrays_of(model_of(MAP))
    arrays = scanned(arrays, MAP.depth) if is_scanned else arrays
    # Without a table positions would be computed; without a kernel its bias is left over.
    told = {"params/embedding/kernel": "of no family", "params/head/kernel": "left over: 'params/head/bias'"}
    for name in set(arrays) - {"params/pos_embedding"}:
        whole = {key: array for key, array in arrays.items() if key != name}
        with pytest.raises(
            WeightsError, match=told.get(name, name if "probe" not in name else "left over: 'params/MAP")
        ):
            read(save(whole, tmp_path))
    for extra in ("params/head_2/kernel", "params/llm/embedder", "params/Transformer/encoderblock_7/x"):
        with pytest.raises(WeightsError, match=extra if "encoderblock" not in extra else "encoderblock_"):
            read(save({**arrays, extra: np.ones(3, np.float32)}, tmp_path))


def test_stacks_of_different_heights_are_no_blocks(tmp_path: Path) -> None:
    arrays = scanned(arrays_of(model_of(GAP)), GAP.depth)
    name = "params/Transformer/encoderblock/MlpBlock_0/Dense_1/bias"
    arrays[name] = np.concatenate([arrays[name], arrays[name][:1]])
    with pytest.raises(WeightsError, match=f"{name}.* the 3 blocks"):
        read(save(arrays, tmp_path))


def test_heads_of_the_pooling_must_be_those_of_the_encoder(tmp_path: Path) -> None:
    arrays = arrays_of(model_of(MAP))
    name = "params/MAPHead_0/MultiHeadDotProductAttention_0/key/kernel"
    arrays[name] = arrays[name].reshape(16, 2, 8)
    with pytest.raises(WeightsError, match=f"{name}.* heads of 4"):
        read(save(arrays, tmp_path))
