from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitrail.data.imagenet_classes import imagenet_synsets
from vitrail.weights.labels import default_labels, unique_labels


def test_a_head_of_1000_classes_is_named_after_imagenet() -> None:
    labels = default_labels(1000)
    assert len(labels) == len(set(labels)) == 1000
    # Two that everybody knows, the last one, and the bird and the machine of one name.
    assert labels[0] == "tench"
    assert labels[207] == "golden retriever"
    assert labels[999] == "toilet tissue"
    assert labels[134] == "crane (134)"
    assert labels[517] == "crane (517)"


def test_the_classes_are_in_the_order_of_their_wordnet_numbers() -> None:
    synsets = imagenet_synsets()
    assert len(synsets) == 1000
    assert list(synsets) == sorted(synsets)


def test_the_names_are_those_of_timm() -> None:
    timm_data = pytest.importorskip("timm.data")
    info = timm_data.ImageNetInfo("imagenet-1k")
    for index, (synset, label) in enumerate(zip(imagenet_synsets(), default_labels(1000), strict=True)):
        assert synset == info.index_to_label_name(index)
        assert label.split(" (")[0] == info.index_to_description(index).split(",")[0].strip()


@pytest.mark.parametrize("num_classes", [0, 1, 10, 11, 999, 21843])
def test_other_heads_are_numbered_so_that_they_sort(num_classes: int) -> None:
    labels = default_labels(num_classes)
    assert len(set(labels)) == num_classes
    assert list(labels) == sorted(labels)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(st.lists(st.sampled_from(["a", "b", "c", "d e"]), max_size=12))
def test_labels_are_made_unique_and_keep_their_order_and_their_names(labels: list[str]) -> None:
    made = unique_labels(labels)
    assert len(set(made)) == len(labels)
    assert all(new.startswith(old) for old, new in zip(labels, made, strict=True))


def test_the_wheel_carries_the_names(tmp_path: Path) -> None:
    """Built as pip builds it, where the build backend is at hand: data files are what packages forget."""
    pytest.importorskip("hatchling")
    root = Path(__file__).parents[2]
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(root / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    build = "from hatchling.build import build_wheel; print(build_wheel('dist'))"
    done = subprocess.run([sys.executable, "-c", build], cwd=tmp_path, capture_output=True, text=True, check=True)
    wheel = zipfile.ZipFile(tmp_path / "dist" / done.stdout.split()[-1])
    assert "vitrail/data/imagenet_classes.txt" in wheel.namelist()
