"""The bundle: a trained model as one folder that a person carries away, and that says when it is not as it was saved.

model.safetensors  the weights
config.json        architecture, labels, exact preprocessing, provenance, metrics, and a SHA-256 of every other file
samples/, samples.json   a few pictures and the logits the model gave for them
README.md          the model card, for people; free to be edited
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vitrail.configuration import from_dict, to_dict
from vitrail.data.batches import normalize
from vitrail.data.config import Preprocessing
from vitrail.data.images import open_picture
from vitrail.data.transforms import EvaluationTransform
from vitrail.errors import ImageError, WeightsError
from vitrail.layers.patch_embed import PatchResampleMethod
from vitrail.layers.position_embed import ResampleMethod
from vitrail.models.build import Model
from vitrail.models.build import build_model as build_unfilled
from vitrail.models.kinds import ModelConfig
from vitrail.storage import new_folder, sha256_of, to_json
from vitrail.weights.card import model_card
from vitrail.weights.certificate import Certificate
from vitrail.weights.files import describe_foreign, read_tensors, write_tensors
from vitrail.weights.verified import identity_of, remember, was_verified

FORMAT = "vitrail-bundle-1"
WEIGHTS, CONFIG, SAMPLES, CARD = "model.safetensors", "config.json", "samples.json", "README.md"
# Logits may differ from machine to machine by the order of float32 sums; relative to the largest logit, at least 1.
SAMPLE_TOLERANCE = 1e-3
_CONFIG_SHA256 = "config_sha256"


@dataclass(frozen=True)
class BundleConfig:
    """What a bundle's config.json holds."""

    model: ModelConfig
    labels: tuple[str, ...]  # names of the classes; index = logit
    preprocessing: Preprocessing
    name: str = "classifier"  # for people
    provenance: dict[str, Any] = field(default_factory=dict)  # data, its fingerprint, recipe, versions; JSON values
    metrics: dict[str, Any] = field(default_factory=dict)  # JSON values
    # Probabilities are softmax(logits / temperature), fitted on validation pictures (Guo et al. 2017).
    temperature: float = 1.0
    # How positions and patches of these weights are stretched to another size: the way of those who trained them.
    resampling: ResampleMethod = "bilinear_align_corners"
    patch_resampling: PatchResampleMethod = "bilinear"
    licence: str | None = None  # of the weights, as its source states it; None: it states none
    files: dict[str, str] = field(default_factory=dict)  # path in the bundle -> SHA-256; filled when it is saved
    format: str = FORMAT

    @property
    def weights_sha256(self) -> str:
        return self.files[WEIGHTS]


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle: the model in evaluation mode, on the CPU."""

    model: Model
    config: BundleConfig
    path: Path
    certificate: Certificate | None = None  # of weights that were read from another layout

    def save_pretrained(self, folder: str | Path) -> None:
        """Write everything to a folder that `vitrail.load` takes; a bundle that is there already is replaced.

        Raises:
            WeightsError: the folder holds something else, or cannot be written.
        """
        target = Path(folder)
        if target.exists() and not (target / CONFIG).exists() and (target.is_file() or any(target.iterdir())):
            raise WeightsError(f"{target}: is there already and is no bundle; it is not overwritten")
        save_bundle(target, self.model, self.config, sample_pictures(self))

    def push_to_hub(self, repository: str, *, private: bool = False, message: str = "Upload the model") -> str:
        """Upload everything to a repository of the Hugging Face hub ("owner/name"), made where it is not there.

        Returns:
            The address of its page.
        Raises:
            WeightsError: no token, no right to write, no network.
        """
        from tempfile import TemporaryDirectory

        from vitrail.weights.hub import push

        with TemporaryDirectory() as parent:
            folder = Path(parent) / "bundle"
            self.save_pretrained(folder)
            return push(folder, repository, private=private, message=message)


Sample = tuple[str, npt.NDArray[np.uint8] | bytes]  # name, and pixels (H, W), (H, W, C) or an encoded picture


def save_bundle(folder: Path, model: Model, config: BundleConfig, samples: Sequence[Sample] = ()) -> BundleConfig:
    """Write a bundle, whole or not at all; one that is there already is replaced.

    Args:
        samples: a few pictures, kept at no more than twice the size the model sees.
    Returns:
        The config as written, with the checksums.
    Raises:
        WeightsError: labels that do not fit the head, weights that are not finite, or a folder that cannot be
            written.
    """
    _require_labels(config, "the bundle to be saved")
    tensors = {name: tensor.detach().cpu() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not bool(tensor.isfinite().all()):
            raise WeightsError(f"the bundle to be saved: '{name}' holds numbers that are not finite")
    copy = build_model(config.model, tensors, "the bundle to be saved")
    try:
        with new_folder(folder) as partial:
            config = _fill(partial, copy, config, samples)
    except OSError as error:
        raise WeightsError(f"{folder}: the bundle could not be saved ({error.strerror or error})") from error
    return config


def _fill(folder: Path, model: Model, config: BundleConfig, samples: Sequence[Sample]) -> BundleConfig:
    write_tensors(folder / WEIGHTS, model.state_dict())
    (folder / "samples").mkdir()
    pictures = [(name, _as_png(name, picture, config.preprocessing)) for name, picture in samples]
    records = []
    for number, ((name, png), logits) in enumerate(zip(pictures, _logits(model, pictures, config.preprocessing)), 1):
        (folder / "samples" / f"{number}.png").write_bytes(png)
        records.append({"file": f"samples/{number}.png", "name": name, "logits": logits.tolist()})
    (folder / SAMPLES).write_bytes(to_json({"tolerance": SAMPLE_TOLERANCE, "samples": records}))
    written = sorted(path for path in folder.rglob("*") if path.is_file())
    config = replace(config, files={path.relative_to(folder).as_posix(): sha256_of(path) for path in written})
    plain = json.loads(to_json(to_dict(config)))  # as it will be read: keys are strings, tuples lists
    (folder / CONFIG).write_bytes(to_json({**plain, _CONFIG_SHA256: _sha256_of_values(plain)}))
    config = from_dict(BundleConfig, plain, str(folder / CONFIG))
    (folder / CARD).write_text(model_card(config), encoding="utf-8", errors="backslashreplace")
    return config


def load_bundle(path: str | Path, verify: bool = True) -> Bundle:
    """Load a bundle and make sure that it is what was saved.

    Args:
        path: the bundle's folder, or the run folder around it.
        verify: also compare every checksum and run the sample pictures, unless both was done for the same files in the
            last week (`verified.py`).
    Raises:
        WeightsError: something is missing, damaged or does not fit; names the file and the tensor or field.
    """
    folder = find_bundle(Path(path))
    config = _read_config(folder / CONFIG)
    _require_labels(config, str(folder / CONFIG))
    if not (config.temperature > 0 and math.isfinite(config.temperature)):
        raise WeightsError(f"{folder / CONFIG}: temperature {config.temperature} is not a positive number")
    identity = identity_of(folder, (CONFIG, *config.files)) if verify else None
    verify = verify and not was_verified(identity)
    if verify:
        for name, expected in config.files.items():
            _require_checksum(folder, name, expected)
    model = build_model(config.model, read_tensors(folder / WEIGHTS), str(folder / WEIGHTS))
    if verify:
        _require_same_answers(model, config, folder)
        remember(identity)
    return Bundle(model, config, folder)


def read_bundle_config(path: str | Path) -> BundleConfig:
    """The config alone, without reading the weights. Raises WeightsError as `load_bundle`."""
    return _read_config(find_bundle(Path(path)) / CONFIG)


def made_up_pictures(preprocessing: Preprocessing) -> list[Sample]:
    """Samples for a bundle whose own pictures are not at hand: a ramp of colours, and noise."""
    height, width = preprocessing.image_size
    down, across = np.meshgrid(np.linspace(0, 255, height), np.linspace(0, 255, width), indexing="ij")
    ramp = np.stack([down, across, 255 - down], axis=-1).astype(np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    if preprocessing.num_channels == 1:
        ramp, noise = ramp[:, :, 0], noise[:, :, 0]
    return [("ramp", ramp), ("noise", noise)]


def sample_pictures(bundle: Bundle) -> list[Sample]:
    """A bundle's own sample pictures, or made-up ones for weights that were read from elsewhere."""
    path = bundle.path / SAMPLES
    if bundle.certificate is not None or not path.is_file():
        return made_up_pictures(bundle.config.preprocessing)
    records = json.loads(path.read_bytes())["samples"]
    return [(record["name"], (bundle.path / record["file"]).read_bytes()) for record in records]


def find_bundle(path: Path) -> Path:
    """The bundle that `path` means: the folder itself, or "bundle" inside it where it is a run.

    Raises:
        WeightsError: neither; says what it is instead.
    """
    if path.is_file():
        kind = describe_foreign(path)
        raise WeightsError(
            f"{path}: {f'{kind}, refused unread: reading one can run any code it holds' if kind else 'a file'};"
            f" give the folder of a bundle (with {WEIGHTS} and {CONFIG}), or a run folder"
        )
    if not path.is_dir():
        raise WeightsError(f"{path}: there is no such folder; give a bundle, or the run folder around it")
    if (path / WEIGHTS).exists():
        return path
    if (path / "bundle" / CONFIG).exists():
        return path / "bundle"
    if (path / "checkpoints").is_dir() or (path / "metrics.jsonl").exists():
        raise WeightsError(f"{path}: the run has no bundle yet; finish it with: vitrail fit --resume {path}")
    raise WeightsError(f"{path}: not a bundle, it has no {WEIGHTS}{_other_weights(path)}")


def _other_weights(folder: Path) -> str:
    for other in sorted(folder.iterdir()):
        if other.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz"):
            return f"; {other.name} may run code when it is read and is refused unread"
    return ""


def _read_config(path: Path) -> BundleConfig:
    try:
        values = json.loads(path.read_bytes())
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise WeightsError(f"{path}: damaged, not JSON ({error})") from error
    if not isinstance(values, dict):
        raise WeightsError(f"{path}: damaged, not an object")
    if values.get("format") != FORMAT:
        raise WeightsError(f"{path}: format {values.get('format')!r}, this version of vitrail reads {FORMAT!r}")
    checksum = values.pop(_CONFIG_SHA256, None)
    try:
        config = from_dict(BundleConfig, values, str(path))
    except ValueError as error:  # ConfigError is one too
        message = str(error)
        raise WeightsError(message if message.startswith(str(path)) else f"{path}: {message}") from error
    if checksum != _sha256_of_values(values):
        raise WeightsError(f"{path}: changed since the bundle was saved (its {_CONFIG_SHA256} does not agree)")
    if WEIGHTS not in config.files or SAMPLES not in config.files:
        raise WeightsError(f"{path}: 'files' does not list {WEIGHTS} and {SAMPLES}")
    return config


def _sha256_of_values(values: dict[str, Any]) -> str:
    # Of the values, not of the bytes: a formatter may have been at work.
    return hashlib.sha256(json.dumps(values, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _require_labels(config: BundleConfig, where: str) -> None:
    labels, num_classes = config.labels, config.model.num_classes
    if len(labels) != num_classes:
        raise WeightsError(f"{where}: {len(labels)} labels for a head of {num_classes} classes")
    if len(set(labels)) != len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise WeightsError(f"{where}: the label {twice!r} is there twice")


def _require_checksum(folder: Path, name: str, expected: str) -> None:
    path = folder / name
    # By its name, not by what it resolves to: in the hub's cache every file is a link to where the bytes are kept.
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise WeightsError(f"{folder / CONFIG}: 'files' names {name!r}, outside the bundle")
    try:
        found = sha256_of(path)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); the bundle is not whole") from error
    if found != expected:
        raise WeightsError(f"{path}: changed since the bundle was saved (SHA-256 {found[:12]}, not {expected[:12]})")


def build_model(config: ModelConfig, tensors: dict[str, Tensor], where: str) -> Model:
    """A model of `config` that holds exactly `tensors`, in evaluation mode."""
    try:
        model = build_unfilled(config, initialize=False)
    except (RuntimeError, MemoryError, ValueError) as error:
        raise WeightsError(f"{where}: a model of its config cannot be built ({error})") from error
    expected = model.state_dict()
    for name, tensor in expected.items():
        if name not in tensors:
            raise WeightsError(f"{where}: the tensor '{name}' is missing")
        found = tensors[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise WeightsError(
                f"{where}: '{name}' is {found.dtype} {tuple(found.shape)},"
                f" the architecture needs {tensor.dtype} {tuple(tensor.shape)}"
            )
    for name in tensors:
        if name not in expected:
            raise WeightsError(f"{where}: the architecture has no tensor '{name}'")
    model.load_state_dict(tensors, assign=True)
    return model.eval()


def _as_png(name: str, picture: npt.NDArray[np.uint8] | bytes, preprocessing: Preprocessing) -> bytes:
    from PIL import Image

    side = 2 * max(preprocessing.image_size)
    if isinstance(picture, bytes):
        picture = open_picture(picture, name).pixels(num_channels=preprocessing.num_channels)
    pixels = picture[:, :, 0] if picture.ndim == 3 and picture.shape[2] == 1 else picture
    image = Image.fromarray(pixels)
    shrink = side / min(image.size)
    if shrink < 1:
        image = image.resize((max(1, round(image.width * shrink)), max(1, round(image.height * shrink))))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


@torch.inference_mode()
def _logits(model: Model, pictures: list[tuple[str, bytes]], preprocessing: Preprocessing) -> Tensor:
    """(pictures, K) for (name, encoded picture) each."""
    if not pictures:
        return torch.empty(0, model.config.num_classes)
    transform, unused = EvaluationTransform(preprocessing), np.random.default_rng(0)
    pixels = np.stack([transform(open_picture(png, name), unused) for name, png in pictures])
    return model(normalize(torch.from_numpy(pixels), preprocessing))


def _require_same_answers(model: Model, config: BundleConfig, folder: Path) -> None:
    path = folder / SAMPLES
    try:
        record = json.loads(path.read_bytes())
        samples = [(sample["file"], torch.tensor(sample["logits"])) for sample in record["samples"]]
        tolerance = float(record["tolerance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WeightsError(f"{path}: damaged ({error})") from error
    for (name, expected), found in zip(
        samples, _answers(model, folder, [name for name, _ in samples], config), strict=True
    ):
        if found.shape != expected.shape:
            raise WeightsError(f"{path}: {len(expected)} logits for {name}, the model gives {len(found)}")
        largest = float((found - expected).abs().max())
        if not largest <= tolerance * max(1.0, float(expected.abs().max())):
            raise WeightsError(
                f"{folder / name}: the model no longer gives the logits it was saved with (off by {largest:.3g});"
                " its weights, its preprocessing or this version of vitrail is another"
            )


def _answers(model: Model, folder: Path, names: list[str], config: BundleConfig) -> Tensor:
    """(names, K) logits of the pictures of those names in the bundle."""
    pictures = []
    for name in names:
        if name not in config.files:
            raise WeightsError(f"{folder / SAMPLES}: names {name!r}, which {CONFIG} does not list")
        try:
            pictures.append((name, (folder / name).read_bytes()))
        except OSError as error:
            raise WeightsError(f"{folder / name}: cannot be read ({error.strerror})") from error
    try:
        return _logits(model, pictures, config.preprocessing)
    except ImageError as error:
        raise WeightsError(f"{folder / error.name}: the sample picture cannot be read ({error.cause})") from error
