"""vitrail.json: what a written layout cannot say itself, beside its weights, so that reading it back is exact."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitrail.configuration import from_dict, to_dict
from vitrail.data.config import Preprocessing
from vitrail.errors import WeightsError
from vitrail.layers.patch_embed import PatchResampleMethod
from vitrail.layers.position_embed import ResampleMethod
from vitrail.models.kinds import ModelConfig
from vitrail.storage import sha256_of, write_json

SIDECAR = "vitrail.json"
FORMAT = "vitrail-layout-1"


@dataclass(frozen=True)
class Sidecar:
    """What vitrail.json holds."""

    layout: str  # a name of `WRITERS`
    file: str  # the weights beside it
    sha256: str  # of that file
    model: ModelConfig
    labels: tuple[str, ...]
    preprocessing: Preprocessing
    resampling: ResampleMethod
    patch_resampling: PatchResampleMethod
    licence: str | None
    temperature: float = 1.0
    provenance: dict[str, Any] = field(default_factory=dict)
    format: str = FORMAT


def place(weights: Path) -> Path:
    """Where the sidecar of a weights file lies: in its folder, or beside a file that was written alone."""
    return weights.with_name(f"{weights.name}.{SIDECAR}")


def write_sidecar(path: Path, sidecar: Sidecar) -> None:
    write_json(path, to_dict(sidecar))


def read_sidecar(path: Path) -> Sidecar | None:
    """The sidecar of a folder or of a weights file; None where there is none.

    Raises:
        WeightsError: it is damaged, or belongs to other weights than those beside it.
    """
    candidates = [path / SIDECAR] if path.is_dir() else [place(path), path.with_name(SIDECAR)]
    found = next((candidate for candidate in candidates if candidate.is_file()), None)
    if found is None:
        return None
    try:
        sidecar = from_dict(Sidecar, json.loads(found.read_bytes()), str(found))
    except (OSError, ValueError) as error:  # ConfigError is one too
        raise WeightsError(f"{found}: damaged ({error}); without it the weights are read by their own rules") from error
    weights = found.parent / sidecar.file
    if not path.is_dir() and weights.name != path.name:
        return None  # of another file in the same folder
    if sidecar.file != Path(sidecar.file).name or not weights.is_file() or sha256_of(weights) != sidecar.sha256:
        raise WeightsError(
            f"{found} and {weights} disagree: the weights are not those that were written with it. Restore them, or"
            f" delete {found.name} to read the weights by their own rules"
        )
    return sidecar
