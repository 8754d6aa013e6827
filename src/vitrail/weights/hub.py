"""Repositories of the Hugging Face hub, and addresses of the catalog: down into its cache, and bundles up. No torch.

huggingface_hub does the talking: its cache, tokens, offline mode and addresses (HF_HOME, HF_TOKEN, HF_HUB_OFFLINE,
HF_ENDPOINT) hold here too. Only the bytes of files are fetched by `download`, because a download that broke off goes on
where it stopped, which huggingface_hub no longer does, and because its progress is shown like everything else's. They
land in its cache under the names it uses, where timm and transformers find them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from vitrail.download import TIMEOUT, Progress, download, require_https
from vitrail.errors import WeightsError
from vitrail.storage import sha256_of
from vitrail.weights.hub_errors import PREFIX, endpoint, explain, is_unreachable

# In this order: a repository often holds the same model twice.
_WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin", "pytorch_model.bin.index.json")
_INDEX = ".index.json"
_SINGLE = (".safetensors", ".npz", ".pth", ".pt", ".bin", ".pdparams")
_BESIDE = ("config.json", "preprocessor_config.json", "vitrail.json", "README.md")
_OF_A_BUNDLE = "samples.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_PLAIN_NAME = re.compile(r"[\w.-]+(/[\w.-]+)*")
_MAX_INDEX_BYTES = 10_000_000


@dataclass(frozen=True)
class Fetched:
    """What was downloaded, or was there already.

    Attributes:
        folder: the files, in the hub's cache.
        source: "hf-hub:owner/name@<commit>".
        licence: of the weights, as the repository's card states it.
        files: name -> SHA-256, of what is needed of the repository.
    """

    folder: Path
    source: str
    licence: str | None
    files: Mapping[str, str]


@dataclass(frozen=True)
class _Listing:
    """A repository at one commit, as the hub or the cache knows it."""

    commit: str
    names: Sequence[str]
    sizes: Mapping[str, int] = field(default_factory=dict)
    sha256: Mapping[str, str] = field(default_factory=dict)  # of large files, as the hub states them
    licence: str | None = None


def fetch(repository: str, revision: str | None = None, progress: Progress | None = None) -> Fetched:
    """Have the weights of a repository on this machine, with what their readers need; nothing else is downloaded.

    Where the hub cannot be reached, what its cache holds of that revision is taken.

    Args:
        repository: "owner/name".
        revision: a branch, tag or commit; None: "main".
        progress: called with bytes done and bytes in all, summed over the files.
    Raises:
        WeightsError: no such repository or revision, gated or private, no weights in it, no network, no space, or a
            file in the cache that is not what the hub states; says what to do next.
    """
    revision = revision or "main"
    if not _PLAIN_NAME.fullmatch(repository) or ".." in revision:
        raise WeightsError(f"'{repository}@{revision}': not the name of a repository; those are called owner/name")
    listing = _listing(repository, revision)
    folder = _cache_folder(repository) / "snapshots" / listing.commit
    loading = _Loading(repository, revision, listing, folder, progress)
    beside, weights = _needed(listing.names, repository)
    loading.bring(beside)
    if weights[0].endswith(_INDEX):
        loading.bring(weights)
        weights = [*weights, *_shards(folder / weights[0], listing.names, repository)]
    loading.bring(weights)
    files = {name: sha256_of(folder / name) for name in (*beside, *weights)}
    for name, found in files.items():
        _require_stated(folder / name, found, listing.sha256.get(name))
    licence = listing.licence or licence_of_card(folder / "README.md")
    return Fetched(folder, f"{PREFIX}{repository}@{listing.commit}", licence, files)


def fetch_address(address: str, sha256: str | None = None, progress: Progress | None = None) -> Path:
    """Have the file of an address on this machine, beside the hub's cache.

    Args:
        address: https.
        sha256: that is published for it: the whole or its beginning. Where there is none, the file's own is written
            down when it arrives, so that damage done to it later is noticed.
    Raises:
        WeightsError: as `fetch`.
    """
    from huggingface_hub import constants

    require_https(address)
    parts = urlsplit(address)
    names = [name for name in unquote(parts.path).split("/") if name]
    if parts.query or not names or any(name in (".", "..") or "\\" in name or "\0" in name for name in names):
        raise WeightsError(f"{address}: not the address of a file")
    target = Path(constants.HF_HOME, "vitrail", str(parts.hostname), *names)
    record = target.with_name(f"{target.name}.sha256")
    if not target.exists():
        if constants.HF_HUB_OFFLINE:
            raise WeightsError(
                f"{address}: not on this machine, and HF_HUB_OFFLINE forbids to download it. Unset it, or put the file"
                f" at {target}."
            )
        download(address, target, sha256=sha256, progress=progress)
        with contextlib.suppress(OSError):  # a note for later; the weights are there without it
            record.write_text(sha256_of(target), encoding="ascii")
    expected = sha256
    if record.exists() and (noted := record.read_text(encoding="ascii").strip()).startswith(sha256 or ""):
        expected = noted
    _require_stated(target, sha256_of(target), expected)
    return target


def push(folder: Path, repository: str, *, private: bool = False, message: str = "Upload the model") -> str:
    """Upload a bundle's folder to a repository of the hub, which is made where it is not there.

    Returns:
        The address of its page.
    Raises:
        WeightsError: no token, no right to write there, no network.
    """
    from huggingface_hub import HfApi, constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise WeightsError(f"{repository}: HF_HUB_OFFLINE forbids to upload; unset it")
    if get_token() is None:
        raise WeightsError(
            f"{repository}: nobody is logged in to the hub. Make a token that may write at"
            f" {constants.ENDPOINT}/settings/tokens, then run `hf auth login`, or set HF_TOKEN."
        )
    try:
        with _no_bars():
            address = HfApi().create_repo(repository, private=private, exist_ok=True)
            HfApi().upload_folder(repo_id=repository, folder_path=folder, commit_message=message)
    except Exception as error:  # huggingface_hub lets through what its HTTP library raises, another one by version
        raise explain(error, repository, "main", "written") from error
    return str(address)


def _listing(repository: str, revision: str) -> _Listing:
    """What the hub says of the repository; where it cannot be reached, what the cache has."""
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        cached = _cached(repository, revision)
        if cached is None:
            raise WeightsError(
                f"{repository}@{revision}: not in the cache ({constants.HF_HUB_CACHE}), and HF_HUB_OFFLINE forbids to"
                " download it. Unset it, or give the path of a file that is on this machine."
            )
        return cached
    try:
        info = HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT)
    except Exception as error:  # as in `push`
        cached = _cached(repository, revision) if is_unreachable(error) else None
        if cached is not None:
            return cached
        raise explain(error, repository, revision, "read") from error
    if not info.sha or info.siblings is None:
        raise WeightsError(f"{repository}@{revision}: the hub lists no files of it")
    files = info.siblings
    return _Listing(
        commit=info.sha,
        names=[file.rfilename for file in files],
        sizes={file.rfilename: file.size for file in files if file.size is not None},
        sha256={file.rfilename: file.lfs.sha256 for file in files if file.lfs is not None},
        licence=_licence(info.card_data),
    )


def _cache_folder(repository: str) -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE, "--".join(("models", *repository.split("/"))))


def _cached(repository: str, revision: str) -> _Listing | None:
    """The part of a repository that the cache holds, if there are weights in it."""
    place = _cache_folder(repository)
    try:
        commit = (place / "refs" / revision).read_text(encoding="ascii").strip()
    except OSError:
        commit = revision
    folder = place / "snapshots" / commit
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    try:
        _, weights = _needed(names, repository)
        if weights[0].endswith(_INDEX):
            _shards(folder / weights[0], names, repository)
    except WeightsError:
        return None
    # Large files lie under their SHA-256, the snapshot links to them (not on file systems without links).
    blobs = {name: (folder / name).resolve().name for name in names}
    return _Listing(commit, names, sha256={name: blob for name, blob in blobs.items() if _SHA256.fullmatch(blob)})


def _needed(names: Sequence[str], repository: str) -> tuple[list[str], list[str]]:
    """The small files that readers look at, and the weights, or the index of their shards."""
    beside = [name for name in _BESIDE if name in names]
    if _OF_A_BUNDLE in names:
        beside += [_OF_A_BUNDLE, *(name for name in names if re.fullmatch(r"samples/\d+\.png", name))]
    for name in _WEIGHTS:
        if name in names:
            return beside, [name]
    single = [name for name in names if name.endswith(_SINGLE) and "/" not in name]
    if len(single) == 1:
        return beside, single
    page = f"{endpoint()}/{repository}"
    if not single:
        raise WeightsError(
            f"{repository}: no weights that vitrail reads: none of {', '.join(_WEIGHTS)}, nor a file that ends in"
            f" {', '.join(_SINGLE)} ({page})"
        )
    shown = ", ".join(single[:5]) + (f" and {len(single) - 5} more" if len(single) > 5 else "")
    raise WeightsError(f"{repository}: several weights, {shown}; download the one you mean from {page}, give its path")


def _shards(index: Path, names: Sequence[str], repository: str) -> list[str]:
    """The files that an index names."""
    try:
        if index.stat().st_size > _MAX_INDEX_BYTES:
            raise WeightsError(f"{repository}: {index.name} is larger than any index")
        shards = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"{repository}: {index.name} is damaged ({error})") from error
    missing = [name for name in shards if name not in names or "/" in name]
    if missing or not shards:
        raise WeightsError(f"{repository}: {index.name} names {missing[:3]}, which the repository does not have")
    return shards


@dataclass
class _Loading:
    """Files on their way into the cache, with the progress of all of them."""

    repository: str
    revision: str
    listing: _Listing
    folder: Path
    progress: Progress | None
    done: int = 0

    def bring(self, names: Sequence[str]) -> None:
        missing = [name for name in names if not (self.folder / name).exists()]
        total = self.done + sum(self.listing.sizes.get(name, 0) for name in missing)
        for name in missing:
            self._bring(name, total)

    def _bring(self, name: str, total: int) -> None:
        from huggingface_hub import constants, get_hf_file_metadata, hf_hub_download, hf_hub_url

        before = self.done

        def progress(done: int, size: int) -> None:
            self.done = before + done
            if self.progress is not None:
                self.progress(self.done, max(total, before + size))

        try:
            address = hf_hub_url(self.repository, name, revision=self.listing.commit)
            metadata = get_hf_file_metadata(address, timeout=TIMEOUT)
        except Exception as error:  # as in `push`
            raise explain(error, self.repository, self.revision, "read") from error
        if not metadata.etag or not _PLAIN_NAME.fullmatch(metadata.etag) or "/" in metadata.etag:
            raise WeightsError(f"{address}: the hub states no ETag for it, so that it cannot be kept in the cache")
        blob = _cache_folder(self.repository) / "blobs" / metadata.etag
        is_hub = urlsplit(metadata.location).hostname == urlsplit(constants.ENDPOINT).hostname
        if not blob.exists():
            download(
                metadata.location,
                blob,
                size=metadata.size,
                sha256=self.listing.sha256.get(name),
                # A token is for the hub, not for whom it stores its files with.
                secret_headers=_authorization() if is_hub else {},
                progress=progress,
            )
        self.done = before + (metadata.size or 0)
        try:
            with _no_bars():
                path = hf_hub_download(self.repository, name, revision=self.revision)  # finds the blob, and links it
        except Exception as error:  # as in `push`
            raise explain(error, self.repository, self.revision, "read") from error
        if not Path(path).is_relative_to(self.folder):
            raise WeightsError(f"{self.repository}@{self.revision}: it changed while it was downloaded; try again")


def _require_stated(path: Path, found: str, stated: str | None) -> None:
    if stated is not None and not found.startswith(stated.lower()):
        link = f" (it is {path.resolve()})" if path.is_symlink() else ""
        raise WeightsError(
            f"{path}: damaged: its SHA-256 is {found[:12]}..., {stated[:12]} was published. Delete it{link} and run"
            " again: it is downloaded afresh."
        )


def _licence(card: Any) -> str | None:
    """The licence that a card's metadata states, by its own name where the hub has no identifier for it."""
    licence = card.get("license") if card is not None else None
    if licence == "other":
        licence = card.get("license_name") or licence
    if isinstance(licence, list):
        licence = ", ".join(str(one) for one in licence)
    return str(licence) if licence else None


def licence_of_card(path: Path) -> str | None:
    """The licence in the header of a README.md; None where it states none, or cannot be read."""
    from huggingface_hub import metadata_load
    from yaml import YAMLError

    try:
        return _licence(metadata_load(path))
    except (OSError, ValueError, TypeError, YAMLError):
        return None


def _authorization() -> dict[str, str]:
    from huggingface_hub import constants, get_token

    token = None if constants.HF_HUB_DISABLE_IMPLICIT_TOKEN else get_token()
    return {"Authorization": f"Bearer {token}"} if token else {}


@contextlib.contextmanager
def _no_bars() -> Iterator[None]:
    """Without huggingface_hub's own progress bars."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
