from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from toy_run import CONFIG

from vitrail.errors import ConfigError, RunError
from vitrail.training.run_folder import create_run_folder, describe_run, lock_run, read_config


def test_a_taken_name_gets_the_next_number(tmp_path: Path) -> None:
    names = [create_run_folder(None, "photos", tmp_path).name for _ in range(3)]
    assert names == ["photos", "photos-2", "photos-3"]


def test_runs_that_start_together_never_share_a_folder(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        folders = list(pool.map(lambda _: create_run_folder(None, "photos", tmp_path), range(24)))
    assert len(set(folders)) == 24


def test_names_that_file_systems_dislike_are_tamed(tmp_path: Path) -> None:
    assert create_run_folder(None, "a/b\nc:*d", tmp_path).name == "a-b-c-d"
    assert create_run_folder(None, "../..", tmp_path).parent == tmp_path
    assert create_run_folder(None, "Blüten 花", tmp_path).name == "Blüten-花"


def test_an_existing_run_is_never_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    assert create_run_folder(out, "photos") == out
    (out / "config.json").write_text("{}")
    with pytest.raises(RunError, match=r"mine: exists already.*--resume"):
        create_run_folder(out, "photos")
    assert (out / "config.json").read_text() == "{}"
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(RunError, match="exists already"):
        create_run_folder(file, "photos")


def test_an_empty_folder_made_for_the_run_is_taken(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert create_run_folder(tmp_path / "empty", "photos") == tmp_path / "empty"


def test_a_place_below_a_file_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RunError, match=r"--out"):
        create_run_folder(tmp_path / "file" / "run", "photos")


_AS_ORDINARY_USER = """
import os, sys
from pathlib import Path
from vitrail.errors import RunError
from vitrail.training.run_folder import create_run_folder
if os.geteuid() == 0:
    os.setuid(65534)  # root may write anywhere; nobody may not
try:
    create_run_folder(None, "photos", Path(sys.argv[1]))
except RunError as error:
    print(error)
print("torch imported:", "torch" in sys.modules)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of another kind")
def test_a_read_only_place_is_found_out_before_torch_is_even_imported() -> None:
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)  # so that another user may look inside
        locked = Path(name) / "locked"
        locked.mkdir(mode=0o555)
        done = subprocess.run(
            [sys.executable, "-c", _AS_ORDINARY_USER, str(locked)], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        assert "photos: cannot be created (Permission denied); choose a writable place with --out" in done.stdout
        assert "torch imported: False" in done.stdout
        assert list(locked.iterdir()) == []


def test_the_config_comes_back_equal(tmp_path: Path) -> None:
    describe_run(tmp_path, CONFIG, "vitrail fit digits")
    assert read_config(tmp_path) == CONFIG
    assert (tmp_path / "command.txt").read_text() == "vitrail fit digits\n"
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["torch"]
    assert environment["num_threads"] >= 1


def test_a_changed_config_is_refused_by_field(tmp_path: Path) -> None:
    describe_run(tmp_path, CONFIG, "x")
    path = tmp_path / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "batch_sise": 3}))
    with pytest.raises(ConfigError, match=r"config\.json: unknown field 'batch_sise'.*batch_size"):
        read_config(tmp_path)
    path.write_text(json.dumps({**values, "model": {**values["model"], "width": 7}}))
    with pytest.raises(ConfigError, match=r"config\.json.*width 7"):
        read_config(tmp_path)


def test_a_folder_that_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="not a run folder"):
        read_config(tmp_path)


def test_two_processes_do_not_work_on_one_run(tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    program = "import sys; from pathlib import Path; from vitrail.training.run_folder import lock_run\n"
    program += "with lock_run(Path(sys.argv[1])): print('mine', flush=True)"

    def other() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, str(tmp_path)]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with lock_run(tmp_path):
        assert "another process is working on this run" in other().stderr
    assert other().stdout == "mine\n"
