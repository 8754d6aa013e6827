"""Folders, tables, digits and Hugging Face data sets all become one kind of listing."""

from __future__ import annotations

import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.data.sources import open_source
from vitrail.data.split import TEST, TRAIN, UNASSIGNED, VALIDATION
from vitrail.errors import DataError


def picture(path: Path, shade: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), (shade, 50, 20)).save(path, "PNG" if path.suffix.lower() != ".jpg" else "JPEG")
    return path


def keys(source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


def test_the_label_of_a_picture_is_its_class_folder(tmp_path):
    for name in ("b/2.png", "a/1.png", "b/deeper/still/3.jpg"):
        picture(tmp_path / "photos" / name)
    source = open_source(str(tmp_path / "photos"))
    assert (source.name, source.classes) == ("photos", ("a", "b"))
    assert dict(zip(keys(source), source.labels.tolist(), strict=True)) == {
        "a/1.png": 0,
        "b/2.png": 1,
        "b/deeper/still/3.jpg": 1,
    }
    assert set(source.splits) == {UNASSIGNED}
    assert source.labels.dtype == np.int64
    assert source.splits.dtype == np.int8


@pytest.mark.parametrize("validation", ["val", "valid", "validation", "Val"])
def test_split_folders_give_the_splits(tmp_path, validation):
    for split in ("train", validation, "test"):
        picture(tmp_path / split / "cat" / "1.png")
    source = open_source(str(tmp_path))
    splits = dict(zip(keys(source), source.splits.tolist(), strict=True))
    assert splits == {"train/cat/1.png": TRAIN, f"{validation}/cat/1.png": VALIDATION, "test/cat/1.png": TEST}


def test_a_class_missing_from_one_split_shifts_no_label(tmp_path):
    for name in ("train/a/1.png", "train/b/1.png", "train/c/1.png", "test/c/1.png", "val/b/1.png"):
        picture(tmp_path / name)
    source = open_source(str(tmp_path))
    for index, key in enumerate(keys(source)):
        assert source.classes[source.labels[index]] == key.split("/")[1]
    assert source.classes == ("a", "b", "c")


def test_a_class_of_trains_is_not_a_split(tmp_path):
    for name in ("train/1.png", "bus/1.png"):
        picture(tmp_path / name)
    assert open_source(str(tmp_path)).classes == ("bus", "train")


def test_two_folders_for_one_split_are_refused(tmp_path):
    for split in ("train", "val", "validation"):
        picture(tmp_path / split / "a" / "1.png")
    with pytest.raises(DataError, match="val, validation are all validation splits"):
        open_source(str(tmp_path))


def test_a_folder_beside_the_splits_is_named_and_left_out(tmp_path):
    for name in ("train/a/1.png", "test/a/1.png", "labels/a/1.png"):
        picture(tmp_path / name)
    source = open_source(str(tmp_path))
    assert source.classes == ("a",)
    assert source.skipped == (("labels", "is outside the split folders"),)


def test_the_order_does_not_depend_on_the_file_system(tmp_path):
    names = [f"{label}/{number}.png" for label in "ab" for number in range(9)]
    for folder, order in ((tmp_path / "x" / "p", names), (tmp_path / "y" / "p", names[::-1])):
        for name in order:
            picture(folder / name)
    first, second = (open_source(str(tmp_path / side / "p")) for side in "xy")
    assert keys(first) == keys(second) == sorted(names)


def test_extensions_count_in_any_case_and_other_files_are_named(tmp_path):
    for name in ("a/1.PNG", "a/2.Jpg", "b/1.png"):
        picture(tmp_path / name)
    (tmp_path / "a" / "notes.txt").write_text("x")
    (tmp_path / "a" / ".DS_Store").write_text("x")
    (tmp_path / "README.md").write_text("x")
    source = open_source(str(tmp_path))
    assert keys(source) == ["a/1.PNG", "a/2.Jpg", "b/1.png"]
    assert sorted(name for name, _ in source.skipped) == ["README.md", "a/.DS_Store", "a/notes.txt"]


def test_accents_typed_on_two_systems_are_one_class(tmp_path):
    picture(tmp_path / "train" / "caf\u00e9" / "1.png")
    picture(tmp_path / "test" / "cafe\u0301" / "1.png")
    assert open_source(str(tmp_path)).classes == ("caf\u00e9",)


def test_the_folder_of_the_user_names_the_data_set(tmp_path, monkeypatch):
    picture(tmp_path / "my photos" / "a" / "1.png")
    monkeypatch.chdir(tmp_path / "my photos")
    assert open_source(".").name == "my photos"
    assert open_source("../my photos/").name == "my photos"


def test_a_listing_travels_to_a_worker_whole(tmp_path):
    picture(tmp_path / "a" / "1.png")
    source = pickle.loads(pickle.dumps(open_source(str(tmp_path))))
    assert source.open(0).pixels().shape == (8, 12, 3)
    assert source.read_bytes(0) == (tmp_path / "a" / "1.png").read_bytes()


def test_digits_are_the_pictures_of_scikit_learn():
    from sklearn.datasets import load_digits

    source, reference = open_source("digits"), load_digits()
    assert len(source) == 1797
    assert source.classes == tuple("0123456789")
    assert np.array_equal(source.labels, reference.target)
    assert source.key(17) == "digits/17"
    assert source.read_bytes(17) is None
    pixels = source.open(17).pixels(num_channels=1)[:, :, 0]
    assert np.abs(pixels / 255 - reference.images[17] / 16).max() <= 0.5 / 255
    assert max(source.open(index).pixels().max() for index in range(20)) == 255


def write(path: Path, text: str, encoding: str = "utf-8") -> str:
    path.write_text(text, encoding=encoding)
    return str(path)


def test_a_table_names_paths_labels_and_splits(tmp_path):
    for name in ("x/1.png", "x/2, and more.png", "3.png"):
        picture(tmp_path / name)
    rows = 'Path,label,Split\nx/1.png,cat,train\n"x/2, and more.png",dog,VALID\n3.png,cat,\n\n'
    source = open_source(write(tmp_path / "pets.csv", rows, "utf-8-sig"))
    assert (source.name, source.classes) == ("pets", ("cat", "dog"))
    assert keys(source) == ["x/1.png", "x/2, and more.png", "3.png"]
    assert source.labels.tolist() == [0, 1, 0]
    assert source.splits.tolist() == [TRAIN, VALIDATION, UNASSIGNED]
    assert source.open(1).size == (8, 12)


def test_a_parquet_table_is_the_same_as_its_csv(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    for number in range(3):
        picture(tmp_path / f"{number}.png")
    table = {"label": [3, 1, None], "path": ["0.png", "1.png", "2.png"], "split": ["train", None, "test"]}
    parquet.write_table(pyarrow.table(table), tmp_path / "t.parquet")
    source = open_source(str(tmp_path / "t.parquet"))
    assert (keys(source), source.classes) == (["0.png", "1.png"], ("1", "3"))
    assert source.splits.tolist() == [TRAIN, UNASSIGNED]
    assert source.skipped == (("row 3", "has no label"),)


def test_rows_that_cannot_be_used_are_named(tmp_path):
    picture(tmp_path / "1.png")
    rows = "path,label\n1.png,a\ngone.png,a\n,a\n1.png,\n1.png,b\n"
    source = open_source(write(tmp_path / "t.csv", rows))
    assert source.skipped == (
        ("gone.png", "there is no such file"),
        ("row 3", "has no path"),
        ("row 4", "has no label"),
    )
    assert keys(source) == ["1.png", "1.png (row 5)"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("", "no column 'path' among none"),
        ("path,class\n1.png,a\n", "no column 'label' among path, class"),
        ("path;label\n1.png;a\n", "Separate the columns by commas"),
        ("path,label,split\n1.png,a,tain\n", "row 1 has the split 'tain'.*Did you mean 'train'"),
        ("path,label\n2.png,a\n", "found no pictures.*2.png .there is no such file"),
        ('path,label\n"1.png,a\n', "is not CSV"),
    ],
)
def test_tables_that_make_no_sense_are_refused_by_row_or_column(tmp_path, rows, message):
    picture(tmp_path / "1.png")
    with pytest.raises(DataError, match=message):
        open_source(write(tmp_path / "t.csv", rows))


def test_what_is_no_parquet_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(DataError, match=r"t\.parquet: cannot be read as Parquet"):
        open_source(write(tmp_path / "t.parquet", "path,label\n"))


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_OFFLINE", True)
    return datasets


def test_a_saved_hugging_face_data_set_gives_names_and_pictures(tmp_path, hub_cache):
    datasets = hub_cache
    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["zebra", "ape"])})

    def part(labels):
        images = [Image.new("RGB", (6, 5), (40 * label + 9, 0, 0)) for label in labels]
        return datasets.Dataset.from_dict({"img": images, "label": labels}, features=features)

    parts = {"train": part([0, 1, -1, 1]), "test": part([1]), "extra": part([0])}
    datasets.DatasetDict(parts).save_to_disk(str(tmp_path / "zoo"))
    source = pickle.loads(pickle.dumps(open_source(f"hf:{tmp_path / 'zoo'}")))
    assert (source.name, source.classes) == ("zoo", ("ape", "zebra"))
    assert keys(source) == ["train/0", "train/1", "train/3", "test/0"]
    assert source.labels.tolist() == [1, 0, 0, 0]
    assert source.splits.tolist() == [TRAIN, TRAIN, TRAIN, TEST]
    assert [source.open(index).pixels()[0, 0, 0] for index in range(4)] == [9, 49, 49, 49]
    assert ("split extra", "is neither train, validation nor test") in source.skipped
    assert ("train/2", "has no label") in source.skipped


def test_a_hugging_face_data_set_without_pictures_is_refused(tmp_path, hub_cache):
    hub_cache.Dataset.from_dict({"text": ["a"], "label": [0]}).save_to_disk(str(tmp_path / "words"))
    with pytest.raises(DataError, match=r"expected one column of pictures.*among text, label"):
        open_source(f"hf:{tmp_path / 'words'}")


def test_a_hugging_face_data_set_that_is_nowhere_is_refused(tmp_path, hub_cache):
    with pytest.raises(DataError, match="cannot load it"):
        open_source(f"hf:{tmp_path / 'nowhere'}")


def test_a_listing_is_columns_not_objects(tmp_path):
    picture(tmp_path / "1.png")
    source = open_source(write(tmp_path / "t.csv", "path,label\n" + "1.png,a\n" * 20_000))
    assert len(pickle.dumps((source.paths, source.labels, source.splits))) < 40 * len(source)


def test_moving_the_data_set_moves_nothing_else(tmp_path):
    picture(tmp_path / "here" / "a" / "1.png")
    before = open_source(str(tmp_path / "here"))
    shutil.move(tmp_path / "here", tmp_path / "there")
    after = open_source(str(tmp_path / "there"))
    assert keys(before) == keys(after)
    assert os.path.exists(after.root)
