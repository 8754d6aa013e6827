"""Weights that are damaged, are something else, or are made to do harm: one clear sentence, and nothing is run."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from vitrail.errors import VitrailError, WeightsError
from vitrail.weights.checkpoint import open_checkpoint
from vitrail.weights.formats import nested


class Harm:
    """Pickled, it creates a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, int]]:
        return os.open, (str(self.path), os.O_CREAT)


def _safetensors() -> bytes:
    return save({"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)})


def _npz(pack: Callable[..., None] = np.savez) -> bytes:
    file = io.BytesIO()
    pack(file, **{"head/kernel": np.arange(6.0, dtype=np.float32).reshape(2, 3), "step": np.int64(3)})
    return file.getvalue()


def _torch(is_zip: bool = True, content: Any = None) -> bytes:
    file = io.BytesIO()
    state = {"model": {"w": torch.arange(6.0).reshape(2, 3)}, "epoch": 3} if content is None else content
    torch.save(state, file, _use_new_zipfile_serialization=is_zip)
    return file.getvalue()


def _paddle(protocol: int) -> bytes:
    arrays = {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "b": ("linear_0.b_0", np.ones(3, np.float32))}
    return pickle.dumps({**arrays, "StructuredToParameterName@@": {"w": "linear_0.w_0"}}, protocol=protocol)


FORMATS: dict[str, Callable[[], bytes]] = {
    "safetensors": _safetensors,
    "npz": _npz,
    "packed npz": lambda: _npz(np.savez_compressed),
    "torch": _torch,
    "old torch": lambda: _torch(is_zip=False),
    "paddle 2": lambda: _paddle(2),
    "paddle 4": lambda: _paddle(4),
}


def _refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        open_checkpoint(path)
    assert path.name in str(caught.value)
    return str(caught.value)


def _read_or_refuse(path: Path) -> None:
    try:
        tensors = open_checkpoint(path).tensors
    except VitrailError as error:
        message = str(error)
    else:
        message = str(path)
        for tensor in tensors.values():
            tensor.clone()  # its memory is there
    assert str(path) in message


@pytest.mark.parametrize("kind", FORMATS)
def test_a_file_cut_off_anywhere_is_refused_by_name(tmp_path: Path, kind: str) -> None:
    whole = FORMATS[kind]()
    (tmp_path / "whole").write_bytes(whole)
    open_checkpoint(tmp_path / "whole")
    for length in sorted({0, 1, 2, 8, 9, *range(10, len(whole), max(1, len(whole) // 40)), len(whole) - 1}):
        _refusal(tmp_path / "cut", whole[:length])


@pytest.mark.parametrize("kind", FORMATS)
def test_flipped_bytes_are_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    whole = FORMATS[kind]()
    path = tmp_path_factory.mktemp("flipped") / "x"

    @settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(st.lists(st.tuples(st.integers(0, len(whole) - 1), st.integers(1, 255)), min_size=1, max_size=4))
    def check(flips: list[tuple[int, int]]) -> None:
        damaged = bytearray(whole)
        for place, change in flips:
            damaged[place] ^= change
        path.write_bytes(damaged)
        _read_or_refuse(path)

    check()


@pytest.mark.parametrize("kind", ["npz", "packed npz", "torch"])
def test_a_flipped_byte_of_the_numbers_is_found_where_the_file_has_a_checksum(tmp_path: Path, kind: str) -> None:
    content = bytearray(FORMATS[kind]())
    numbers = np.arange(6.0, dtype=np.float32).tobytes()
    place = content.find(numbers) if kind != "packed npz" else content.find(b"head/kernel.npy") + 40
    content[place + 5] ^= 1
    assert "damaged or incomplete" in _refusal(tmp_path / "x", bytes(content))


@settings(max_examples=150, deadline=None, derandomize=True)
@given(start=st.sampled_from([b"", b"\x80\x02", b"\x80\x04", b"PK\x03\x04", b"\x10\0\0\0\0\0\0\0{"]), rest=st.binary())
def test_any_bytes_are_refused_or_read_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, start: bytes, rest: bytes
) -> None:
    path = tmp_path_factory.mktemp("any") / "x"
    path.write_bytes(start + rest)
    _read_or_refuse(path)


@pytest.mark.parametrize("name", ["x.pth", "x.bin", "x.pdparams", "x.safetensors", "x.npz"])
@pytest.mark.parametrize(
    "make",
    [
        *(lambda harm, p=protocol: pickle.dumps({"w": harm}, protocol=p) for protocol in range(6)),
        lambda harm: _torch(content={"w": torch.zeros(2), "x": harm}),
        lambda harm: _torch(is_zip=False, content={"w": torch.zeros(2), "x": harm}),
    ],
)
def test_a_pickle_with_code_is_refused_unread_with_the_way_out(
    tmp_path: Path, name: str, make: Callable[[Harm], bytes]
) -> None:
    content = make(Harm(tmp_path / "sentinel"))
    message = _refusal(tmp_path / name, content)
    assert "convert it where it was made" in message or "download it again" in message
    if "old protocol" not in message and "of a format" not in message:
        assert "'posix.open'" in message
        assert "save_file" in message or "numpy.savez" in message
    assert not (tmp_path / "sentinel").exists()


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02c__builtin__\neval\nX\x01\0\0\x001\x85R.",
        b"\x80\x02cnumpy.core.multiarray\nscalar\ncos\nsystem\n\x85R.",
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x02ls\x85R.",
        b"\x80\x02(i__builtin__\nexec\n.",  # INST
        b"\x80\x02]\x81.",  # NEWOBJ
        b"\x80\x02\x82\x01.",  # EXT1
        b"\x80\x02Pid\n.",  # PERSID
        b"\x80\x02cbuiltins\ngetattr\ncos\nsystem\n\x86R.",
    ],
)
def test_every_instruction_and_symbol_beyond_arrays_is_refused(tmp_path: Path, pickled: bytes) -> None:
    assert "refused" in _refusal(tmp_path / "x.pdparams", pickled)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_arrays_of_objects_are_refused_unread(tmp_path: Path, protocol: int) -> None:
    objects = np.array([Harm(tmp_path / "sentinel"), None], dtype=object)
    np.savez(tmp_path / "x.npz", fine=np.zeros(2), **{"args/all": objects})
    with pytest.raises(WeightsError, match=r"x\.npz: 'args/all': an array of Python objects, refused unread"):
        open_checkpoint(tmp_path / "x.npz")
    assert "refused" in _refusal(tmp_path / "x.pdparams", pickle.dumps({"w": objects}, protocol=protocol))
    harmless = pickle.dumps({"w": np.array([1, None], dtype=object)}, protocol=protocol)
    assert "array of Python objects, refused unread" in _refusal(tmp_path / "y.pdparams", harmless)
    assert not (tmp_path / "sentinel").exists()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1\nsize 346\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LFS, "git lfs pull"),
        (b"<!DOCTYPE html><html><head><title>404</title>", "a web page saved as weights"),
        (b"\n  <html>", "a web page saved as weights"),
        (b'{"error": "Repository not found"}', "a text file, not weights"),
        (b"lr: 0.1\n", "a text file, not weights"),
        (b"", "the file is empty"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
        (b"GGUF\x03\0\0\0" + bytes(64), "GGUF"),
        (b"\x93NUMPY\x01\0" + bytes(64), r"numpy\.savez"),
        (b"\x08\x07\x12\x07pytorch\x1a\x051.9" + bytes(20), "ONNX"),
        (b"\x82\xa6params\x83\xa5Dense" + bytes(20), "MessagePack"),
        (b"\x1f\x8b\x08\0" + bytes(20), "unpack it first"),
        (bytes(200), "damaged, or of a format that is not read"),
    ],
)
@pytest.mark.parametrize("name", ["model.safetensors", "x.pth"])
def test_what_is_no_checkpoint_is_named_with_what_to_do(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=message):
        open_checkpoint(path)


def test_a_git_lfs_pointer_in_a_cloned_repository_is_told(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(LFS)
    with pytest.raises(WeightsError, match=r"model\.safetensors: a git-LFS pointer.*git lfs pull"):
        open_checkpoint(tmp_path)


def test_torchscript_archives_are_refused_unread(tmp_path: Path) -> None:
    # As torch.jit.save lays one out.
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        for name in ("x/data.pkl", "x/constants.pkl", "x/code/__torch__.py", "x/version"):
            archive.writestr(name, b"")
    with pytest.raises(WeightsError, match=r"TorchScript archive.*state_dict"):
        open_checkpoint(tmp_path / "x.pt")


@pytest.mark.parametrize(("names", "message"), [(["model.weights.h5", "config.json"], "Keras"), (["a.txt"], "a.txt")])
def test_other_zip_archives_are_named_by_what_they_hold(tmp_path: Path, names: list[str], message: str) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"x")
    with pytest.raises(WeightsError, match=message):
        open_checkpoint(tmp_path / "x.zip")


def _with_header(header: bytes, data: bytes = b"") -> bytes:
    return len(header).to_bytes(8, "little") + header + data


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}, "the file holds 8"),
        ({"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}, "8 bytes for F32"),
        ({"dtype": "F32", "shape": [-2], "data_offsets": [0, 8]}, "whole numbers"),
        ({"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}, "bytes 8 to 0"),
        ({"dtype": "F33", "shape": [2], "data_offsets": [0, 8]}, "F33"),
        ({"dtype": "F32", "shape": [1] * 1000, "data_offsets": [0, 8]}, "whole numbers"),
        ({"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]}, "not read"),
        (3, "no table"),
    ],
)
def test_a_header_that_claims_what_is_not_there_is_refused(tmp_path: Path, entry: object, message: str) -> None:
    assert message in _refusal(tmp_path / "x", _with_header(json.dumps({"w": entry}).encode(), bytes(8)))


@pytest.mark.parametrize("header", [b"{" * 1000, b'{"a":' * 90_000, b'{"w":1,"w":2}', b'{"w"', b"{}garbage"])
def test_headers_that_are_no_table_are_refused(tmp_path: Path, header: bytes) -> None:
    assert "damaged or incomplete" in _refusal(tmp_path / "x", _with_header(header))


def test_a_million_tensors_are_refused_before_they_are_parsed(tmp_path: Path) -> None:
    entry = b'"t%07d":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    header = b"{" + b",".join(entry % number for number in range(1_000_000)) + b"}"
    assert "more than 100,000 tensors" in _refusal(tmp_path / "x", _with_header(header))


def _member(name: str, content: bytes, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, content)
    return file.getvalue()


def test_an_archive_that_would_unpack_to_far_more_is_refused(tmp_path: Path) -> None:
    bomb = _member("w.npy", b"\x93NUMPY" + bytes(200_000_000))
    assert len(bomb) < 1_000_000
    assert "claim to unpack to" in _refusal(tmp_path / "x.npz", bomb)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }", "its header claims"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", "damaged"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", "holds more than"),
        (b"{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }", "its header claims|ends after"),
        (b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", "Python objects"),
        (b"{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (2,), }", "which no weights are"),
        (b"{'descr': '<c8', 'fortran_order': False, 'shape': (1,), }", "which no weights are"),
        (b"__import__('os').system('true')", "damaged"),
        (b"(" * 3000, "damaged"),
    ],
)
def test_array_headers_that_do_not_fit_are_refused(tmp_path: Path, header: bytes, message: str) -> None:
    padded = header + b" " * (-(len(header) + 11) % 64) + b"\n"
    content = b"\x93NUMPY\x01\0" + struct.pack("<H", len(padded)) + padded + bytes(8)
    path = tmp_path / "x.npz"
    path.write_bytes(_member("w.npy", content, zipfile.ZIP_STORED))
    with pytest.raises(WeightsError, match=rf"x\.npz.*({message})"):
        open_checkpoint(path)


def test_a_tree_that_holds_itself_or_doubles_at_every_level_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nested, "_MAX_NODES", 20_000)
    loop: dict[str, Any] = {"w": np.zeros(2, np.float32)}
    loop["again"] = loop
    assert "nests more than" in _refusal(tmp_path / "x", pickle.dumps(loop, protocol=4))
    doubled: Any = {"w": np.zeros(2, np.float32)}
    for _ in range(31):
        doubled = {"a": doubled, "b": doubled}
    assert "holds more than" in _refusal(tmp_path / "x", pickle.dumps(doubled, protocol=4))
    tensors: dict[str, Any] = {"w": torch.zeros(1)}
    tensors["again"] = tensors
    assert "nests more than" in _refusal(tmp_path / "x", _torch(content=tensors))


def test_arrays_that_share_their_bytes_cannot_claim_more_than_the_file(tmp_path: Path) -> None:
    # One text of a megabyte, made into an array again and again.
    array = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R(K\x01J\0\0\x10\0\x85"
    array += b"cnumpy\ndtype\nX\x02\0\0\0u1K\0K\x01\x87R\x89h\0tb"
    text = b"X\0\0\x10\0" + b"a" * (1 << 20) + b"q\x000"
    items = b"".join(b"X\x03\0\0\0%03d" % number + array for number in range(50))
    assert "claim more bytes" in _refusal(tmp_path / "x", b"\x80\x03" + text + b"}(" + items + b"u.")


def test_two_names_that_fall_together_are_refused(tmp_path: Path) -> None:
    state = {"model": {"w": torch.zeros(1)}, "model/w": torch.ones(1)}
    assert "two tensors are named 'model/w'" in _refusal(tmp_path / "x", _torch(content=state))


def test_a_tensor_larger_than_its_file_is_refused(tmp_path: Path) -> None:
    state = {"w": torch.zeros(1).expand(1 << 30)}
    assert "more than the file holds" in _refusal(tmp_path / "x", _torch(content=state))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's limit on memory")
def test_harmful_files_are_refused_in_little_memory(tmp_path: Path) -> None:
    """In a process that may not have more than 2 GB beyond what it has at the start."""
    entry = {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}
    (tmp_path / "a").write_bytes(_with_header(json.dumps({"w": entry}).encode(), bytes(8)))
    (tmp_path / "b").write_bytes(_member("w.npy", b"\x93NUMPY" + bytes(200_000_000)))
    (tmp_path / "c").write_bytes(b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"abc.")
    program = """
import resource, sys
from pathlib import Path
from vitrail.errors import WeightsError
from vitrail.weights.formats import nested
from vitrail.weights.checkpoint import open_checkpoint
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize() + 2_000_000_000
resource.setrlimit(resource.RLIMIT_AS, (size, size))
for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        open_checkpoint(path)
    except WeightsError:
        print("refused", end=" ")
"""
    done = subprocess.run([sys.executable, "-c", program, tmp_path], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["refused"] * 3, done.stderr
