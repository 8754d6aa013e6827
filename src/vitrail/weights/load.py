"""Weights by any name: a bundle, a run, a file or folder of any layout, a name of the catalog, a hub repository."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from vitrail.errors import WeightsError, did_you_mean
from vitrail.weights.bundle import CONFIG, SAMPLES, Bundle, load_bundle
from vitrail.weights.checkpoint import Choices, open_checkpoint

Progress = Callable[[int, int], None]  # bytes that have arrived, bytes in all

WEIGHTS_SUFFIXES = (".safetensors", ".npz", ".bin", ".pth", ".pt", ".ckpt", ".pdparams")
_HUB_PREFIXES = ("hf-hub:", "hf_hub:")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+(@[\w./-]+)?")


def load(
    spec: str | Path,
    *,
    choices: Choices | None = None,
    verify: bool = True,
    progress: Progress | None = None,
) -> Bundle:
    """A model with its labels and its preprocessing, and the certificate of how it was read.

    Args:
        spec: a bundle's folder, or the run folder around it; a weights file, or a folder with one and its config, of
            any layout in `weights.adapters`; a name or an address of the catalog (`vitrail models --weights`);
            "hf-hub:owner/name", "hf-hub:owner/name@revision", or "owner/name" where there is no such path.
        choices: what the files do not say, or say wrongly; not for bundles.
        verify: for bundles: also compare checksums and ask about the sample pictures.
        progress: called while a download goes on.
    Raises:
        WeightsError: nothing of that name, or weights that cannot be trusted or do not fit; says what to do next.
    """
    if isinstance(spec, Path) or Path(spec).exists():
        return _from_path(Path(spec), choices, verify)
    from vitrail.weights.catalog import CATALOG, find

    entry = find(spec)
    if entry is not None:
        if entry.source.startswith(_HUB_PREFIXES):
            return _from_hub(entry.source, choices or Choices(), progress)
        return _from_address(entry.source, entry.sha256, entry.licence, choices or Choices(), progress)
    if spec.startswith(_HUB_PREFIXES):
        return _from_hub(spec, choices or Choices(), progress)
    folder = Path(spec).parent
    if _REPOSITORY.fullmatch(spec) and Path(spec).suffix not in WEIGHTS_SUFFIXES and not folder.is_dir():
        try:
            return _from_hub(spec, choices or Choices(), progress)
        except WeightsError as error:
            raise WeightsError(f"{spec}: there is no such folder here; as a repository of the hub: {error}") from error
    if "/" in spec and folder.is_dir():
        near = did_you_mean(Path(spec).name, [path.name for path in folder.iterdir()])
        raise WeightsError(f"{spec}: there is no such file or folder.{near}")
    raise WeightsError(
        f"{spec}: no such file or folder, and no name of the catalog.{did_you_mean(spec, CATALOG)} Give a bundle, a"
        " run, a weights file, a name that `vitrail models --weights` lists, or a repository as hf-hub:owner/name."
    )


def names_a_model(spec: str) -> bool:
    """Whether `load` would look for a model there, rather than say that there is none; nothing is read or fetched."""
    path = Path(spec)
    try:
        if path.is_dir():
            return _was_made_here(path) or _holds_weights(path)
        if path.exists():
            return path.suffix in WEIGHTS_SUFFIXES
    except OSError:  # may not be looked into; whoever opens it says so
        return False
    from vitrail.weights.catalog import find

    return spec.startswith(_HUB_PREFIXES) or find(spec) is not None


def pinned(spec: str, bundle: Bundle) -> str:
    """`spec` so that it means the same weights tomorrow and from another folder: an absolute path, or a repository with
    its commit."""
    if Path(spec).exists():
        return str(Path(spec).absolute())
    origin = bundle.config.provenance.get("origin", {})
    source = origin.get("weights", spec) if isinstance(origin, dict) else spec
    return source if source.startswith(_HUB_PREFIXES) else spec


def _from_path(path: Path, choices: Choices | None, verify: bool) -> Bundle:
    if path.is_dir() and (_was_made_here(path) or not _holds_weights(path)):
        if choices is not None and choices != Choices():
            raise WeightsError(f"{path}: a bundle says everything itself; leave the options about its weights out")
        return load_bundle(path, verify)  # or its error, which says what is missing
    from vitrail.weights.reading import read_checkpoint  # with every adapter: a bundle does without
    from vitrail.weights.sidecar import read_sidecar

    checkpoint = open_checkpoint(path, choices or Choices())
    return read_checkpoint(checkpoint, path, known=read_sidecar(path))


def _was_made_here(folder: Path) -> bool:
    """Whether a folder is a run or a bundle, be it one that lacks a part."""
    if any((folder / name).exists() for name in ("bundle", "checkpoints", "metrics.jsonl", SAMPLES)):
        return True
    try:
        return b'"vitrail-bundle' in (folder / CONFIG).read_bytes()
    except OSError:
        return False


def _holds_weights(folder: Path) -> bool:
    return any(file.suffix in WEIGHTS_SUFFIXES for file in folder.iterdir())


def _from_hub(spec: str, choices: Choices, progress: Progress | None) -> Bundle:
    from vitrail.weights.hub import fetch
    from vitrail.weights.reading import read_checkpoint

    name = spec
    for prefix in _HUB_PREFIXES:
        name = name.removeprefix(prefix)
    repository, _, revision = name.partition("@")
    fetched = fetch(repository, revision or None, progress)
    if _was_made_here(fetched.folder):
        return load_bundle(fetched.folder)
    checkpoint = open_checkpoint(fetched.folder, choices, fetched.source)
    checkpoint = replace(checkpoint, name=repository.rpartition("/")[2])
    origin = {"licence": fetched.licence, "files": dict(fetched.files)}
    return _with_licence(read_checkpoint(checkpoint, fetched.folder, origin), fetched.licence)


def _from_address(
    address: str, sha256: str | None, licence: str | None, choices: Choices, progress: Progress | None
) -> Bundle:
    from vitrail.weights.hub import fetch_address
    from vitrail.weights.reading import read_checkpoint

    path = fetch_address(address, sha256, progress)
    checkpoint = open_checkpoint(path, choices, address)
    return _with_licence(read_checkpoint(checkpoint, path, {"licence": licence, "sha256": sha256}), licence)


def _with_licence(bundle: Bundle, licence: str | None) -> Bundle:
    """What the repository says of its licence, where the files inside say nothing."""
    if licence is None or bundle.config.licence is not None:
        return bundle
    certificate = bundle.certificate and replace(bundle.certificate, licence=licence)
    return replace(bundle, config=replace(bundle.config, licence=licence), certificate=certificate)
