"""The data check finds what is broken, copied, contradictory or leaking, names it, and claims nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitrail.data.config import DataConfig
from vitrail.data.doctor import examine, require_usable, thumbnail
from vitrail.data.images import open_picture
from vitrail.data.sources import open_source
from vitrail.data.split import make_splits
from vitrail.errors import DataError


def scene(seed: int, size: tuple[int, int] = (120, 90)) -> Image.Image:
    """Soft random blobs of colour: as little alike as photographs are. `size`: width, height."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def save(image: Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    """Two classes of four pictures, without a flaw."""
    root = tmp_path / "photos"
    for number in range(8):
        save(scene(number), root / ("cat" if number < 4 else "dog") / f"{number}.jpg", quality=90)
    return root


def look(root, **arguments):
    source = open_source(str(root))
    return source, examine(source, num_threads=2, **arguments)


def codes(report) -> set[str]:
    return {finding.code for finding in report.findings}


def named(source, groups):
    return [tuple(source.key(index) for index in group) for group in groups]


def test_a_sound_data_set_has_no_findings(photos):
    source, report = look(photos)
    assert report.findings == ()
    assert (report.num_samples, report.num_examined) == (8, 8)
    assert report.usable.all()
    assert len(np.unique(report.groups)) == 8
    assert report.counts.tolist() == [[0, 0], [0, 0], [0, 0], [4, 4]]
    assert (report.sizes == (90, 120)).all()
    assert report.modes == {"RGB": 8}
    require_usable(report, source, strict=True)


def test_equal_files_are_one_group(photos):
    shutil.copy(photos / "cat" / "1.jpg", photos / "cat" / "copy.jpg")
    source, report = look(photos)
    assert named(source, report.exact_groups) == [("cat/1.jpg", "cat/copy.jpg")]
    assert report.near_groups == ()
    assert report.groups[1] == report.groups[4]
    assert codes(report) == {"exact"}
    assert report.findings[0].severity == "note"


def test_a_picture_in_two_classes_is_a_conflict(photos):
    shutil.copy(photos / "cat" / "1.jpg", photos / "dog" / "copy.jpg")
    source, report = look(photos)
    assert named(source, report.conflicts) == [("cat/1.jpg", "dog/copy.jpg")]
    with pytest.raises(DataError, match=r"more than one class, such as cat/1\.jpg and dog/copy\.jpg"):
        require_usable(report, source, strict=True)
    require_usable(report, source, strict=False)


COPIES = {
    "re-encoded": lambda image, path: save(image, path, quality=40),
    "resized": lambda image, path: save(image.resize((67, 51), Image.Resampling.BICUBIC), path, quality=85),
    "squashed": lambda image, path: save(image.resize((64, 64), Image.Resampling.BICUBIC), path, quality=85),
    "cropped": lambda image, path: save(image.crop((2, 2, 118, 88)), path, quality=90),
    "brighter": lambda image, path: save(image.point(lambda value: value * 0.9 + 12), path, quality=90),
    "lossless": lambda image, path: save(image, path.with_suffix(".png")),
}


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_in_other_bytes_is_found(photos, copy):
    COPIES[copy](scene(2), photos / "cat" / "copy.jpg")
    source, report = look(photos)
    (group,) = named(source, report.near_groups)
    assert group[0] == "cat/2.jpg"
    assert group[1].startswith("cat/copy")
    assert codes(report) == {"near"}


def test_leaks_across_given_splits_are_named_in_pairs(photos, tmp_path):
    root = tmp_path / "given"
    for split, number in (("train", 0), ("val", 4), ("test", 8)):
        for label in ("cat", "dog"):
            for extra in range(3):
                save(scene(100 + 10 * number + extra + 50 * (label == "dog")), root / split / label / f"{extra}.png")
    shutil.copy(root / "train" / "cat" / "0.png", root / "test" / "cat" / "again.png")
    save(scene(100 + 40 + 50), root / "train" / "dog" / "smaller.jpg", quality=80)  # a copy of val/dog/0.png
    source, report = look(root)
    assert sorted(named(source, report.leaks)) == [
        ("train/cat/0.png", "test/cat/again.png"),
        ("train/dog/smaller.jpg", "val/dog/0.png"),
    ]
    finding = next(finding for finding in report.findings if finding.code == "leak")
    assert finding.severity == "warning"
    assert set(finding.keys) == {key for pair in named(source, report.leaks) for key in pair}
    with pytest.raises(DataError, match="2 pairs of copies on two sides"):
        require_usable(report, source, strict=True)


def test_a_split_made_from_the_report_keeps_copies_together(photos):
    for number in range(8):
        label = "cat" if number < 4 else "dog"
        save(scene(number), photos / label / f"{number}-again.jpg", quality=60)
    source, report = look(photos)
    assert len(report.near_groups) == 8
    splits = make_splits(source.labels, source.splits, report.groups, report.usable, 2, DataConfig("x", 0.3, 0.3))
    for group in report.near_groups:
        assert len(set(splits[list(group)])) == 1
    assert set(splits) == {0, 1, 2}


def test_digits_are_all_different():
    _, report = look("digits")
    assert report.exact_groups == report.near_groups == ()
    assert report.findings == ()
    assert report.thumbnails.shape == (1797, 16, 16, 3)


def test_flat_pictures_of_other_colours_are_not_copies(photos):
    for shade in range(0, 250, 10):
        save(Image.new("RGB", (64, 64), (shade, 255 - shade, 90)), photos / "cat" / f"flat{shade}.png")
    _, report = look(photos)
    assert report.near_groups == ()


def test_handwriting_is_not_taken_for_copies(tmp_path):
    """Ones drawn by different hands differ by a little slant and shift."""
    for number in range(40):
        numbers = np.random.default_rng(number)
        top, bottom = numbers.integers(90, 170, 2)
        drawn = Image.new("L", (28 * 8, 28 * 8))
        from PIL import ImageDraw

        ImageDraw.Draw(drawn).line([(int(top), 30), (int(bottom), 190)], fill=255, width=int(numbers.integers(14, 30)))
        save(drawn.resize((28, 28), Image.Resampling.BOX), tmp_path / "n" / str(number % 2) / f"{number}.png")
    _, report = look(tmp_path / "n")
    assert len(report.near_groups) <= 1


def test_few_pictures_uneven_classes_and_gaps_in_splits_are_told(tmp_path):
    root = tmp_path / "n"
    for number in range(40):
        save(scene(number, (40, 40)), root / "train" / "many" / f"{number}.png")
    save(scene(50, (40, 40)), root / "train" / "one" / "1.png")
    for label in ("many", "new"):
        for number in range(3):
            save(scene(60 + number + 3 * (label == "new"), (40, 40)), root / "test" / label / f"{number}.png")
    _, report = look(root)
    messages = {finding.code: finding.message for finding in report.findings}
    assert "1 class with fewer than 3 readable pictures" in messages["few"]
    assert "one (1)" in messages["few"]
    assert "'many' has 43 pictures and 'one' 1; --balance" in messages["uneven"]
    told = [finding.message for finding in report.findings if finding.code == "missing"]
    assert any("in the train split cannot be learnt: new" in message for message in told)
    assert any("in the test split cannot be judged there: one" in message for message in told)


def test_tiny_long_and_grey_pictures_are_noted(photos):
    save(scene(90, (9, 9)), photos / "cat" / "tiny.png")
    save(scene(91, (400, 40)), photos / "cat" / "long.png")
    save(scene(92).convert("L"), photos / "dog" / "grey.png")
    _, report = look(photos)
    found = {finding.code: finding for finding in report.findings}
    assert found["tiny"].keys == ("cat/tiny.png",)
    assert found["aspect"].keys == ("cat/long.png",)
    assert "1 of 11 pictures are stored without colour" in found["modes"].message
    assert {finding.severity for finding in report.findings} == {"note"}


def test_findings_come_gravest_first_and_fit_one_line(photos):
    (photos / "cat" / "0.jpg").write_bytes(b"")
    shutil.copy(photos / "cat" / "1.jpg", photos / "cat" / "a\ncopy.jpg")
    shutil.rmtree(photos / "dog")
    _, report = look(photos)
    order = [finding.severity for finding in report.findings]
    assert order == sorted(order, key=("error", "warning", "note").index)
    assert order[0] == "error"
    assert all(finding.message.isprintable() and finding.message.endswith(".") for finding in report.findings)


def test_a_part_of_a_large_data_set_is_chosen_by_name_and_said_so(photos):
    source, part = look(photos, max_decoded=5)
    assert part.num_examined == part.examined.sum() == 5
    assert "sampled" in codes(part)
    assert "Of 8 pictures 5 were opened" in part.findings[-1].message
    kept, thumbnails = part.thumbnails_of(np.arange(8)[::-1])
    assert kept.tolist() == np.flatnonzero(part.examined)[::-1].tolist()
    assert np.array_equal(thumbnails, np.stack([thumbnail(source.open(index)) for index in kept]))
    assert part.usable.all()
    (photos / "cat" / "new.jpg").write_bytes((photos / "cat" / "0.jpg").read_bytes())
    _, more = look(photos, max_decoded=6)
    chosen = {source.key(index) for index in np.flatnonzero(part.examined)}
    again = open_source(str(photos))
    assert chosen <= {again.key(index) for index in np.flatnonzero(more.examined)} | {"cat/new.jpg"}


def test_the_fingerprint_tells_contents_labels_and_names_apart(photos):
    _, first = look(photos)
    assert look(photos)[1].fingerprint == first.fingerprint
    fingerprints = {first.fingerprint}
    save(scene(0), photos / "cat" / "0.jpg", quality=91)
    fingerprints.add(look(photos)[1].fingerprint)
    (photos / "cat" / "1.jpg").rename(photos / "cat" / "1b.jpg")
    fingerprints.add(look(photos)[1].fingerprint)
    (photos / "cat").rename(photos / "lion")
    fingerprints.add(look(photos)[1].fingerprint)
    assert len(fingerprints) == 4


def test_the_report_is_plain_json(photos):
    shutil.copy(photos / "cat" / "1.jpg", photos / "dog" / "copy.jpg")
    (photos / "dog" / "words.txt").write_text("x")
    (photos / "dog" / "7.jpg").write_bytes(b"x")
    _, report = look(photos)
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["counts"] == {"unassigned": {"cat": 4, "dog": 4}}
    assert data["exact_groups"] == data["conflicts"]
    assert [finding["code"] for finding in data["findings"]] == [finding.code for finding in report.findings]
    assert data["broken"][0][1]


def test_threads_change_nothing(photos):
    source = open_source(str(photos))
    one, four = (examine(source, num_threads=number) for number in (1, 4))
    assert one.to_json() == four.to_json()
    assert np.array_equal(one.thumbnails, four.thumbnails)


def test_progress_is_told_to_the_end(photos):
    seen = []
    look(photos, progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (8, 8)


def test_an_interrupt_stops_the_check(photos):
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        look(photos, progress=interrupt)


def test_a_thumbnail_holds_the_mean_colours_of_the_whole_picture(tmp_path):
    for size in ((533, 400), (177, 133), (64, 64), (40, 51)):
        image = scene(5, size)
        small = thumbnail(open_picture(save(image, tmp_path / "x.jpg", quality=95)))
        reference = np.asarray(scene(5, (512, 512))).reshape(16, 32, 16, 32, 3).mean(axis=(1, 3))
        assert small.shape == (16, 16, 3)
        assert np.abs(small - reference).mean() < 3
