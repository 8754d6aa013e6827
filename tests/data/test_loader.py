"""The same batches with any number of workers and from any step; nothing broken is replaced; no worker is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitrail.data.config import Augmentation, LoaderConfig, Preprocessing
from vitrail.data.loader import Loader
from vitrail.data.sources import open_source
from vitrail.data.transforms import EvaluationTransform, TrainingTransform
from vitrail.errors import DataError

PREPROCESSING = Preprocessing(image_size=(8, 8), resize="squash")
NUM_SAMPLES, BATCH_SIZE, BROKEN = 21, 4, 13


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """21 pictures, each of one shade that tells its number, with number 13 broken; the class is the number mod 3."""
    root = tmp_path_factory.mktemp("shades")
    for number in range(NUM_SAMPLES):
        path = root / f"class{number % 3}" / f"{number:02d}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.new("RGB", (40, 30), (number * 10,) * 3).save(path)
        if number == BROKEN:
            path.write_bytes(path.read_bytes()[:-200])
    return str(root)


def make(folder, num_workers=0, transform=None, indices=None, cache="none", **arguments):
    source = open_source(folder)
    return Loader(
        source,
        np.arange(len(source)) if indices is None else indices,
        transform or TrainingTransform(PREPROCESSING, Augmentation(randaugment=None, color_jitter_rate=0.5)),
        **{"batch_size": BATCH_SIZE, "seed": 7, "config": LoaderConfig(num_workers, cache), **arguments},
    )


def contents(batches):
    return [
        (batch.images.numpy().tobytes(), batch.labels.tolist(), batch.indices.tolist(), batch.epoch, batch.broken)
        for batch in batches
    ]


@pytest.fixture(scope="module")
def undisturbed(folder):
    return contents(make(folder).stream(0, 12))


@pytest.mark.parametrize("num_workers", [1, 2, 4])
def test_workers_change_no_bit(folder, undisturbed, num_workers):
    assert contents(make(folder, num_workers).stream(0, 12)) == undisturbed


def test_any_first_step_goes_on_with_the_same_batches(folder, undisturbed):
    loader = make(folder)
    for first in range(12):
        assert contents(loader.stream(first, 12)) == undisturbed[first:]
    assert contents(make(folder, 2).stream(5, 12)) == undisturbed[5:]


def test_the_cache_changes_no_bit(folder, undisturbed):
    loader = make(folder, cache="memory")
    assert contents(loader.stream(0, 12)) == undisturbed
    assert contents(loader.stream(0, 12)) == undisturbed


def test_the_cache_reads_no_file_twice(folder, tmp_path):
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-r", folder, str(copy)], check=True)
    loader = make(str(copy), cache="memory")
    before = contents(loader.once())
    for path in copy.rglob("*.jpg"):
        path.unlink()
    after = contents(loader.once())
    assert [batch[:4] for batch in after] == [batch[:4] for batch in before]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_once_shows_every_sample_in_order(folder, num_workers):
    indices = np.array([5, 3, 20, 0, 7, 9])
    loader = make(folder, num_workers, EvaluationTransform(PREPROCESSING), indices)
    batches = list(loader.once())
    assert [len(batch.labels) for batch in batches] == [4, 2]
    assert torch.cat([batch.indices for batch in batches]).tolist() == indices.tolist()
    assert batches[0].images.shape == (4, 3, 8, 8)
    assert batches[0].images.dtype == torch.uint8


def number_of(source, index):
    return int(Path(source.key(index)).stem)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_broken_picture_takes_its_own_label_along_and_no_other(folder, num_workers):
    source = open_source(folder)
    seen, missing = set(), set()
    for batch in make(folder, num_workers, EvaluationTransform(PREPROCESSING)).stream(0, 15):
        for image, label, index in zip(batch.images, batch.labels.tolist(), batch.indices.tolist(), strict=True):
            number = number_of(source, index)
            assert abs(float(image.float().mean()) - number * 10) < 3
            assert (label, source.classes[label]) == (source.labels[index], f"class{number % 3}")
            seen.add(number)
        assert len(batch.labels) + len(batch.broken) == BATCH_SIZE
        for index, message in batch.broken:
            assert number_of(source, index) == BROKEN
            assert source.key(index) in message
            missing.add(number_of(source, index))
    assert seen == set(range(NUM_SAMPLES)) - {BROKEN}
    assert missing == {BROKEN}


def test_a_batch_of_broken_pictures_is_empty_and_still_a_batch(folder):
    source = open_source(folder)
    broken = next(index for index in range(NUM_SAMPLES) if number_of(source, index) == BROKEN)
    (batch,) = make(folder, 0, EvaluationTransform(PREPROCESSING), np.array([broken])).once()
    assert batch.images.shape == (0, 3, 8, 8)
    assert batch.labels.shape == batch.indices.shape == (0,)
    assert len(batch.broken) == 1


def test_fewer_samples_than_a_batch_make_one_smaller_batch(folder):
    loader = make(folder, indices=np.arange(3))
    assert loader.steps_per_epoch == 1
    assert [sorted(batch.indices.tolist()) for batch in loader.stream(0, 2)] == [[0, 1, 2]] * 2


def test_ranks_share_the_batches_of_one_process(folder, undisturbed):
    parts = [list(make(folder, rank=rank, num_ranks=2).stream(0, 12)) for rank in (0, 1)]
    for step, whole in enumerate(undisturbed):
        shares = [parts[rank][step] for rank in (0, 1)]
        assert sorted(i for share in shares for i in share.indices.tolist()) == sorted(whole[2])


def children(pid: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = status.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(after_name[1]) == pid and after_name[0] != "Z":
            found.append(int(status.parent.name))
    return found


def workers(pid: int) -> list[int]:
    return [child for child in children(pid) if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds workers through /proc")
def test_a_killed_worker_is_an_error_that_says_what_to_do(folder):
    batches = make(folder, 1).stream(0, 10_000)
    next(batches)
    os.kill(workers(os.getpid())[0], signal.SIGKILL)
    with pytest.raises(DataError, match=r"loader worker was killed.*--loader.num-workers 0"):
        for _ in batches:
            pass
    assert not workers(os.getpid())


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds workers through /proc")
def test_leaving_a_stream_early_leaves_no_worker(folder):
    batches = make(folder, 2).stream(0, 10_000)
    next(batches)
    assert len(workers(os.getpid())) == 2
    batches.close()
    assert not workers(os.getpid())


PROGRAM = """
import sys, numpy as np
from vitrail.data.config import *
from vitrail.data.loader import Loader
from vitrail.data.sources import open_source
from vitrail.data.transforms import EvaluationTransform
if __name__ == "__main__":
    source = open_source(sys.argv[1])
    transform = EvaluationTransform(Preprocessing(image_size=(8, 8)))
    for step, _ in enumerate(Loader(source, np.arange(21), transform, batch_size=4, seed=0,
                                    config=LoaderConfig(num_workers=2)).stream(0, 10**9)):
        if step == 3:
            print("started", flush=True)
"""


@pytest.mark.skipif(not Path("/proc").exists(), reason="finds workers through /proc")
def test_workers_die_with_a_parent_that_was_killed(folder, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, str(tmp_path / "program.py"), folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout.readline() == "started\n"
        helpers = workers(parent.pid)
        assert len(helpers) == 2
        parent.kill()
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{helper}/cmdline").exists() and is_alive(helper) for helper in helpers):
        assert time.monotonic() < deadline, "the workers outlived their parent"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_making_a_worker_does_not_load_torch():
    program = "import vitrail.data.loader, vitrail.data.transforms, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_impossible_loaders_are_refused(folder):
    with pytest.raises(DataError, match="no picture to load"):
        make(folder, indices=np.array([], dtype=np.int64))
    with pytest.raises(ValueError, match="batch_size 0"):
        make(folder, batch_size=0)
    with pytest.raises(ValueError, match="num_workers -1"):
        make(folder, num_workers=-1)


def test_pictures_in_memory_and_short_lists_need_no_worker(folder):
    def default(spec, indices):
        transform = EvaluationTransform(PREPROCESSING)
        return Loader(open_source(spec), indices, transform, batch_size=4, seed=0)

    assert default("digits", np.arange(20)).num_workers == 0
    assert 0 <= default(folder, np.arange(20)).num_workers <= 8
    for _ in default(folder, np.arange(8)).once():
        assert not workers(os.getpid())
