"""Made-up data sets in their publishers' layouts."""

from __future__ import annotations

import gzip
import io
import json

import h5py
import numpy as np
from PIL import Image
from scipy.io import savemat


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (9, 7), "red").save(path, format="JPEG")


def _cifar(top, files, num_label_bytes, names_file):
    def write(root):
        (root / top).mkdir()
        for number, file in enumerate(files):
            record = bytes([9] * (num_label_bytes - 1)) + bytes([number % 2]) + bytes(range(256)) * 12
            (root / top / file).write_bytes(record * 2)
        (root / top / names_file).write_text("airplane\nautomobile\n\n")

    return write


def _pets(root):
    lines = {"trainval": ["Abyssinian_1", "great_pyrenees_12"], "test": ["Abyssinian_2"]}
    (root / "annotations").mkdir()
    for file, names in lines.items():
        (root / "annotations" / f"{file}.txt").write_text("".join(f"{name} 1 1 1\n" for name in names))
        for name in names:
            picture(root / "images" / f"{name}.jpg")


def _flowers(root):
    savemat(root / "imagelabels.mat", {"labels": np.array([[77, 1, 77]], np.uint8)})
    savemat(root / "setid.mat", {"trnid": [[1]], "valid": [[2]], "tstid": [[3]]})
    for number in (1, 2, 3):
        picture(root / "jpg" / f"image_{number:05}.jpg")


def _imagenet(root):
    for wnid in ("n01440764", "n02124075"):
        picture(root / "train" / wnid / f"{wnid}_1.JPEG")
        picture(root / "val" / wnid / f"ILSVRC2012_val_0000000{1 + (wnid > 'n02')}.JPEG")


def _class_folders(folder, ending):
    def write(root):
        for name in ("n01440764", "n02124075"):
            picture(root / folder / name / f"1.{ending}")

    return write


def _dtd(root):
    (root / "dtd" / "labels").mkdir(parents=True)
    for split, name in (("train", "banded/1.jpg"), ("val", "dotted/2.jpg"), ("test", "banded/3.jpg")):
        (root / "dtd" / "labels" / f"{split}1.txt").write_text(name + "\n")
        picture(root / "dtd" / "images" / name)


def _svhn(root):
    for file, digits in (("train", [10, 3]), ("test", [1])):
        pixels = np.full((32, 32, 3, len(digits)), 7, np.uint8)
        savemat(root / f"{file}_32x32.mat", {"X": pixels, "y": np.array(digits, np.uint8)[:, None]})


def _clevr(root):
    for split, depths in (("train", [[8.2, 11, 12], [9.1, 9, 10, 11]]), ("val", [[7, 8, 9]])):
        scenes = []
        for number, found in enumerate(depths):
            name = f"CLEVR_{split}_{number:06}.png"
            picture(root / "CLEVR_v1.0" / "images" / split / name)
            scenes.append({"image_filename": name, "objects": [{"pixel_coords": [1, 2, depth]} for depth in found]})
        (root / "CLEVR_v1.0" / "scenes").mkdir(exist_ok=True)
        (root / "CLEVR_v1.0" / "scenes" / f"CLEVR_{split}_scenes.json").write_text(json.dumps({"scenes": scenes}))


def _dsprites(root):
    pictures = np.zeros((3, 64, 64), np.uint8)
    pictures[1, 5, 6] = 1
    latents = np.array([[0, 0, 0, 0, 0, 0], [0, 1, 2, 39, 31, 3], [0, 1, 2, 2, 1, 3]], np.int64)
    metadata = np.array({"a": 1}, dtype=object)  # as published: a pickle, which must not be opened
    np.savez_compressed(
        root / "dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
        imgs=pictures,
        latents_classes=latents,
        metadata=metadata,
    )


def _sun397(root):
    for file, line in (("tr", "/a/abbey/1.jpg"), ("va", "/c/church/outdoor/2.jpg"), ("te", "/a/abbey/3.jpg")):
        (root / f"sun397_tfds_{file}.txt").write_text(line + "\n")
        picture(root / "SUN397" / line[1:])


def _camelyon(root):
    for split, labels in (("train", [0, 1]), ("valid", [1]), ("test", [0])):
        pixels = np.arange(len(labels), dtype=np.uint8)[:, None, None, None] + np.full((1, 96, 96, 3), 7, np.uint8)
        for letter, values in (("x", pixels), ("y", np.array(labels, np.uint8).reshape(-1, 1, 1, 1))):
            with h5py.File(root / f"camelyonpatch_level_2_split_{split}_{letter}.h5", "w") as file:
                file[letter] = values


def _retinopathy(root):
    (root / "trainLabels.csv").write_text("image,level\n1_left,0\n")
    (root / "retinopathy_solution.csv").write_text("image,level,Usage\n2_left,4,Public\n2_right,0,Private\n")
    for name in ("train/1_left", "test/2_left", "test/2_right"):
        picture(root / f"{name}.jpeg")


def field(number, content):
    """A field of a protocol buffer: bytes, or a number."""
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def varint(value):
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + varint(value >> 7)


def example(**features):
    """A tf.train.Example of bytes and integers; of the latter those below 3 are packed, as either is allowed."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            feature = field(1, field(1, value))
        else:
            feature = field(3, field(1, bytes([value])) if value < 3 else field(1, value))
        entries += field(1, field(1, name.encode()) + field(2, feature))
    return field(1, entries)


def record(content):
    from vitrail.data.published.tfrecord import masked_checksum

    length = len(content).to_bytes(8, "little")
    checksums = [masked_checksum(part).to_bytes(4, "little") for part in (length, content)]
    return length + checksums[0] + content + checksums[1]


def jpeg(colour):
    stream = io.BytesIO()
    Image.new("RGB", (12, 9), colour).save(stream, format="JPEG")
    return stream.getvalue()


def _dmlab(root):
    for file, labels in (("train.tfrecord-00000-of-00002", [0]), ("train.tfrecord-00001-of-00002", [5])):
        (root / f"dmlab-{file}").write_bytes(b"".join(_frame(label) for label in labels))
    for file, label in (("validation", 5), ("test", 0)):
        (root / f"dmlab-{file}.tfrecord").write_bytes(_frame(label))


def _frame(label):
    return record(example(filename=b"0001.jpg", image=jpeg((40 * label, 0, 0)), label=label))


def _kitti(root):
    # Drives of one picture each, but the last of two; the lists are the publisher's.
    drives = [f"2011_09_26_drive_{number:04}_sync" for number in (1, 2, 5, 5)]
    (root / "mapping").mkdir()
    (root / "mapping" / "train_mapping.txt").write_text("".join(f"2011_09_26 {drive} 0000000000\n" for drive in drives))
    (root / "mapping" / "train_rand.txt").write_text("4,1,2,3\n")
    (root / "training" / "label_2").mkdir(parents=True)
    lines = {0: ("Car", 7.5), 1: ("Van", 12.0), 2: ("Pedestrian", 3.0), 3: ("Truck", 60.1)}
    for number, (kind, depth) in lines.items():
        line = f"{kind} 0.00 0 -1.58 587.01 173.33 614.12 200.12 1.65 1.67 3.64 -0.65 1.71 {depth} -1.59"
        dont_care = "DontCare -1 -1 -10 503.89 169.71 590.61 190.13 -1 -1 -1 -1000 -1000 -1000 -10"
        (root / "training" / "label_2" / f"{number:06}.txt").write_text(f"{line}\n{dont_care}\n")
        picture(root / "training" / "image_2" / f"{number:06}.png")


def matrix(values, magic):
    shape = (*values.shape, 1, 1)[: max(3, values.ndim)]
    header = np.array([magic, values.ndim, *shape], "<i4").tobytes()
    return header + np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()


def _norb(root):
    training, testing = "smallnorb-5x46789x9x18x6x2x96x96-training", "smallnorb-5x01235x9x18x6x2x96x96-testing"
    for file, info in ((training, [[4, 0, 0, 0], [4, 8, 34, 5]]), (testing, [[0, 8, 0, 1], [0, 0, 34, 1]])):
        pixels = np.zeros((len(info), 2, 96, 96), np.uint8)
        pixels[:, 0] = np.arange(1, 1 + len(info))[:, None, None]
        (root / f"{file}-dat.mat.gz").write_bytes(gzip.compress(matrix(pixels, 0x1E3D4C55), 1))
        (root / f"{file}-info.mat").write_bytes(matrix(np.array(info, np.int32), 0x1E3D4C54))


CIFAR10_FILES = [*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"]
LAYOUTS = {
    "cifar10": _cifar("cifar-10-batches-bin", CIFAR10_FILES, 1, "batches.meta.txt"),
    "cifar100": _cifar("cifar-100-binary", ["train.bin", "test.bin"], 2, "fine_label_names.txt"),
    "pets": _pets,
    "flowers102": _flowers,
    "imagenet": _imagenet,
    "imagenet21k": _class_folders("winter21_whole", "JPEG"),
    "caltech101": _class_folders("101_ObjectCategories", "jpg"),
    "eurosat": _class_folders("2750", "jpg"),
    "resisc45": _class_folders("NWPU-RESISC45", "jpg"),
    "dtd": _dtd,
    "svhn": _svhn,
    "clevr-count": _clevr,
    "clevr-distance": _clevr,
    "dsprites-location": _dsprites,
    "dsprites-orientation": _dsprites,
    "sun397": _sun397,
    "patch-camelyon": _camelyon,
    "retinopathy": _retinopathy,
    "dmlab": _dmlab,
    "kitti-distance": _kitti,
    "smallnorb-azimuth": _norb,
    "smallnorb-elevation": _norb,
}
