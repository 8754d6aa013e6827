from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import vitrail
from vitrail.errors import ConfigError


def test_the_face_is_what_it_says() -> None:
    assert vitrail.__all__ == ["__version__", "compile_for_inference", "create", "load"]
    assert all(hasattr(vitrail, name) for name in vitrail.__all__)


def test_the_version_is_that_of_the_package() -> None:
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert vitrail.__version__ == project["version"]


def test_importing_it_imports_nothing_heavy() -> None:
    heavy = "{'torch', 'numpy', 'PIL', 'tyro', 'rich'} & set(sys.modules)"
    code = f"import sys, vitrail; heavy = {heavy}; assert not heavy, heavy"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_a_model_is_created_by_name_with_fields_changed() -> None:
    model = vitrail.create("ViT-mu/16", num_classes=3, image_size=(32, 32))
    assert model.config.num_classes == 3
    assert model.config.width == 32


def test_what_cannot_be_created_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match=r"unknown field 'num_clases'\. Did you mean 'num_classes'"):
        vitrail.create("ViT-mu/16", num_clases=3)
    with pytest.raises(ConfigError, match="ViT-B/61x"):
        vitrail.create("ViT-B/61x")
