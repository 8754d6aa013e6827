"""Pictures named by a user for prediction."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from vitrail.data.sources.pictures import find_pictures
from vitrail.errors import DataError, ImageError


def _picture(path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 3)).save(path)
    return str(path)


def test_files_keep_the_order_given_and_folders_are_sorted(tmp_path: Path) -> None:
    last = _picture(tmp_path / "z.png")
    second, first = _picture(tmp_path / "folder" / "b.png"), _picture(tmp_path / "folder" / "a" / "c.png")
    (tmp_path / "folder" / "notes.txt").write_text("no picture")
    source = find_pictures([last, str(tmp_path / "folder")])
    assert [source.key(index) for index in range(len(source))] == [last, second, first]
    assert source.open(0).size == (3, 4)


def test_a_picture_named_twice_has_two_keys(tmp_path: Path) -> None:
    file = _picture(tmp_path / "a.png")
    source = find_pictures([file, file])
    assert [source.key(0), source.key(1)] == [file, f"{file} (2)"]
    assert source.open(1).size == (3, 4)


def test_a_file_that_is_no_picture_is_listed_and_refused_when_opened(tmp_path: Path) -> None:
    file = tmp_path / "letter.jpg"
    file.write_text("Dear reader")
    source = find_pictures([str(file)])
    with pytest.raises(ImageError, match=r"letter\.jpg"):
        source.open(0)


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holiday"):
        find_pictures([str(tmp_path / "holiday")])


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="found no pictures"):
        find_pictures([str(tmp_path)])
