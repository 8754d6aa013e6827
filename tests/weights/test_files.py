from __future__ import annotations

import io
import os
import pickle
import stat
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.errors import WeightsError
from vitrail.weights.files import read_tensors, write_tensors

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.uint8, torch.bool]


class Sentinel:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shapes=st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"),
        st.lists(st.integers(0, 4), max_size=4),
        max_size=5,
    ),
    dtype=st.sampled_from(DTYPES),
    seed=st.integers(0, 2**32),
)
def test_tensors_come_back_bit_for_bit(
    tmp_path_factory: pytest.TempPathFactory, shapes: dict[str, list[int]], dtype: torch.dtype, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors = {name: torch.randn(shape, generator=generator).mul(9).to(dtype) for name, shape in shapes.items()}
    path = tmp_path_factory.mktemp("weights") / "x.safetensors"
    write_tensors(path, tensors)
    found = read_tensors(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].dtype == dtype
        assert torch.equal(found[name], tensor)


def test_views_transposes_and_shared_memory_are_written_by_value(tmp_path: Path) -> None:
    table = torch.arange(24.0).reshape(4, 6)
    picture = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    tensors = {"whole": table, "again": table, "row": table[1], "turned": table.t(), "picture": picture}
    write_tensors(tmp_path / "x.safetensors", tensors)
    for name, tensor in read_tensors(tmp_path / "x.safetensors").items():
        assert torch.equal(tensor, tensors[name]), name


def test_others_may_read_the_file_as_the_umask_says(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)})
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "x.safetensors")]
    assert modes[0] == modes[1]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", ["weights.pth", "model.safetensors"])
def test_a_pickle_is_refused_unread(tmp_path: Path, protocol: int, name: str) -> None:
    sentinel = tmp_path / "sentinel"
    path = tmp_path / name
    path.write_bytes(pickle.dumps(Sentinel(sentinel), protocol=protocol))
    with pytest.raises(WeightsError, match=name):
        read_tensors(path)
    assert not sentinel.exists()
    pickle.loads(path.read_bytes())
    assert sentinel.exists()  # it would have fired


def test_what_torch_and_numpy_save_is_refused_and_named(tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    torch.save(Sentinel(sentinel), tmp_path / "model.pth")
    np.savez(tmp_path / "model.npz", a=np.zeros(2))
    np.save(tmp_path / "model.npy", np.zeros(2))
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as archive:
        archive.writestr("data.pkl", pickle.dumps(Sentinel(sentinel)))
    for name, kind in (("pth", "zip archive"), ("npz", "zip archive"), ("npy", "NumPy"), ("zip", "zip archive")):
        with pytest.raises(WeightsError, match=rf"model\.{name}: .*{kind}.*refused unread.*\.safetensors"):
            read_tensors(tmp_path / f"model.{name}")
    assert not sentinel.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"{}", "not a safetensors file"),
        (b"\xff" * 64, "not a safetensors file"),  # a header longer than the file
        (b"hello, these are not weights", "not a safetensors file"),
    ],
)
def test_other_bytes_are_refused(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        read_tensors(path)


def test_a_file_cut_off_anywhere_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"a": torch.arange(6.0), "b": torch.arange(3)})
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"x\.safetensors"):
            read_tensors(path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="No such file"):
        read_tensors(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="directory"):
        read_tensors(tmp_path)


def test_pickles_are_known_even_in_a_stream_of_torchs_old_format(tmp_path: Path) -> None:
    file = io.BytesIO()
    torch.save({"a": torch.zeros(1)}, file, _use_new_zipfile_serialization=False)
    path = tmp_path / "old.pt"
    path.write_bytes(file.getvalue())
    with pytest.raises(WeightsError, match="pickle"):
        read_tensors(path)
