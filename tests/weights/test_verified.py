"""A bundle that did not change is verified once a week, one that did at once."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.models.config import ViTConfig
from vitrail.models.vit import VisionTransformer
from vitrail.weights import bundle as bundles
from vitrail.weights import verified
from vitrail.weights.bundle import WEIGHTS, BundleConfig, load_bundle, save_bundle


@pytest.fixture
def saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VITRAIL_CACHE", str(tmp_path / "cache"))
    config = ViTConfig(image_size=(8, 8), patch_size=4, width=8, depth=1, num_heads=2, mlp_size=16, num_classes=2)
    model = VisionTransformer(config, generator=torch.Generator().manual_seed(0))
    sample = np.zeros((8, 8, 3), np.uint8)
    save_bundle(tmp_path / "bundle", model, BundleConfig(config, ("a", "b"), Preprocessing((8, 8))), [("s", sample)])
    return tmp_path / "bundle"


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files may be noted as soon as they are written: no test waits for the clock."""
    monkeypatch.setattr(verified, "_SETTLED_SECONDS", 0.0)


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The checksums that were compared."""
    compared: list[str] = []
    real = bundles.sha256_of

    def sha256_of(path: Path) -> str:
        compared.append(path.name)
        return real(path)

    monkeypatch.setattr(bundles, "sha256_of", sha256_of)
    return compared


def test_the_second_load_verifies_nothing_and_gives_the_same(saved: Path, settled: None, checks: list[str]) -> None:
    first = load_bundle(saved).model.state_dict()
    assert WEIGHTS in checks
    checks.clear()
    second = load_bundle(saved).model.state_dict()
    assert not checks
    assert all(torch.equal(first[name], second[name]) for name in first)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_changed_file_is_noticed_even_where_its_time_was_set_back(saved: Path, settled: None) -> None:
    load_bundle(saved)
    before = (saved / WEIGHTS).stat()
    flip(saved / WEIGHTS)
    os.utime(saved / WEIGHTS, ns=(before.st_atime_ns, before.st_mtime_ns))
    for _ in range(2):  # a failure is never remembered
        with pytest.raises(WeightsError, match="changed since the bundle was saved"):
            load_bundle(saved)


def test_a_copy_and_an_exchanged_file_are_verified(saved: Path, settled: None, checks: list[str]) -> None:
    load_bundle(saved)
    checks.clear()
    shutil.copytree(saved, saved.with_name("copy"), copy_function=shutil.copy2)
    load_bundle(saved.with_name("copy"))
    assert WEIGHTS in checks
    checks.clear()
    shutil.copy2(saved / WEIGHTS, saved / "new")
    os.replace(saved / "new", saved / WEIGHTS)
    load_bundle(saved)
    assert WEIGHTS in checks


def test_files_written_a_moment_ago_are_not_noted(saved: Path, checks: list[str]) -> None:
    for _ in range(2):
        checks.clear()
        load_bundle(saved)
        assert WEIGHTS in checks


@pytest.mark.parametrize("age", [verified.BELIEVED_SECONDS + 60, -3600], ids=["old", "from the future"])
def test_an_old_note_is_not_believed(saved: Path, settled: None, checks: list[str], age: float) -> None:
    load_bundle(saved)
    (note,) = (saved.parent / "cache" / "verified").iterdir()
    os.utime(note, (time.time() - age,) * 2)
    checks.clear()
    load_bundle(saved)
    assert WEIGHTS in checks


def test_without_a_cache_folder_everything_is_verified_each_time(saved: Path, settled: None, checks: list[str]) -> None:
    (saved.parent / "cache").write_text("a file in the way")
    for _ in range(2):
        checks.clear()
        load_bundle(saved)
        assert WEIGHTS in checks
