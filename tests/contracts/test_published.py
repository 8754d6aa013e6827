"""Published data sets by name: what comes out of a publisher's layout, and what is refused."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from published_layouts import LAYOUTS, picture
from scipy.io import savemat

from vitrail.data.imagenet_classes import imagenet_synsets
from vitrail.data.published.catalog import PUBLISHED, Archive
from vitrail.data.published.fetch import fetch, unpack
from vitrail.data.sources import absolute_spec, open_source
from vitrail.data.sources.published import READERS
from vitrail.data.split import TEST, TRAIN, UNASSIGNED, VALIDATION
from vitrail.errors import DataError


def opened(name, root):
    LAYOUTS[name](root)
    return open_source(f"{name}:{root}")


def names_of(source):
    return [source.classes[label] for label in source.labels]


def test_every_name_has_a_reader_and_every_reader_a_name():
    assert list(READERS) == list(PUBLISHED)


def test_cifar_planes_become_pixels(tmp_path):
    source = opened("cifar100", tmp_path)
    plane = np.resize(np.arange(256, dtype=np.uint8), 3 * 1024).reshape(3, 32, 32)
    assert np.array_equal(source.open(0).pixels(), plane.transpose(1, 2, 0))
    assert names_of(source) == ["airplane"] * 2 + ["automobile"] * 2
    assert source.splits.tolist() == [TRAIN, TRAIN, TEST, TEST]


def test_the_pickles_of_cifar_are_not_opened(tmp_path):
    (tmp_path / "cifar-10-batches-py").mkdir()
    (tmp_path / "batches.meta").write_bytes(b"cos\nsystem\n(S'false'\ntR.")
    with pytest.raises(DataError, match="can run code"):
        open_source(f"cifar10:{tmp_path}")


def test_a_batch_that_is_cut_off_is_refused(tmp_path):
    LAYOUTS["cifar10"](tmp_path)
    file = tmp_path / "cifar-10-batches-bin" / "data_batch_3.bin"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"data_batch_3.bin has 6,145 bytes"):
        open_source(f"cifar10:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "names", "splits"),
    [
        ("pets", ["abyssinian", "great pyrenees", "abyssinian"], [TRAIN, TRAIN, TEST]),
        ("flowers102", ["passion flower", "pink primrose", "passion flower"], [TRAIN, VALIDATION, TEST]),
        ("dtd", ["banded", "dotted", "banded"], [TRAIN, VALIDATION, TEST]),
        ("svhn", ["0", "3", "1"], [TRAIN, TRAIN, TEST]),
        ("clevr-count", ["03 objects", "04 objects", "03 objects"], [TRAIN, TRAIN, TEST]),
        ("clevr-distance", ["1: 8 to 8.5", "2: 8.5 to 9", "0: 0 to 8"], [TRAIN, TRAIN, TEST]),
        ("dsprites-location", ["place 00", "place 15", "place 00"], [UNASSIGNED] * 3),
        ("dsprites-orientation", ["orientation 00", "orientation 15", "orientation 00"], [UNASSIGNED] * 3),
        ("imagenet", ["tench", "Egyptian cat"] * 2, [TRAIN] * 2 + [TEST] * 2),
    ],
)
def test_the_publishers_labels_and_division_are_kept(name, names, splits, tmp_path):
    source = opened(name, tmp_path)
    assert names_of(source) == names
    assert source.splits.tolist() == splits


def test_dsprites_unpacks_to_black_and_white(tmp_path):
    pixels = opened("dsprites-location", tmp_path).open(1).pixels(num_channels=1)[:, :, 0]
    assert np.argwhere(pixels == 255).tolist() == [[5, 6]]
    assert pixels.sum() == 255


def test_imagenets_flat_validation_pictures_are_labelled_by_the_development_kit(tmp_path):
    kit = tmp_path / "ILSVRC2012_devkit_t12" / "data"
    kit.mkdir(parents=True)
    (kit / "ILSVRC2012_validation_ground_truth.txt").write_text("2\n1\n")
    synsets = np.zeros(2, dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O")])
    synsets[0], synsets[1] = (1, imagenet_synsets()[0]), (2, imagenet_synsets()[5])
    savemat(kit / "meta.mat", {"synsets": synsets})
    for number in (1, 2):
        picture(tmp_path / "val" / f"ILSVRC2012_val_{number:08}.JPEG")
    assert names_of(open_source(f"imagenet:{tmp_path}")) == ["electric ray", "tench"]


def test_flat_validation_pictures_without_labels_say_what_is_missing(tmp_path):
    picture(tmp_path / "val" / "ILSVRC2012_val_00000001.JPEG")
    with pytest.raises(DataError, match="ILSVRC2012_devkit_t12"):
        open_source(f"imagenet:{tmp_path}")


@pytest.mark.parametrize("name", PUBLISHED)
def test_what_is_missing_is_told_with_the_address_and_the_layout(name, tmp_path):
    with pytest.raises(DataError) as caught:
        open_source(f"{name}:{tmp_path / 'nowhere'}")
    assert PUBLISHED[name].address in str(caught.value)
    assert PUBLISHED[name].layout in str(caught.value)


def test_a_listed_picture_that_is_not_there_is_named(tmp_path):
    LAYOUTS["pets"](tmp_path)
    (tmp_path / "images" / "Abyssinian_1.jpg").unlink()
    assert open_source(f"pets:{tmp_path}").skipped == (("images/Abyssinian_1.jpg", "there is no such file"),)


def test_the_folder_of_data_sets_is_looked_in(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_DATA", str(tmp_path))
    (tmp_path / "svhn").mkdir()
    LAYOUTS["svhn"](tmp_path / "svhn")
    assert len(open_source("svhn")) == 3
    monkeypatch.chdir(tmp_path)
    assert absolute_spec("svhn:svhn") == f"svhn:{tmp_path / 'svhn'}"
    assert absolute_spec("svhn") == "svhn"


def test_a_folder_of_the_same_name_is_not_passed_over_in_silence(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_DATA", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pets").mkdir()
    with pytest.raises(DataError, match=r"write \./pets"):
        open_source("pets")


@pytest.fixture
def server(tmp_path):
    """The publisher: a folder of this machine over HTTP."""
    folder = tmp_path / "publisher"
    folder.mkdir()

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


def test_a_data_set_is_fetched_checked_and_unpacked(server, tmp_path):
    folder, address = server
    LAYOUTS["dtd"](tmp_path / "made")
    with tarfile.open(folder / "dtd.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / "dtd", "dtd")
    right = hashlib.md5((folder / "dtd.tar.gz").read_bytes()).hexdigest()
    data = replace(PUBLISHED["dtd"], archives=(Archive(f"{address}/dtd.tar.gz", "0" * 32),))
    with pytest.raises(DataError, match="MD5"):
        fetch("dtd", data, tmp_path / "dtd")
    assert not (tmp_path / "dtd").exists()
    fetch("dtd", replace(data, archives=(Archive(f"{address}/dtd.tar.gz", right),)), tmp_path / "dtd")
    assert len(open_source(f"dtd:{tmp_path / 'dtd'}")) == 3


def _tar(path, info, content=b""):
    info.size = len(content)
    with tarfile.open(path, "w") as tar:
        tar.addfile(info, io.BytesIO(content))


@pytest.mark.parametrize("name", ["../out.txt", "/tmp/out.txt", "a/../../out.txt", "a\\..\\out.txt"])
@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_nothing_is_unpacked_outside_its_folder(name, kind, tmp_path):
    path = tmp_path / f"bad.{kind}"
    if kind == "tar":
        _tar(path, tarfile.TarInfo(name), b"x")
    else:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(name, "x")
    with pytest.raises(DataError, match="leads outside"):
        unpack(path, tmp_path / "folder")
    assert not (tmp_path / "out.txt").exists()


def test_links_and_bombs_are_not_unpacked(tmp_path):
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc"
    _tar(tmp_path / "link.tar", link)
    with pytest.raises(DataError, match="is a link"):
        unpack(tmp_path / "link.tar", tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(5_000_000))
    with pytest.raises(DataError, match="more than"):
        unpack(tmp_path / "bomb.zip", tmp_path / "folder", max_bytes=1_000_000)
