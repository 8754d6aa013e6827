"""Published data sets by name: what comes out of a publisher's layout, and what is refused."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import sys
import tarfile
import threading
import zipfile
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import h5py
import numpy as np
import pytest
from published_layouts import LAYOUTS, example, jpeg, picture, record
from scipy.io import savemat

from vitrail.data.imagenet_classes import imagenet_synsets
from vitrail.data.published.catalog import PUBLISHED, Archive
from vitrail.data.published.fetch import fetch, unpack
from vitrail.data.published.tfrecord import masked_checksum, records
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
        ("sun397", ["abbey", "church/outdoor", "abbey"], [TRAIN, VALIDATION, TEST]),
        (
            "patch-camelyon",
            ["no metastasis", "metastasis", "metastasis", "no metastasis"],
            [TRAIN, TRAIN, VALIDATION, TEST],
        ),
        ("retinopathy", ["grade 0", "grade 4", "grade 0"], [TRAIN, VALIDATION, TEST]),
        ("dmlab", ["class 0", "class 5", "class 5", "class 0"], [TRAIN, TRAIN, VALIDATION, TEST]),
        (
            "smallnorb-azimuth",
            ["azimuth 000 degrees", "azimuth 340 degrees"] * 2,
            [TRAIN, TRAIN, TEST, TEST],
        ),
        (
            "smallnorb-elevation",
            [f"elevation {height} degrees" for height in (30, 70, 70, 30)],
            [TRAIN, TRAIN, TEST, TEST],
        ),
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


def test_smallnorb_shows_what_the_first_camera_saw(tmp_path):
    source = opened("smallnorb-elevation", tmp_path)
    assert [int(source.open(index).pixels(num_channels=1).max()) for index in range(4)] == [1, 2, 1, 2]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-1], "has not just as many"),
        (lambda data: data + b"0", "has not just as many"),
        (lambda data: b"\x00" + data[1:], "magic"),
        (lambda data: data[:8] + b"\xff\xff\xff\x7f" + data[12:], "up to 24,300"),
        (lambda data: data[:9], "cut off"),
    ],
)
def test_a_damaged_matrix_is_refused_before_its_size_is_believed(change, why, tmp_path):
    LAYOUTS["smallnorb-azimuth"](tmp_path)
    (file,) = tmp_path.glob("*training-info.mat")
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(DataError, match=why):
        open_source(f"smallnorb-azimuth:{tmp_path}")


def test_the_pictures_inside_tfrecords_are_read_where_they_lie(tmp_path):
    source = pickle.loads(pickle.dumps(opened("dmlab", tmp_path)))
    assert [source.open(index).size for index in range(4)] == [(9, 12)] * 4
    assert [int(source.open(index).pixels()[0, 0, 0]) > 100 for index in range(4)] == [False, True, True, False]
    assert len({source.key(index) for index in range(4)}) == 4


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (lambda: b"\x01" * 40, "checksum of its length"),
        (lambda: record(example(image=jpeg("red"), label=1))[:-9], "cut off"),
        (lambda: record(example(image=jpeg("red"))), "no feature 'label'"),
        (lambda: record(example(image=3, label=1)), "'image' must be bytes"),
        (lambda: record(example(image=jpeg("red"), label=6)), "between 0 and 5"),
        (lambda: record(b"\x0a\x7f"), "leads outside"),
        (lambda: record(b"\x0f"), "wire type 7"),
        (lambda: record(b"\xff" * 12), "without an end"),
    ],
)
def test_what_is_no_tfrecord_of_labelled_pictures_is_refused(content, why, tmp_path):
    LAYOUTS["dmlab"](tmp_path)
    (tmp_path / "dmlab-test.tfrecord").write_bytes(content())
    with pytest.raises(DataError, match=why):
        open_source(f"dmlab:{tmp_path}")


def test_tfrecord_checksums_are_those_of_the_format():
    # CRC-32C of "123456789" is 0xE3069283 (RFC 3720, appendix B.4, has the polynomial).
    plain = 0xE3069283
    assert masked_checksum(b"123456789") == ((plain >> 15 | plain << 17) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_are_those_that_tensorboard_finds(tmp_path):
    tensorboard = pytest.importorskip("tensorboard.compat.tensorflow_stub.pywrap_tensorflow")
    path = tmp_path / "a.tfrecord"
    path.write_bytes(record(example(label=1)) + record(example(label=77)))
    ours = list(records(memoryview(path.read_bytes())))
    reader = tensorboard.PyRecordReader_New(str(path))
    for span in ours:
        reader.GetNext()
        assert reader.record() == path.read_bytes()[span.start : span.end]


def test_patches_in_hdf5_are_opened_anew_in_each_process(tmp_path):
    source = opened("patch-camelyon", tmp_path)
    assert int(source.open(1).pixels()[0, 0, 0]) == 8
    again = pickle.loads(pickle.dumps(source))
    assert not again.opened
    assert int(again.open(3).pixels()[0, 0, 0]) == 7


def test_hdf5_without_h5py_says_what_to_install(tmp_path, monkeypatch):
    LAYOUTS["patch-camelyon"](tmp_path)
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(DataError, match=r"vitrail\[hdf5\]"):
        open_source(f"patch-camelyon:{tmp_path}")


def test_kitti_is_divided_by_whole_drives_and_labelled_by_the_nearest_vehicle(tmp_path):
    source = opened("kitti-distance", tmp_path)
    assert [name[0] for name in names_of(source)] == ["0", "1", "3", "2"]
    assert source.splits[0] == source.splits[3]  # of one drive
    assert sorted(set(source.splits.tolist())) == [TRAIN, VALIDATION, TEST]


def test_sun397_falls_back_to_the_publishers_first_partition(tmp_path):
    LAYOUTS["sun397"](tmp_path)
    for file in tmp_path.glob("*.txt"):
        file.unlink()
    with pytest.raises(DataError, match="publisher's Partitions"):
        open_source(f"sun397:{tmp_path}")
    (tmp_path / "Training_01.txt").write_text("/a/abbey/1.jpg\n")
    (tmp_path / "Testing_01.txt").write_text("/c/church/outdoor/2.jpg\n/../../etc/1.jpg\n")
    with pytest.raises(DataError, match="has the line"):
        open_source(f"sun397:{tmp_path}")
    (tmp_path / "Testing_01.txt").write_text("/c/church/outdoor/2.jpg\n")
    assert open_source(f"sun397:{tmp_path}").splits.tolist() == [TRAIN, TEST]


def test_names_that_read_the_same_files_share_a_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("VITRAIL_DATA", str(tmp_path))
    (tmp_path / "smallnorb").mkdir()
    LAYOUTS["smallnorb-azimuth"](tmp_path / "smallnorb")
    assert len(open_source("smallnorb-azimuth")) == len(open_source("smallnorb-elevation")) == 4


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


def _deep_scenes(root):
    (root / "CLEVR_v1.0" / "scenes" / "CLEVR_val_scenes.json").write_text("[" * 200_000)


def _half_a_letter(root):
    scene = {"image_filename": "\\ud800.png", "objects": [{"pixel_coords": [1, 2, 9]}] * 3}
    file = root / "CLEVR_v1.0" / "scenes" / "CLEVR_val_scenes.json"
    file.write_text(json.dumps({"scenes": [scene]}).replace("\\\\", "\\"))


def _far_scene(root):
    scene = {"image_filename": "1.png", "objects": [{"pixel_coords": [1, 2, float("nan")]}]}
    (root / "CLEVR_v1.0" / "scenes" / "CLEVR_val_scenes.json").write_text(json.dumps({"scenes": [scene]}))


def _long_cell(root):
    (root / "trainLabels.csv").write_text("image,level\n" + 200_000 * "1" + ",0\n")


def _solution_without_usage(root):
    (root / "retinopathy_solution.csv").write_text("image,level\n2_left,4\n")


def _endless_batch(root):
    with (root / "cifar-10-batches-bin" / "test_batch.bin").open("r+b") as file:
        file.truncate(10**12)


def _flower_named_in_text(root):
    savemat(root / "imagelabels.mat", {"labels": "rose"})


def _half_a_flower(root):
    savemat(root / "setid.mat", {"trnid": [[1.5]], "valid": [[2]], "tstid": [[3]]})


def _half_a_metastasis(root):
    with h5py.File(root / "camelyonpatch_level_2_split_test_y.h5", "w") as file:
        file["y"] = np.full((1, 1, 1, 1), 0.5)


def _endless_labels(root):
    with h5py.File(root / "camelyonpatch_level_2_split_test_y.h5", "w") as file:
        file.create_dataset("y", (10**12,), np.uint8, chunks=(1024,))


def _folder_for_patches(root):
    with h5py.File(root / "camelyonpatch_level_2_split_test_x.h5", "w") as file:
        file.create_group("x")


def _scrambled_sprites(root):
    file = root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz"
    content = bytearray(file.read_bytes())
    start = content.index(b"imgs.npy") + 40
    content[start : start + 30] = 30 * b"\xff"
    file.write_bytes(content)


def _long_drive(root):
    (root / "mapping" / "train_rand.txt").write_text("4,1,2," + 5000 * "3")


@pytest.mark.parametrize(
    ("name", "damage", "why"),
    [
        ("clevr-count", _deep_scenes, "not CLEVR's list of scenes"),
        ("clevr-count", _half_a_letter, "no file name"),
        ("clevr-distance", _far_scene, "the depth nan is not up to 100"),
        ("retinopathy", _long_cell, "not CSV"),
        ("retinopathy", _solution_without_usage, "a Usage, Public or Private"),
        ("cifar10", _endless_batch, "more than 153,650,000 bytes"),
        ("flowers102", _flower_named_in_text, "a list of whole numbers"),
        ("flowers102", _half_a_flower, "a list of whole numbers"),
        ("patch-camelyon", _half_a_metastasis, "whole numbers"),
        ("patch-camelyon", _endless_labels, "not up to 262,144 whole numbers"),
        ("patch-camelyon", _folder_for_patches, "cannot be read"),
        ("dsprites-location", _scrambled_sprites, "cannot be read"),
        ("kitti-distance", _long_drive, "must name lines of train_mapping"),
    ],
)
def test_a_damaged_list_is_refused_by_its_name(name, damage, why, tmp_path):
    LAYOUTS[name](tmp_path)
    damage(tmp_path)
    with pytest.raises(DataError, match=why):
        open_source(f"{name}:{tmp_path}")


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


def test_a_download_by_name_tells_how_far_it_is(server, tmp_path, monkeypatch):
    folder, address = server
    LAYOUTS["dtd"](tmp_path / "made")
    with tarfile.open(folder / "dtd.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / "dtd", "dtd")
    content = (folder / "dtd.tar.gz").read_bytes()
    archive = Archive(f"{address}/dtd.tar.gz", hashlib.md5(content).hexdigest())
    monkeypatch.setitem(PUBLISHED, "dtd", replace(PUBLISHED["dtd"], archives=(archive,)))
    monkeypatch.setenv("VITRAIL_DATA", str(tmp_path / "data"))
    told = []
    assert len(open_source("vtab:dtd", progress=lambda done, total: told.append((done, total)))) == 3
    assert told[-1] == (len(content), len(content))


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
