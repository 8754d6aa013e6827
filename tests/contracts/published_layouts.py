"""Made-up data sets in their publishers' layouts."""

from __future__ import annotations

import json

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
}
