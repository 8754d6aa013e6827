"""What every kind of source in SOURCES promises; a new kind is tested as soon as it is listed."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image
from published_layouts import LAYOUTS

from vitrail.data.config import ImageLimits
from vitrail.data.published.catalog import PUBLISHED
from vitrail.data.sources import SOURCES, open_source
from vitrail.data.split import UNASSIGNED


def _folder(root):
    for name in ("b/1.png", "a/2.png", "a/1.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (9, 7), 30).save(root / name)
    return str(root)


def _table(root):
    _folder(root)
    (root / "pictures.csv").write_text("path,label,split\na/1.png,a,test\nb/1.png,b,\n")
    return str(root / "pictures.csv")


def _huggingface(root):
    datasets = pytest.importorskip("datasets")
    columns = {"image": [Image.new("RGB", (9, 7), "red")] * 2, "label": ["b", "a"]}
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(root / "saved"))
    return f"hf:{root / 'saved'}"


def _vtab(root):
    LAYOUTS["dtd"](root)
    return f"vtab:dtd:{root}"


EXAMPLES = {
    "digits": lambda root: "digits",
    "folder": _folder,
    "table": _table,
    "huggingface": _huggingface,
    "vtab": _vtab,
}
KINDS = [kind for kind in SOURCES if kind != "published"] + list(PUBLISHED)


@pytest.fixture(params=KINDS)
def made(request, tmp_path):
    if request.param in PUBLISHED:
        LAYOUTS[request.param](tmp_path)
        return "published", f"{request.param}:{tmp_path}", open_source(f"{request.param}:{tmp_path}")
    spec = EXAMPLES[request.param](tmp_path)
    return request.param, spec, open_source(spec)


def test_a_spec_opens_the_kind_that_recognises_it(made):
    kind, spec, source = made
    assert next(name for name, entry in SOURCES.items() if entry.recognises(spec)) == kind
    assert source.spec == spec
    assert SOURCES[kind].written
    assert source.name.strip()


def test_the_columns_agree_in_length_and_range(made):
    _, _, source = made
    assert source.labels.shape == source.splits.shape == (len(source),)
    assert (source.labels.dtype, source.splits.dtype) == (np.int64, np.int8)
    assert list(source.classes) == sorted(set(source.classes))
    assert set(source.labels.tolist()) == set(range(len(source.classes)))
    assert set(source.splits.tolist()) <= {UNASSIGNED, 0, 1, 2}


def test_keys_are_unique_and_can_be_written(made):
    _, _, source = made
    keys = [source.key(index) for index in range(len(source))]
    assert len(set(keys)) == len(keys)
    assert all(key.encode("utf-8") for key in keys)


def test_a_picture_opens_and_is_named_by_its_key(made):
    _, _, source = made
    picture = source.open(1)
    assert picture.name == source.key(1)
    assert picture.pixels().shape == (*picture.size, 3)


def test_opening_twice_lists_the_same(made):
    _, spec, source = made
    again = open_source(spec, ImageLimits())
    assert [again.key(i) for i in range(len(again))] == [source.key(i) for i in range(len(source))]
    assert np.array_equal(again.labels, source.labels)


def test_a_source_survives_the_way_to_a_worker(made):
    _, _, source = made
    sent = pickle.loads(pickle.dumps(source))
    assert sent.key(0) == source.key(0)
    assert np.array_equal(sent.open(0).pixels(), source.open(0).pixels())
    assert sent.read_bytes(0) == source.read_bytes(0)
