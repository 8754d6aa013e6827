from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from vitrail import __version__
from vitrail.cli import main as main_module
from vitrail.cli.main import COMMANDS, main
from vitrail.errors import ConfigError, DataError


def _vitrail(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "vitrail", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
        check=False,
    )


def _failing(error: BaseException) -> object:
    def run(arguments: list[str]) -> int:
        raise error

    return lambda: run


def test_every_command_of_the_table_loads_and_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([name, "--help"])
        assert stop.value.code in (None, 0)
        out, err = capsys.readouterr()
        assert f"usage: vitrail {name}" in out
        assert err == ""


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in COMMANDS)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fot"], "unknown command 'fot'. Did you mean 'fit'?"),
        (["--verison"], "unknown option '--verison'"),
        (["fit", "x", "--minuts", "3"], "unknown option '--minuts'. Did you mean '--minutes'?"),
        (["fit", "x", "--minutes", "soon"], "--minutes: no type matching FLOAT could be instantiated from ['soon']"),
        (["fit"], "name the pictures"),
        (["fit", "x", "--resume", "runs/x"], "name the pictures"),
        (["fit", "x", "y"], "unexpected argument 'y'"),
        (["predict"], "MODEL is missing"),
        (["predict", "runs/x"], "no picture was named"),
        (["predict", "runs/x", "a.jpg", "--json", "--csv"], "--json and --csv"),
        (["evaluate", "runs/x"], "PHOTOS is missing"),
        (["models", "B/61"], "no model has 'B/61'"),
        (["train"], "name a recipe"),
        (["train", "digit_vit", "--data", "digits"], "unknown recipe 'digit_vit'. Did you mean 'digits_vit'?"),
        (["train", "digits_vit"], "--data is missing"),
        (["train", "--list", "--josn"], "unknown option '--josn'. Did you mean '--json'?"),
        (["train", "digits_vit", "--data", "digits", "--learning-rate", "1"], "'--optimizer.learning-rate'?"),
        (["train", "digits_vit", "--data", "digits", "--optimizer.lerning-rate=1"], "'--optimizer.learning-rate'?"),
        (["train", "digits_vit", "--data", "digits", "--schedule.decay", "cosin"], "invalid choice 'cosin'"),
        (["train", "digits_vit", "--data", "digits", "--model.image-size", "32", "32"], "model.image_size (32, 32)"),
        (["train", "--config", "nowhere/config.json"], "nowhere/config.json: No such file"),
    ],
)
def test_a_mistake_on_the_command_line_is_named_in_one_line_with_exit_code_2(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert err.startswith("vitrail: ")
    assert err.count("\n") == 1
    assert out == ""


def test_no_command_is_a_usage_error_that_shows_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "usage: vitrail COMMAND" in capsys.readouterr().err


class _Stopped(Exception):
    signal_number = 15


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (DataError("photos/cat: no pictures"), 1, "vitrail: photos/cat: no pictures\n"),
        (ConfigError("depth -1"), 2, "vitrail: depth -1\n"),
        (OSError(28, "No space left on device", "runs/a"), 1, "vitrail: No space left on device: runs/a. "),
        (MemoryError(), 1, "vitrail: not enough memory"),
        (KeyboardInterrupt(), 130, "vitrail: interrupted\n"),
        (_Stopped("stopped after step 7"), 143, "vitrail: stopped after step 7\n"),
        (KeyError("grid"), 1, "vitrail: this is a bug in vitrail: KeyError: 'grid'\n"),
    ],
)
def test_what_goes_wrong_is_told_in_a_line_and_an_exit_code(
    error: BaseException, code: int, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(main_module.COMMANDS, "fit", ("", _failing(error)))  # type: ignore[arg-type]
    assert main(["fit"]) == code
    err = capsys.readouterr().err
    assert err.startswith(message)
    assert err.count("\n") <= 2
    assert "Traceback" not in err
    with pytest.raises(type(error)):
        main(["fit", "--debug"])


def test_a_name_cannot_steer_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    error = DataError("pictures/\x1b[31mred\x07.jpg: broken")
    monkeypatch.setitem(main_module.COMMANDS, "fit", ("", _failing(error)))  # type: ignore[arg-type]
    assert main(["fit"]) == 1
    assert capsys.readouterr().err == "vitrail: pictures/\\x1b[31mred\\x07.jpg: broken\n"


def test_debug_after_two_dashes_is_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "nowhere", "--", "--debug"]) == 1
    assert "Traceback" not in capsys.readouterr().err


def test_debug_shows_the_traceback() -> None:
    done = _vitrail("train", "no_such_recipe", "--debug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    command = f"{sys.executable} -m vitrail models | head -n 1"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith("model")
    assert done.stderr == ""


def test_help_and_import_leave_torch_and_numpy_alone() -> None:
    code = (
        "import sys, vitrail; from vitrail.cli.main import main; main(['--help'])\n"
        "heavy = {'torch', 'numpy', 'tyro', 'rich', 'PIL', 'sklearn', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("arguments", [["models"], ["train", "--list"], ["train", "digits_vit", "--help"]])
def test_listing_leaves_torch_alone(arguments: list[str]) -> None:
    code = (
        "import sys; from vitrail.cli.main import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_models_are_listed_as_json_and_by_part_of_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "vit_base_patch16", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == ["ViT-B/16"]
    # Dosovitskiy et al. 2021, table 1: 86 M parameters.
    assert round(rows[0]["parameters"] / 1e6) in (86, 87)
    assert rows[0]["tokens"] == 197


def test_recipes_are_listed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--list", "--json"]) == 0
    assert "digits_vit" in [row["recipe"] for row in json.loads(capsys.readouterr().out)]


def test_a_config_file_with_an_unknown_field_is_refused_by_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"recipe": "digits_vit", "bach_size": 4}')
    assert main(["train", "--config", str(path)]) == 2
    assert "unknown field 'bach_size'. Did you mean 'batch_size'?" in capsys.readouterr().err
    path.write_text("{")
    assert main(["train", "--config", str(path)]) == 2
    assert "is no JSON" in capsys.readouterr().err
