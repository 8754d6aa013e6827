"""Folders as they are found in the world: each oddity is a clear error or a named skip, and nothing else is lost."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.data.doctor import examine, require_usable
from vitrail.data.sources import open_pictures, open_source
from vitrail.data.sources.base import shown
from vitrail.data.split import TEST, TRAIN, UNASSIGNED
from vitrail.errors import DataError, ImageError


def picture(path: Path, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    for seed, name in enumerate(("a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png", "b/3.png")):
        picture(tmp_path / "photos" / name, seed)
    return tmp_path / "photos"


def keys(source) -> list[str]:
    return [source.key(index) for index in range(len(source))]


GOOD = ["a/1.png", "a/2.png", "a/3.png", "b/1.png", "b/2.png", "b/3.png"]


def test_a_folder_that_is_not_there_suggests_its_neighbour(photos):
    with pytest.raises(DataError, match=r"there is no such folder or file\. Did you mean 'photos'"):
        open_source(str(photos.parent / "photo"))


def test_a_single_picture_is_not_a_data_set(photos):
    with pytest.raises(DataError, match="is a file; give a folder of class folders"):
        open_source(str(photos / "a" / "1.png"))


def test_an_empty_folder_holds_no_pictures(tmp_path):
    with pytest.raises(DataError, match="found no pictures"):
        open_source(str(tmp_path))


def test_a_folder_without_pictures_says_what_it_left_out(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "words.txt").write_text("x")
    with pytest.raises(DataError, match=r"found no pictures\. Left out: a/words.txt"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("inside", [".", "train"])
def test_pictures_without_class_folders_are_refused_with_advice(tmp_path, inside):
    picture(tmp_path / inside / "1.png")
    picture(tmp_path / inside / "2.png")
    with pytest.raises(DataError, match="holds 2 pictures but no class folders; move each picture into a folder"):
        open_source(str(tmp_path))


@pytest.mark.parametrize("sides", [[""], ["train", "test"]])
def test_where_no_label_is_looked_at_the_folder_itself_is_the_class(tmp_path, sides):
    for side in sides:
        picture(tmp_path / "album" / side / "1.png")
        picture(tmp_path / "album" / side / "2.png")
        (tmp_path / "album" / side / "words.txt").write_text("x")
    source = open_pictures(str(tmp_path / "album"))
    assert source.classes == ("album",)
    assert keys(source) == [os.path.join(side, name) for side in sides for name in ("1.png", "2.png")]
    assert source.splits.tolist() == ([UNASSIGNED] * 2 if sides == [""] else [TRAIN] * 2 + [TEST] * 2)
    assert [file for file, _ in source.skipped] == [os.path.join(side, "words.txt") for side in sides]


def test_class_folders_stay_classes_where_no_label_is_looked_at(photos):
    assert open_pictures(str(photos)).classes == open_source(str(photos)).classes


def test_pictures_beside_class_folders_are_named(photos):
    picture(photos / "stray.png")
    source = open_source(str(photos))
    assert keys(source) == GOOD
    assert source.skipped == (("stray.png", "is outside the class folders"),)


def test_an_empty_class_folder_becomes_no_class_and_is_told(photos):
    (photos / "empty").mkdir()
    source = open_source(str(photos))
    assert source.classes == ("a", "b")
    assert source.notes == ("1 class folder holds no pictures and became no class: empty.",)
    assert any("empty" in finding.message for finding in examine(source).findings)


def test_one_class_only_cannot_be_learnt(photos):
    shutil.rmtree(photos / "b")
    source = open_source(str(photos))
    report = examine(source)
    assert report.findings[0].code == "one-class"
    with pytest.raises(DataError, match="only one class, 'a'"):
        require_usable(report, source, strict=False)


def test_a_folder_around_the_data_set_is_pointed_out(photos):
    source = open_source(str(photos.parent))
    assert source.classes == ("photos",)
    assert "if its sub-folders are the classes, give that folder instead" in source.notes[0]


STRANGE = [
    "with space",
    "new\nline",
    "quote\"'",
    "日本語",
    "ελληνικά",
    "-dash",
    "percent%20",
    "semi;colon,comma",
    "\x1b[31m",
]


def test_any_name_is_listed_opened_and_shown_on_one_line(photos):
    for seed, name in enumerate(STRANGE):
        picture(photos / name / f"{name}.png", 100 + seed)
    source = open_source(str(photos))
    assert set(STRANGE) <= set(source.classes)
    assert set(keys(source)) == {*GOOD, *(f"{name}/{name}.png" for name in STRANGE)}
    report = examine(source)
    assert report.broken == ()
    assert report.usable.all()
    for key in keys(source):
        assert shown(key).isprintable()


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname == "Darwin", reason="the system refuses such names")
def test_names_that_are_no_text_are_listed_and_opened(photos):
    folder = os.fsencode(photos) + b"/caf\xe9"
    os.mkdir(folder)
    shutil.copy(photos / "a" / "1.png", folder + b"/\xff.png")
    source = open_source(str(photos))
    assert source.classes == ("a", "b", "caf\\xe9")
    assert keys(source)[-1] == "caf\\xe9/\\xff.png"
    assert source.open(6).size == (20, 30)
    assert examine(source).usable.all()


def test_links_that_loop_end_and_are_named(photos):
    (photos / "a" / "up").symlink_to(photos, target_is_directory=True)
    (photos / "a" / "self").symlink_to(photos / "a", target_is_directory=True)
    (photos / "all").symlink_to(photos, target_is_directory=True)
    (photos / "a" / "knot.png").symlink_to(photos / "a" / "knot.png")
    (photos / "a" / "dangling.png").symlink_to(photos / "gone.png")
    source = open_source(str(photos))
    assert keys(source) == GOOD
    reasons = dict(source.skipped)
    assert set(reasons) == {"a/up", "a/self", "all", "a/knot.png", "a/dangling.png"}
    assert reasons["a/dangling.png"] == "is a link to nothing"
    assert "already" in reasons["a/self"]


def test_two_classes_that_link_into_each_other_end(photos):
    (photos / "a" / "x").symlink_to(photos / "b", target_is_directory=True)
    (photos / "b" / "y").symlink_to(photos / "a", target_is_directory=True)
    source = open_source(str(photos))
    assert len(source) == 12
    assert all(sum(source.labels == label) == 6 for label in (0, 1))


def test_a_linked_class_folder_is_followed(photos, tmp_path):
    picture(tmp_path / "elsewhere" / "9.png")
    (photos / "c").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert keys(open_source(str(photos))) == [*GOOD, "c/9.png"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_skipped_without_waiting_on_it(photos):
    os.mkfifo(photos / "a" / "pipe.png")
    source = open_source(str(photos))
    assert source.skipped == (("a/pipe.png", "is not a regular file"),)


@contextmanager
def as_an_ordinary_user():
    """Root reads everything, so step down for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def shared_photos(photos):
    """The same pictures where another user may come."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(photos, Path(folder) / "photos")
        os.chmod(folder, 0o755)
        yield Path(folder) / "photos"
        for path in Path(folder).rglob("*"):
            path.chmod(0o755)


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_what_may_not_be_read_is_named_and_the_rest_is_used(shared_photos):
    (shared_photos / "a" / "2.png").chmod(0)
    (shared_photos / "locked").mkdir()
    (shared_photos / "locked").chmod(0)
    with as_an_ordinary_user():
        source = open_source(str(shared_photos))
        report = examine(source)
        with pytest.raises(ImageError, match=r"a/2\.png: .*ermission denied"):
            source.open(1)
    assert keys(source) == GOOD
    assert [(why, name) for name, why in source.skipped] == [("the folder cannot be read: permission denied", "locked")]
    assert [(source.key(index), "ermission denied" in cause) for index, cause in report.broken] == [("a/2.png", True)]
    assert report.usable.sum() == 5
    assert {finding.code for finding in report.findings} >= {"broken", "unreadable"}
    with pytest.raises(DataError, match="locked"):
        require_usable(report, source, strict=True)


@pytest.mark.skipif(os.name != "posix", reason="needs file modes")
def test_a_data_set_that_may_not_be_read_says_so(shared_photos):
    shared_photos.chmod(0)
    with as_an_ordinary_user(), pytest.raises(DataError, match="permission denied"):
        open_source(str(shared_photos))


def test_broken_pictures_are_named_counted_and_left_out(photos):
    (photos / "a" / "1.png").write_bytes(b"")
    (photos / "a" / "2.png").write_bytes((photos / "b" / "1.png").read_bytes()[:300])
    (photos / "b" / "1.png").write_text("this is text, not a picture")
    source = open_source(str(photos))
    report = examine(source)
    assert [source.key(index) for index, _ in report.broken] == ["a/1.png", "a/2.png", "b/1.png"]
    assert np.flatnonzero(~report.usable).tolist() == [0, 1, 3]
    finding = next(finding for finding in report.findings if finding.code == "broken")
    assert finding.severity == "warning"
    assert "3 pictures cannot be read" in finding.message
    require_usable(report, source, strict=False)
    with pytest.raises(DataError, match=r"cannot be read.*--strict"):
        require_usable(report, source, strict=True)


def test_nothing_readable_is_an_error(photos):
    for path in photos.rglob("*.png"):
        path.write_bytes(b"x")
    source = open_source(str(photos))
    with pytest.raises(DataError, match="None of the 6 pictures can be read"):
        require_usable(examine(source), source, strict=False)
