from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hub_server import COMMIT, Hub, serving

from vitrail.errors import WeightsError
from vitrail.weights.hub import fetch, fetch_address, licence_of_card

NAME = "timm/vit_tiny"
WEIGHTS = bytes(range(256)) * 12_000  # 3 MB
CARD = b"---\nlicense: apache-2.0\nlibrary_name: timm\n---\n# A model\n"

# The address of the hub and the place of the cache are read when huggingface_hub is imported: each test is a process.
PROGRAM = """
import json, resource, sys
from vitrail.errors import WeightsError
from vitrail.weights import hub
call, arguments, limit = json.loads(sys.argv[1])
if limit:
    import signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
steps = []
try:
    if call == "fetch":
        made = hub.fetch(*arguments, progress=lambda done, size: steps.append((done, size)))
        made = {"folder": str(made.folder), "source": made.source, "licence": made.licence, "files": dict(made.files)}
    elif call == "fetch_address":
        made = str(hub.fetch_address(*arguments, progress=lambda done, size: steps.append((done, size))))
    else:
        made = hub.push(*arguments)
    answer = {"made": made}
except WeightsError as error:
    answer = {"error": str(error)}
print(json.dumps({**answer, "steps": steps, "torch": "torch" in sys.modules}))
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    files = {"config.json": b'{"architecture": "vit"}', "model.safetensors": WEIGHTS, "pytorch_model.bin": b"the same"}
    files |= {"README.md": CARD, "training.log": b"of no use", "onnx/model.onnx": b"neither"}
    with serving(Hub(repositories={NAME: files, "files": {}}, cards={NAME: {"license": "apache-2.0"}})) as running:
        yield running


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "huggingface"


def _call(hub: Hub | str, home: Path, call: str, *arguments: str, limit: int = 0, **environment: str) -> dict[str, Any]:
    address = hub if isinstance(hub, str) else hub.address
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", PROGRAM, json.dumps([call, arguments, limit])],
        env={**kept, "HF_HOME": str(home), "HF_ENDPOINT": address, "NO_PROXY": "127.0.0.1", **environment},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # no progress bars and no warnings of huggingface_hub
    answer: dict[str, Any] = json.loads(done.stdout)
    assert not answer["torch"]
    return answer


def _weights(home: Path) -> Path:
    return home / "hub" / f"models--{NAME.replace('/', '--')}" / "snapshots" / COMMIT / "model.safetensors"


def test_only_what_is_needed_is_downloaded_and_its_licence_and_checksums_are_told(hub: Hub, home: Path) -> None:
    answer = _call(hub, home, "fetch", NAME)
    made = answer["made"]
    assert made["source"] == f"hf-hub:{NAME}@{COMMIT}"
    assert made["licence"] == "apache-2.0"
    assert made["files"]["model.safetensors"] == hashlib.sha256(WEIGHTS).hexdigest()
    folder = Path(made["folder"])
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS


def test_progress_grows_to_the_whole(hub: Hub, home: Path) -> None:
    steps = _call(hub, home, "fetch", NAME)["steps"]
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)
    assert all(done <= size for done, size in steps)
    assert steps[-1][0] == steps[-1][1] >= len(WEIGHTS)


def test_the_second_time_no_file_is_asked_for(hub: Hub, home: Path) -> None:
    _call(hub, home, "fetch", NAME)
    hub.requests.clear()
    assert _call(hub, home, "fetch", NAME)["made"]["licence"] == "apache-2.0"
    assert hub.asked("resolve") == 0


def test_what_we_download_is_found_by_huggingface_hub_itself(hub: Hub, home: Path) -> None:
    _call(hub, home, "fetch", NAME)
    code = f"import huggingface_hub as h; print(h.hf_hub_download({NAME!r}, 'model.safetensors'))"
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": hub.address}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert Path(done.stdout.strip()) == _weights(home)


def test_offline_the_cache_answers_with_the_same(hub: Hub, home: Path) -> None:
    online = _call(hub, home, "fetch", NAME)["made"]
    hub.requests.clear()
    assert _call(hub, home, "fetch", NAME, HF_HUB_OFFLINE="1")["made"] == online
    assert _call(hub, home, "fetch", NAME, COMMIT, HF_HUB_OFFLINE="1")["made"] == online
    assert hub.requests == []


def test_without_a_network_the_cache_answers_with_the_same(hub: Hub, home: Path) -> None:
    online = _call(hub, home, "fetch", NAME)["made"]
    assert _call(_nobody(), home, "fetch", NAME)["made"] == online
    hub.status[f"/api/models/{NAME}/revision/main"] = 503
    assert _call(hub, home, "fetch", NAME)["made"] == online


def _nobody() -> str:
    """An address where nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_offline_and_not_cached_says_so(hub: Hub, home: Path) -> None:
    error = _call(hub, home, "fetch", NAME, HF_HUB_OFFLINE="1")["error"]
    assert "not in the cache" in error
    assert "HF_HUB_OFFLINE" in error
    assert hub.requests == []


def test_no_network_and_nothing_cached_says_so(home: Path) -> None:
    error = _call(_nobody(), home, "fetch", NAME)["error"]
    assert "cannot be reached" in error
    assert "give the path" in error


def test_a_broken_connection_is_taken_up_where_it_broke(hub: Hub, home: Path) -> None:
    hub.break_after[f"/{NAME}/resolve/{COMMIT}/model.safetensors"] = [1_000_000, 700_000]
    made = _call(hub, home, "fetch", NAME)["made"]
    assert hub.ranges == ["bytes=1000000-", "bytes=1700000-"]
    assert made["files"]["model.safetensors"] == hashlib.sha256(WEIGHTS).hexdigest()


def test_a_call_that_gave_up_is_continued_by_the_next(hub: Hub, home: Path) -> None:
    path = f"/{NAME}/resolve/{COMMIT}/model.safetensors"
    hub.break_after[path] = [1_000_000, 0, 0, 0, 0, 0]
    error = _call(hub, home, "fetch", NAME)["error"]
    assert "broke off" in error
    assert "goes on from there" in error
    hub.break_after.clear()
    hub.ranges.clear()
    steps = _call(hub, home, "fetch", NAME)["steps"]
    assert hub.ranges == ["bytes=1000000-"]
    assert min(done for done, _ in steps if done > 1000) > 1_000_000
    assert _weights(home).read_bytes() == WEIGHTS


def test_a_server_that_knows_no_ranges_sends_all_of_it_again(hub: Hub, home: Path) -> None:
    hub.break_after[f"/{NAME}/resolve/{COMMIT}/model.safetensors"] = [1_000_000]
    hub.ignores_ranges = True
    _call(hub, home, "fetch", NAME)
    assert _weights(home).read_bytes() == WEIGHTS


def test_a_flipped_byte_in_the_cache_is_found_and_the_way_out_works(hub: Hub, home: Path) -> None:
    _call(hub, home, "fetch", NAME)
    damaged = bytearray(WEIGHTS)
    damaged[1_234_567] ^= 1
    _weights(home).resolve().write_bytes(damaged)
    for environment in ({}, {"HF_HUB_OFFLINE": "1"}):
        error = _call(hub, home, "fetch", NAME, **environment)["error"]
        assert str(_weights(home)) in error
        assert "Delete it" in error
        assert str(_weights(home).resolve()) in error
    _weights(home).resolve().unlink()
    assert _call(hub, home, "fetch", NAME)["made"]
    assert _weights(home).read_bytes() == WEIGHTS


def test_a_wrong_beginning_is_thrown_away(hub: Hub, home: Path) -> None:
    path = f"/{NAME}/resolve/{COMMIT}/model.safetensors"
    hub.break_after[path] = [1_000_000, 0, 0, 0, 0]
    _call(hub, home, "fetch", NAME)
    partial = next(home.rglob("*.incomplete"))
    partial.write_bytes(b"x" + partial.read_bytes()[1:])
    hub.break_after.clear()
    assert "was deleted" in _call(hub, home, "fetch", NAME)["error"]
    assert _call(hub, home, "fetch", NAME)["made"]


def test_shards_come_with_their_index(hub: Hub, home: Path) -> None:
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    shards = {"model-00001-of-00002.safetensors": b"one", "model-00002-of-00002.safetensors": b"two"}
    files = {"model.safetensors.index.json": json.dumps(index).encode(), **shards, "other.safetensors": b"no"}
    hub.repositories["me/sharded"] = files
    made = _call(hub, home, "fetch", "me/sharded")["made"]
    assert set(made["files"]) == {*shards, "model.safetensors.index.json"}
    assert _call(hub, home, "fetch", "me/sharded", HF_HUB_OFFLINE="1")["made"] == made


def test_an_index_cannot_name_files_elsewhere(hub: Hub, home: Path) -> None:
    index = json.dumps({"weight_map": {"a": "../../secret.safetensors"}}).encode()
    hub.repositories["me/sharded"] = {"model.safetensors.index.json": index}
    assert "does not have" in _call(hub, home, "fetch", "me/sharded")["error"]


def test_a_single_file_of_another_layout_is_taken_and_several_are_not_guessed_between(hub: Hub, home: Path) -> None:
    hub.repositories["me/npz"] = {"ViT-B_16.npz": b"numbers"}
    assert set(_call(hub, home, "fetch", "me/npz")["made"]["files"]) == {"ViT-B_16.npz"}
    hub.repositories["me/two"] = {"a.npz": b"a", "b.npz": b"b"}
    error = _call(hub, home, "fetch", "me/two")["error"]
    assert "a.npz, b.npz" in error
    hub.repositories["me/none"] = {"README.md": b"# nothing", "tf_model.h5": b"another framework"}
    assert "no weights that vitrail reads" in _call(hub, home, "fetch", "me/none")["error"]


def test_a_bundle_comes_with_its_samples(hub: Hub, home: Path) -> None:
    files = ["config.json", "model.safetensors", "samples.json", "samples/1.png", "samples/2.png"]
    hub.repositories["me/bundle"] = {name: name.encode() for name in files}
    assert set(_call(hub, home, "fetch", "me/bundle")["made"]["files"]) == set(files)


def test_a_bundle_that_was_pushed_is_loaded_from_the_hub_with_the_same_answers(hub: Hub, home: Path) -> None:
    """The whole way with a real model: made, uploaded, downloaded into another cache, asked the same."""
    program = """
import json, torch, vitrail
from pathlib import Path
from vitrail.data.config import Preprocessing
from vitrail.weights.bundle import Bundle, BundleConfig
model = vitrail.create("ViT-mu/4", image_size=(8, 8), num_classes=2).eval()
config = BundleConfig(model.config, ("day", "night"), Preprocessing(image_size=(8, 8)), licence="mit")
torch.nn.init.normal_(model.head.weight)
made = Bundle(model, config, Path("nowhere"))
images = torch.randn(2, 3, 8, 8)
made.push_to_hub("me/day-or-night")
again = vitrail.load("hf-hub:me/day-or-night")
assert torch.equal(again.model(images), model(images))
print(json.dumps([again.config.labels, again.config.licence]))
"""
    environment = {"HF_HOME": str(home), "HF_ENDPOINT": hub.address, "HF_TOKEN": "hf_right", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["day", "night"], "mit"]
    header = hub.uploaded["me/day-or-night"]["README.md"].decode().split("---")[1]
    assert "license: mit" in header


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        (CARD, "apache-2.0"),
        (b"---\nlicense: other\nlicense_name: dinov3-license\n---\n", "dinov3-license"),
        (b"---\nlicense: [mit, cc0-1.0]\n---\n", "mit, cc0-1.0"),
        (b"# no header", None),
        (b"---\nlicense: [broken\n---\n", None),
        (b"---\n- a list\n---\n", None),
        (b"\xff\xfe", None),
    ],
)
def test_the_licence_is_what_the_card_states(tmp_path: Path, card: bytes, licence: str | None) -> None:
    (tmp_path / "README.md").write_bytes(card)
    assert licence_of_card(tmp_path / "README.md") == licence


def test_a_repository_with_a_typo_is_recognised(hub: Hub, home: Path) -> None:
    error = _call(hub, home, "fetch", "timm/vit_small_patch16_224.augreg_in21")["error"]
    assert "no such repository" in error
    assert "Did you mean 'timm/vit_small_patch16_224.augreg_in21k'?" in error
    assert "'timm/" in _call(hub, home, "fetch", "timn/vit_tiny_patch16_384.augreg_in21k_ft_in1k")["error"]


@pytest.mark.parametrize("name", ["../etc/passwd", "a/b/c", "a b/c", "a--b/c", "https://huggingface.co/a/b"])
def test_what_is_no_name_of_a_repository_is_refused_before_anyone_is_asked(name: str) -> None:
    with pytest.raises(WeightsError, match="not the name of a repository"):
        fetch(name)


def test_no_such_revision_says_so(hub: Hub, home: Path) -> None:
    assert "no revision 'v9'" in _call(hub, home, "fetch", NAME, "v9")["error"]


@pytest.mark.parametrize("token", ["", "hf_right"])
def test_a_gated_repository_says_how_to_ask(hub: Hub, home: Path, token: str) -> None:
    hub.gated.add(NAME)
    error = _call(hub, home, "fetch", NAME, **({"HF_TOKEN": token} if token else {}))["error"]
    assert "gated" in error
    assert f"{hub.address}/{NAME}" in error
    assert "hf auth login" in error
    assert "HF_TOKEN" in error


def test_a_private_repository_opens_to_its_token_alone(hub: Hub, home: Path) -> None:
    hub.private.add(NAME)
    error = _call(hub, home, "fetch", NAME)["error"]
    assert "private" in error
    assert "hf auth login" in error
    assert _call(hub, home, "fetch", NAME, HF_TOKEN="hf_right")["made"]
    assert hub.tokens[f"/{NAME}/resolve/{COMMIT}/model.safetensors"] == "Bearer hf_right"


def test_no_space_in_the_cache_says_so_and_keeps_what_came(hub: Hub, home: Path) -> None:
    error = _call(hub, home, "fetch", NAME, limit=1_000_000)["error"]
    assert "no space left for 3 MB" in error
    assert "HF_HOME" in error
    assert next(home.rglob("*.incomplete")).stat().st_size == 1_000_000
    assert _call(hub, home, "fetch", NAME)["made"]
    assert hub.ranges == ["bytes=1000000-"]


def test_a_cache_that_cannot_be_written_says_so(hub: Hub, home: Path) -> None:
    home.write_bytes(b"a file where the folder should be")
    error = _call(hub, home, "fetch", NAME)["error"]
    assert "cannot be written" in error
    assert "HF_HOME" in error


def test_an_address_is_downloaded_checked_and_kept(hub: Hub, home: Path) -> None:
    hub.repositories["files"]["a/ViT+B.npz"] = WEIGHTS
    address = f"{hub.address}/files/a/ViT%2BB.npz"
    sha256 = hashlib.sha256(WEIGHTS).hexdigest()
    path = Path(_call(hub, home, "fetch_address", address, sha256[:8])["made"])
    assert path == home / "vitrail" / "127.0.0.1" / "files" / "a" / "ViT+B.npz"
    assert path.read_bytes() == WEIGHTS
    hub.requests.clear()
    assert _call(hub, home, "fetch_address", address, HF_HUB_OFFLINE="1")["made"] == str(path)
    assert hub.requests == []


def test_an_address_whose_file_has_another_checksum_is_refused(hub: Hub, home: Path) -> None:
    hub.repositories["files"]["vit.npz"] = WEIGHTS
    error = _call(hub, home, "fetch_address", f"{hub.address}/files/vit.npz", "c867db91")["error"]
    assert "not the published c867db91" in error
    assert not list(home.rglob("vit.npz*.incomplete"))


def test_an_interrupted_address_goes_on_and_later_damage_is_found(hub: Hub, home: Path) -> None:
    hub.repositories["files"]["vit.npz"] = WEIGHTS
    hub.break_after["/files/vit.npz"] = [1_500_000]
    address = f"{hub.address}/files/vit.npz"
    path = Path(_call(hub, home, "fetch_address", address)["made"])
    assert hub.ranges == ["bytes=1500000-"]
    assert path.read_bytes() == WEIGHTS
    path.write_bytes(WEIGHTS[:-1] + b"?")
    assert "Delete it" in _call(hub, home, "fetch_address", address)["error"]


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://example.com/vit.npz", "only https"),
        ("ftp://example.com/vit.npz", "only https"),
        ("file:///etc/passwd", "only https"),
        ("https://example.com/a/../../b.npz", "not the address of a file"),
        ("https://example.com/", "not the address of a file"),
    ],
)
def test_addresses_that_could_be_tampered_with_or_are_no_files_are_refused(address: str, said: str) -> None:
    with pytest.raises(WeightsError, match=said):
        fetch_address(address)


def test_an_address_that_is_gone_says_so(hub: Hub, home: Path) -> None:
    assert "answered 404" in _call(hub, home, "fetch_address", f"{hub.address}/files/missing.npz")["error"]


def test_offline_an_address_says_where_the_file_may_be_put(hub: Hub, home: Path) -> None:
    error = _call(hub, home, "fetch_address", f"{hub.address}/files/vit.npz", HF_HUB_OFFLINE="1")["error"]
    assert str(home / "vitrail" / "127.0.0.1" / "files" / "vit.npz") in error


def test_a_bundle_is_pushed_whole(hub: Hub, home: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    (folder / "samples").mkdir(parents=True)
    files = {"model.safetensors": b"tensors", "config.json": b"{}", "README.md": CARD, "samples/1.png": b"a picture"}
    for name, content in files.items():
        (folder / name).write_bytes(content)
    made = _call(hub, home, "push", str(folder), "me/cats", HF_TOKEN="hf_right")
    assert made.get("made") == f"{hub.address}/me/cats", made
    assert hub.uploaded["me/cats"] == files


def test_pushing_without_a_token_or_with_a_wrong_one_says_how_to_log_in(hub: Hub, home: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    for environment in ({}, {"HF_TOKEN": "hf_wrong"}):
        error = _call(hub, home, "push", str(tmp_path), "me/cats", **environment)["error"]
        assert "hf auth login" in error
        assert "HF_TOKEN" in error
    assert hub.uploaded == {}
