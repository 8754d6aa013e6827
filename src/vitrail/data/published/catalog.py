"""Published data sets that are known by name: where they come from, and how the publisher lays them out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Archive:
    """A file of the publisher; archives are unpacked, other files are put beside what was unpacked."""

    address: str
    md5: str  # torchvision's; of the CIFAR archives, as public code quotes them
    inner: tuple[str, ...] = ()  # archives inside the archive


@dataclass(frozen=True)
class PublishedData:
    """One data set, as its publisher lays it out."""

    title: str
    address: str  # the page of the publisher
    licence: str  # what the publisher says of its use
    layout: str  # what lies in the folder, for messages
    needs: tuple[str, ...]  # files and folders; one of the alternatives "a|b" each; "*" stands for any ending
    tops: tuple[str, ...] = ()  # folders that the publisher's archives put around it
    shared: str = ""  # the folder, beside that of the data set's name, where several names read the same files
    archives: tuple[Archive, ...] = ()  # none: not downloaded (too large, on request only, or not over https)


_NO_LICENCE = "none stated; research use, the pictures belong to their owners"
_CLEVR = PublishedData(
    title="CLEVR v1.0",
    address="https://cs.stanford.edu/people/jcjohns/clevr/",
    licence="CC BY 4.0",
    layout="images/{train,val}/*.png and scenes/CLEVR_{train,val}_scenes.json, of CLEVR_v1.0.zip",
    needs=("scenes/CLEVR_train_scenes.json|scenes/CLEVR_val_scenes.json",),
    tops=("CLEVR_v1.0",),
    shared="clevr",
)
_NORB = PublishedData(
    title="smallNORB",
    address="https://cs.nyu.edu/~ylclab/data/norb-v1.0-small/",
    licence="research use",
    layout="smallnorb-5x46789x9x18x6x2x96x96-training-{dat,info}.mat and smallnorb-5x01235x9x18x6x2x96x96-testing-"
    "{dat,info}.mat, or the same with .gz",
    needs=tuple(
        f"smallnorb-5x{side}-{kind}.mat|smallnorb-5x{side}-{kind}.mat.gz"
        for side in ("46789x9x18x6x2x96x96-training", "01235x9x18x6x2x96x96-testing")
        for kind in ("dat", "info")
    ),
    shared="smallnorb",
)
_DSPRITES = PublishedData(
    title="dSprites",
    address="https://github.com/google-deepmind/dsprites-dataset",
    licence="Apache-2.0",
    layout="dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",
    needs=("dsprites_ndarray_co1sh3sc6or40x32y32_64x64.npz",),
    shared="dsprites",
)

PUBLISHED: dict[str, PublishedData] = {
    "cifar10": PublishedData(
        title="CIFAR-10",
        address="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence=_NO_LICENCE,
        layout="data_batch_{1..5}.bin, test_batch.bin and batches.meta.txt of the binary version, or class folders in"
        " train/ and test/",
        needs=("test_batch.bin|test", "data_batch_1.bin|train"),
        tops=("cifar-10-batches-bin",),
        archives=(
            Archive("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"),
        ),
    ),
    "cifar100": PublishedData(
        title="CIFAR-100",
        address="https://www.cs.toronto.edu/~kriz/cifar.html",
        licence=_NO_LICENCE,
        layout="train.bin, test.bin and fine_label_names.txt of the binary version, or class folders in train/ and"
        " test/",
        needs=("test.bin|test", "train.bin|train"),
        tops=("cifar-100-binary",),
        archives=(
            Archive("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz", "03b5dce01913d631647c71ecec9e9cb8"),
        ),
    ),
    "pets": PublishedData(
        title="Oxford-IIIT Pets",
        address="https://www.robots.ox.ac.uk/~vgg/data/pets/",
        licence="CC BY-SA 4.0; the pictures belong to their owners",
        layout="images/*.jpg, annotations/trainval.txt and annotations/test.txt",
        needs=("images", "annotations/trainval.txt", "annotations/test.txt"),
        archives=(
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz", "5c4f3ee8e5d25df40f4fd59a7f44e54c"
            ),
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz", "95a8c909bbe2e81eed6a22bccdf3f68f"
            ),
        ),
    ),
    "flowers102": PublishedData(
        title="Oxford Flowers 102",
        address="https://www.robots.ox.ac.uk/~vgg/data/flowers/102/",
        licence=_NO_LICENCE,
        layout="jpg/image_*.jpg, imagelabels.mat and setid.mat",
        needs=("jpg", "imagelabels.mat", "setid.mat"),
        archives=(
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz", "52808999861908f626f3c1f4e79d11fa"
            ),
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/imagelabels.mat", "e0620be6f572b9609742df49c70aed4d"
            ),
            Archive("https://www.robots.ox.ac.uk/~vgg/data/flowers/102/setid.mat", "a5357ecc9cb78c4bef273ce3793fc85c"),
        ),
    ),
    "imagenet": PublishedData(
        title="ImageNet-1k (ILSVRC 2012)",
        address="https://image-net.org/challenges/LSVRC/2012/2012-downloads.php",
        licence="non-commercial research and education, on request",
        layout="train/<wnid>/*.JPEG and val/<wnid>/*.JPEG; where val/ holds the pictures themselves, also"
        " ILSVRC2012_devkit_t12/ (or imagenet_2012_validation_synset_labels.txt)",
        needs=("train|val",),
        tops=("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "ILSVRC2012"),
    ),
    "imagenet21k": PublishedData(
        title="ImageNet-21k (winter 2021)",
        address="https://image-net.org/download-images.php",
        licence="non-commercial research and education, on request",
        layout="<wnid>/*.JPEG, the unpacked tar files of winter21_whole",
        needs=(),
        tops=("winter21_whole",),
    ),
    "caltech101": PublishedData(
        title="Caltech 101",
        address="https://data.caltech.edu/records/20086",
        licence="CC BY 4.0",
        layout="101_ObjectCategories/<class>/*.jpg",
        needs=("101_ObjectCategories",),
        tops=("caltech-101",),
        archives=(
            Archive(
                "https://data.caltech.edu/records/mzrjq-6wc02/files/caltech-101.zip",
                "3138e1922a9193bfa496528edbbc45d0",
                inner=("caltech-101/101_ObjectCategories.tar.gz",),
            ),
        ),
    ),
    "dtd": PublishedData(
        title="Describable Textures",
        address="https://www.robots.ox.ac.uk/~vgg/data/dtd/",
        licence="research use",
        layout="images/<class>/*.jpg and labels/{train,val,test}1.txt",
        needs=("images", "labels/train1.txt", "labels/val1.txt", "labels/test1.txt"),
        tops=("dtd",),
        archives=(
            Archive(
                "https://www.robots.ox.ac.uk/~vgg/data/dtd/download/dtd-r1.0.1.tar.gz",
                "fff73e5086ae6bdbea199a49dfb8a4c1",
            ),
        ),
    ),
    "svhn": PublishedData(
        title="Street View House Numbers, cropped",
        address="http://ufldl.stanford.edu/housenumbers/",
        licence="non-commercial use",
        layout="train_32x32.mat and test_32x32.mat",
        needs=("train_32x32.mat", "test_32x32.mat"),
    ),
    "eurosat": PublishedData(
        title="EuroSAT (RGB)",
        address="https://github.com/phelber/eurosat",
        licence="MIT; Copernicus Sentinel data",
        layout="2750/<class>/*.jpg",
        needs=("2750",),
        tops=("EuroSAT",),
        archives=(
            Archive(
                "https://huggingface.co/datasets/torchgeo/eurosat/resolve/"
                "c877bcd43f099cd0196738f714544e355477f3fd/EuroSAT.zip",
                "c8fa014336c82ac7804f0398fcb19387",
            ),
        ),
    ),
    "resisc45": PublishedData(
        title="NWPU-RESISC45",
        address="https://gcheng-nwpu.github.io/#Datasets",
        licence="research use",
        layout="NWPU-RESISC45/<class>/*.jpg",
        needs=("NWPU-RESISC45",),
    ),
    "clevr-count": _CLEVR,
    "clevr-distance": _CLEVR,
    "dsprites-location": _DSPRITES,
    "dsprites-orientation": _DSPRITES,
    "sun397": PublishedData(
        title="SUN397",
        address="https://vision.princeton.edu/projects/2010/SUN/",
        licence="research use; the pictures belong to their owners",
        layout="SUN397/<letter>/<class>/*.jpg with sun397_tfds_{tr,va,te}.txt (in the repository tensorflow/datasets),"
        " or with Training_01.txt and Testing_01.txt of Partitions.zip",
        needs=("SUN397",),
    ),
    "patch-camelyon": PublishedData(
        title="Patch Camelyon",
        address="https://github.com/basveeling/pcam",
        licence="CC0",
        layout="camelyonpatch_level_2_split_{train,valid,test}_{x,y}.h5, unpacked by gunzip",
        needs=tuple(
            f"camelyonpatch_level_2_split_{split}_{letter}.h5"
            for split in ("train", "valid", "test")
            for letter in "xy"
        ),
    ),
    "retinopathy": PublishedData(
        title="Diabetic Retinopathy Detection",
        address="https://www.kaggle.com/c/diabetic-retinopathy-detection",
        licence="the rules of the competition",
        layout="train/*.jpeg, test/*.jpeg, trainLabels.csv and retinopathy_solution.csv, which has the column Usage",
        needs=("train", "test", "trainLabels.csv", "retinopathy_solution.csv"),
    ),
    "dmlab": PublishedData(
        title="DMLab",
        address="https://github.com/google-research/task_adaptation",
        licence="none stated for the pictures; its repository is under Apache-2.0",
        layout="dmlab-{train,validation,test}.tfrecord (or -00000-of-... of each), of https://storage.googleapis.com/dmlab-vtab/dmlab.tar.gz",
        needs=("dmlab-train.tfrecord*", "dmlab-validation.tfrecord*", "dmlab-test.tfrecord*"),
        tops=("dmlab",),
    ),
    "kitti-distance": PublishedData(
        title="KITTI, 2D objects",
        address="https://www.cvlibs.net/datasets/kitti/eval_object.php",
        licence="CC BY-NC-SA 3.0",
        layout="training/image_2/*.png, training/label_2/*.txt, and mapping/train_{mapping,rand}.txt of"
        " devkit_object.zip",
        needs=("training/image_2", "training/label_2", "mapping/train_mapping.txt", "mapping/train_rand.txt"),
    ),
    "smallnorb-azimuth": _NORB,
    "smallnorb-elevation": _NORB,
}


def is_published(spec: str) -> bool:
    """Whether `spec` is NAME or NAME:FOLDER of a data set in PUBLISHED."""
    return spec.partition(":")[0] in PUBLISHED
