from __future__ import annotations

import argparse
import json
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from vitrail.errors import WeightsError
from vitrail.weights.checkpoint import Choices, open_checkpoint

TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b.weight": torch.ones(4), "c": torch.tensor(3)}


def _save_shards(folder: Path, suffix: str = "safetensors") -> Path:
    """A sharded checkpoint as hub repositories have them; returns its index."""
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    places = {}
    for number, names in enumerate((["a"], ["b.weight", "c"]), 1):
        shard = f"{stem}-0000{number}-of-00002.{suffix}"
        part = {name: TENSORS[name] for name in names}
        _ = save_file(part, folder / shard) if suffix == "safetensors" else torch.save(part, folder / shard)
        places |= dict.fromkeys(names, shard)
    index = folder / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 44}, "weight_map": places}))
    return index


def _assert_whole(path: Path) -> None:
    found = open_checkpoint(path).tensors
    assert found.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor), name


def test_the_same_tensors_come_out_of_every_container(tmp_path: Path) -> None:
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    save_file(TENSORS, tmp_path / "x.safetensors")
    np.savez(tmp_path / "x.npz", **arrays)
    np.savez_compressed(tmp_path / "packed.npz", **arrays)
    torch.save(TENSORS, tmp_path / "x.pth")
    torch.save(OrderedDict(TENSORS), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    (tmp_path / "x.pdparams").write_bytes(pickle.dumps(arrays, protocol=2))
    kinds = {}
    for path in sorted(tmp_path.iterdir()):
        _assert_whole(path)
        kinds[path.name] = open_checkpoint(path).container
    assert kinds == {
        "old.pth": "torch", "packed.npz": "npz", "x.npz": "npz", "x.pdparams": "paddle", "x.pth": "torch",
        "x.safetensors": "safetensors",
    }  # fmt: skip


def test_what_a_file_is_its_bytes_say_not_its_name(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "model.safetensors")
    _assert_whole(tmp_path / "model.safetensors")
    save_file(TENSORS, tmp_path / "weights.bin")
    _assert_whole(tmp_path / "weights.bin")


@pytest.mark.parametrize("is_zip", [True, False])
def test_nested_training_states_are_laid_flat_with_their_values(tmp_path: Path, is_zip: bool) -> None:
    state = {
        "model": {"w": torch.ones(2)},
        "optimizer": {"state": {0: {"step": torch.tensor(7.0)}}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "args": argparse.Namespace(arch="vit_small", lr=np.float64(0.5), out=Path("runs") / "1"),
        "epoch": np.int64(3),
        "best": True,
        "nothing": None,
    }
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=is_zip)
    checkpoint = open_checkpoint(tmp_path / "x.pth")
    assert set(checkpoint.tensors) == {"model/w", "optimizer/state/0/step"}
    assert checkpoint.values["args/arch"] == "vit_small"
    assert (checkpoint.values["args/lr"], type(checkpoint.values["args/lr"])) == (0.5, float)
    assert checkpoint.values["args/out"] == "runs/1"
    assert checkpoint.values["optimizer/param_groups/0/lr"] == 0.1
    assert (checkpoint.values["epoch"], checkpoint.values["best"]) == (3, True)


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_shards_are_put_together_from_a_folder_and_from_the_index(tmp_path: Path, suffix: str) -> None:
    index = _save_shards(tmp_path, suffix)
    _assert_whole(tmp_path)
    _assert_whole(index)


def test_a_folder_gives_its_configs_and_so_does_its_own_weights_file(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    (tmp_path / "preprocessor_config.json").write_text('{"size": 224}')
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert set(open_checkpoint(path).files) == {"config.json", "preprocessor_config.json"}
        assert open_checkpoint(path).files["config.json"] == {"model_type": "vit"}
    save_file(TENSORS, tmp_path / "other.safetensors")
    assert open_checkpoint(tmp_path / "other.safetensors").files == {}  # that config is of another file


def test_safetensors_go_before_the_same_model_as_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    save_file(TENSORS, tmp_path / "model.safetensors")
    torch.save({}, tmp_path / "optimizer.pt")
    _assert_whole(tmp_path)


@pytest.mark.parametrize(
    ("changed", "said"),
    [({"a": torch.zeros(2, 3)}, "'a' is another one"), ({"a": torch.ones(3, 2)}, "'a'"), (None, "no tensor in common")],
)
def test_two_files_of_one_model_that_disagree_are_refused(
    tmp_path: Path, changed: dict[str, torch.Tensor] | None, said: str
) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    torch.save({"d": torch.ones(1)} if changed is None else TENSORS | changed, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match=f"pytorch_model.bin beside it disagree: .*{said}"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path / "model.safetensors").tensors.keys() == TENSORS.keys()


@pytest.mark.parametrize("name", ["B_16.npz", "jx_vit.pth", "anything.safetensors", "vit.pdparams"])
def test_the_only_weights_of_a_folder_are_taken_whatever_their_name(tmp_path: Path, name: str) -> None:
    arrays = {name: tensor.numpy() for name, tensor in TENSORS.items()}
    if name.endswith("npz"):
        np.savez(tmp_path / name, **arrays)
    elif name.endswith("pth"):
        torch.save(TENSORS, tmp_path / name)
    elif name.endswith("pdparams"):
        (tmp_path / name).write_bytes(pickle.dumps(arrays, protocol=4))
    else:
        save_file(TENSORS, tmp_path / name)
    (tmp_path / "README.md").write_text("hello")
    (tmp_path / "training_args.bin").write_bytes(b"not weights")
    _assert_whole(tmp_path)


def test_several_weights_files_are_listed_and_none_is_picked(tmp_path: Path) -> None:
    for name in ("one.pth", "two.safetensors"):
        save_file(TENSORS, tmp_path / name)
    with pytest.raises(WeightsError, match=r"several weights files in it, one\.pth, two\.safetensors"):
        open_checkpoint(tmp_path)


def test_a_folder_without_weights_says_what_it_looked_for(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(WeightsError, match=r"no weights in it.*model\.safetensors.*\.npz"):
        open_checkpoint(tmp_path)
    with pytest.raises(WeightsError, match="No such file"):
        open_checkpoint(tmp_path / "typo.pth")


def test_names_are_of_the_file_the_folder_or_the_repository(tmp_path: Path) -> None:
    folder = tmp_path / "vit_tiny.augreg"
    folder.mkdir()
    save_file(TENSORS, folder / "model.safetensors")
    save_file(TENSORS, folder / "B_16.i1k.safetensors")
    assert open_checkpoint(folder).name == "vit_tiny.augreg"
    assert open_checkpoint(folder / "B_16.i1k.safetensors").name == "B_16.i1k"
    hub = open_checkpoint(folder, Choices(num_heads=3), where="timm/vit_tiny_patch16_224.augreg_in21k")
    assert (hub.name, hub.where) == ("vit_tiny_patch16_224.augreg_in21k", "timm/vit_tiny_patch16_224.augreg_in21k")
    assert hub.choices.num_heads == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda places: places.pop("c"), "the index does not know it"),
        (lambda places: places.update(d=places["a"]), r"'d' is not in model-00001-of-00002\.safetensors"),
        (lambda places: places.update(a=places["c"]), r"'a'.*00001.*the index has it in model-00002|'a' is not in"),
        (lambda places: places.update(a="model-00003-of-00003.safetensors"), "are not there: model-00003"),
        (lambda places: places.update(a="../secret.safetensors"), "no file beside it"),
        (lambda places: places.update(a="/etc/passwd"), "no file beside it"),
        (lambda places: places.update(a=3), "'weight_map'"),
        (lambda places: places.clear(), "'weight_map'"),
    ],
)
def test_shards_and_an_index_that_disagree_are_refused(tmp_path: Path, change: Any, message: str) -> None:
    index = _save_shards(tmp_path)
    content = json.loads(index.read_text())
    change(content["weight_map"])
    index.write_text(json.dumps(content))
    with pytest.raises(WeightsError, match=message):
        open_checkpoint(tmp_path)


def test_a_tensor_in_two_shards_is_refused(tmp_path: Path) -> None:
    _save_shards(tmp_path)
    save_file({"b.weight": TENSORS["b.weight"], "c": TENSORS["c"], "a": TENSORS["a"] + 1},
              tmp_path / "model-00002-of-00002.safetensors")  # fmt: skip
    with pytest.raises(WeightsError, match=r"'a' is in model-00002.*the index has it in model-00001"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe", b"[" * 100_000, b'{"a": ' + b" " * 33_000_000 + b"1}"])
def test_damaged_configs_are_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    save_file(TENSORS, tmp_path / "model.safetensors")
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=name.replace(".", r"\.")):
        open_checkpoint(tmp_path)


def test_tensors_of_safetensors_and_torch_stay_in_the_file_until_used(tmp_path: Path) -> None:
    """Their memory is the file's: nothing is copied when it is opened."""
    big = {"big": torch.zeros(64 << 20, dtype=torch.uint8)}
    save_file(big, tmp_path / "x.safetensors")
    torch.save(big, tmp_path / "x.pth")
    for name in ("x.safetensors", "x.pth"):
        checkpoint = open_checkpoint(tmp_path / name)
        address = checkpoint.tensors["big"].data_ptr()
        assert name in _file_mapped_at(address), name


def _file_mapped_at(address: int) -> str:
    try:
        lines = Path("/proc/self/maps").read_text().splitlines()
    except OSError:
        pytest.skip("this system does not tell what is mapped where")
    for line in lines:
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        if begin <= address < end:
            return line
    return ""
