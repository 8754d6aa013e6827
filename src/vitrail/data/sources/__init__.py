"""Where pictures and labels come from: one kind of data a file, one line in SOURCES."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from vitrail.data.config import ImageLimits
from vitrail.data.published.catalog import is_published
from vitrail.data.sources.base import DEFAULT_LIMITS, Source
from vitrail.download import Progress


@dataclass(frozen=True)
class SourceKind:
    recognises: Callable[[str], bool]
    open: Callable[[str, ImageLimits, Progress | None], Source]
    written: str  # how a user writes it


# Each opener imports its file when it is called, so that listing a folder loads neither scikit-learn nor pyarrow.
def _digits(spec: str, limits: ImageLimits, progress: Progress | None) -> Source:
    from vitrail.data.sources.builtin import open_digits

    return open_digits(spec, limits)


def _huggingface(spec: str, limits: ImageLimits, progress: Progress | None) -> Source:
    from vitrail.data.sources.huggingface import open_huggingface

    return open_huggingface(spec, limits)


def _published(spec: str, limits: ImageLimits, progress: Progress | None) -> Source:
    from vitrail.data.sources.published import open_published

    return open_published(spec, limits, progress)


def _vtab(spec: str, limits: ImageLimits, progress: Progress | None) -> Source:
    from vitrail.data.sources.published import open_published
    from vitrail.data.sources.vtab import cut_as_vtab, published_spec

    return cut_as_vtab(spec, open_published(published_spec(spec), limits, progress))


def _table(spec: str, limits: ImageLimits, progress: Progress | None) -> Source:
    from vitrail.data.sources.table import open_table

    return open_table(spec, limits)


def _folder(spec: str, limits: ImageLimits, progress: Progress | None) -> Source:
    from vitrail.data.sources.folder import open_folder

    return open_folder(spec, limits)


SOURCES: dict[str, SourceKind] = {
    "digits": SourceKind(lambda spec: spec == "digits", _digits, "digits"),
    "huggingface": SourceKind(lambda spec: spec.startswith("hf:"), _huggingface, "hf:NAME_OR_PATH"),
    "published": SourceKind(is_published, _published, "NAME or NAME:FOLDER, of cifar10, imagenet, pets, ..."),
    "vtab": SourceKind(lambda spec: spec.startswith("vtab:"), _vtab, "vtab:TASK or vtab:TASK:FOLDER, cut as VTAB-1k"),
    "table": SourceKind(lambda spec: spec.lower().endswith((".csv", ".parquet")), _table, "TABLE.csv or TABLE.parquet"),
    "folder": SourceKind(lambda spec: True, _folder, "FOLDER"),  # last: it takes what no other kind recognises
}


def open_source(spec: str, limits: ImageLimits = DEFAULT_LIMITS, progress: Progress | None = None) -> Source:
    """List the data set that `spec` names (see DataConfig.source); pictures are opened later, one at a time.

    Args:
        progress: called with (bytes that have arrived, bytes in all) while a published data set is downloaded.
    Raises:
        DataError: nothing there, or nothing that can be listed; the message says what to do.
    """
    return SOURCES[_kind_of(spec)].open(spec, limits, progress)


def open_pictures(spec: str, limits: ImageLimits = DEFAULT_LIMITS, progress: Progress | None = None) -> Source:
    """As `open_source` where no label is looked at: a folder may hold its pictures directly, all of one class."""
    if _kind_of(spec) != "folder":
        return open_source(spec, limits, progress)
    from vitrail.data.sources.folder import open_folder

    return open_folder(spec, limits, labelled=False)


def absolute_spec(spec: str) -> str:
    """`spec` so that it means the same from any working folder."""
    kind = _kind_of(spec)
    if kind == "vtab":
        return "vtab:" + absolute_spec(spec.removeprefix("vtab:"))
    if kind == "published":
        name, colon, folder = spec.partition(":")
        return f"{name}:{Path(folder).expanduser().absolute()}" if folder else name + colon
    return str(Path(spec).expanduser().absolute()) if kind in ("table", "folder") else spec


def _kind_of(spec: str) -> str:
    return next(name for name, kind in SOURCES.items() if kind.recognises(spec))
