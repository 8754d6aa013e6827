"""The plan of the house: an import only points down, and neighbours who should not know each other do not."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "vitrail"
FLOORS = {
    "layers": 0, "models": 0,
    "weights": 1, "data": 1,
    "objectives": 2, "training": 2, "evaluators": 2, "inspection": 2, "engines": 2,
    "tasks": 3, "exporters": 3, "recipes": 3,
    "cli": 4, "serve": 4, "report": 4,
}  # fmt: skip
# Besides the floors. Settings may be read everywhere: a config.py holds plain dataclasses and is no neighbour.
NEVER = [("layers", "models"), ("data", "weights"), ("objectives", "training")]
# Files of these folders ignore their siblings; the named ones may be known by, or know, all the others.
STRANGERS = {
    # patch_prediction.py is the base of those that predict patches.
    "objectives": {"__init__", "config", "base", "registry", "patch_prediction"},
    "evaluators": {"__init__", "evaluation"},  # evaluation.py assembles the others
    "data.sources": {"__init__", "base", "pictures"},  # pictures.py is no data set: unlabelled pictures to predict
    "inspection": {"__init__", "attention"},  # attention.py shows the others the weights
    "exporters": {"__init__"},
}
NO_TORCH = ["cli/main.py", "errors.py", "configuration.py", "__init__.py", "report/page.py", "evaluators"]
FILES = sorted(path.relative_to(SOURCE).as_posix() for path in SOURCE.rglob("*.py"))


def _module(file: str) -> str:
    parts = ["vitrail", *Path(file).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(file: str, only_at_import: bool = False) -> Iterator[tuple[str, int]]:
    """(module, line) of every import of a file, those inside functions too unless `only_at_import`; what stands
    under `if TYPE_CHECKING` never runs and is left out of the latter."""
    todo: list[ast.AST] = [ast.parse((SOURCE / file).read_text(encoding="utf-8"))]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}:{node.lineno} imports relatively; write the whole path"
            assert node.module is not None
            yield node.module, node.lineno
            # `from vitrail.data import split` names a module, too.
            for alias in node.names:
                if (SOURCE.parent / f"{node.module.replace('.', '/')}/{alias.name}.py").exists():
                    yield f"{node.module}.{alias.name}", node.lineno
        if only_at_import:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                continue
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                todo += node.orelse
                continue
        todo += ast.iter_child_nodes(node)


def _own(file: str) -> Iterator[tuple[list[str], int]]:
    """Imports of the package itself, as the parts after `vitrail`."""
    for module, line in _imports(file):
        parts = module.split(".")
        if parts[0] == "vitrail" and len(parts) > 1:
            yield parts[1:], line


def test_every_folder_has_a_floor() -> None:
    folders = {path.name for path in SOURCE.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert folders <= set(FLOORS)


@pytest.mark.parametrize("file", [file for file in FILES if "/" in file])
def test_an_import_points_down(file: str) -> None:
    here = file.split("/")[0]
    for parts, line in _own(file):
        there = parts[0]
        if there in FLOORS and there != here and parts[-1] != "config":
            assert FLOORS[there] <= FLOORS[here], f"{file}:{line} imports {'.'.join(parts)}, which is upstairs"
            assert (here, there) not in NEVER, f"{file}:{line}: {here} never imports {there}"


@pytest.mark.parametrize("folder", STRANGERS)
def test_siblings_ignore_each_other(folder: str) -> None:
    known = STRANGERS[folder]
    place = folder.split(".")
    for file in FILES:
        path = Path(file)
        if list(path.parts[:-1]) != place or path.stem in known:
            continue
        for parts, line in _own(file):
            is_sibling = parts[: len(place)] == place and len(parts) > len(place)
            assert not is_sibling or parts[len(place)] in {*known, path.stem}, (
                f"{file}:{line} imports its sibling {'.'.join(parts)}"
            )


def _reached(file: str, seen: dict[str, str]) -> None:
    """Every module that importing `file` imports, each with the chain that leads there."""
    chain = seen[_module(file)]
    for module, _ in list(_imports(file, only_at_import=True)):
        # Importing a.b.c runs a, a.b and a.b.c.
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            name = ".".join(parts[:end])
            if name in seen:
                continue
            seen[name] = f"{chain} -> {name}"
            path = name.removeprefix("vitrail").lstrip(".").replace(".", "/")
            for candidate in (f"{path}.py", f"{path}/__init__.py".lstrip("/")):
                if name.startswith("vitrail") and candidate in FILES:
                    _reached(candidate, seen)


@pytest.mark.parametrize(
    "file",
    [
        file
        for file in FILES
        if file.endswith("config.py") or any(file == place or file.startswith(f"{place}/") for place in NO_TORCH)
    ],
)
def test_settings_and_start_up_import_no_torch(file: str) -> None:
    seen = {_module(file): file}
    _reached(file, seen)
    assert "torch" not in seen, seen["torch"]


def test_floor_0_needs_torch_alone() -> None:
    for file in FILES:
        if FLOORS.get(file.split("/")[0]) != 0:
            continue
        for module, line in _imports(file):
            assert module.split(".")[0] not in {"numpy", "PIL", "logging", "pathlib", "os", "json", "safetensors"}, (
                f"{file}:{line}"
            )


def test_the_command_line_library_stays_in_its_folder() -> None:
    for file in FILES:
        if not file.startswith("cli/"):
            assert not {module.split(".")[0] for module, _ in _imports(file)} & {"tyro", "rich"}, file


def test_nothing_unpickles() -> None:
    for file in FILES:
        modules = {module.split(".")[0] for module, _ in _imports(file)}
        assert not modules & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}, file


def test_no_file_is_named_after_nothing_and_none_is_too_long() -> None:
    for file in FILES:
        assert Path(file).stem not in {"utils", "helpers", "misc", "common"}, file
        length = (SOURCE / file).read_text(encoding="utf-8").count("\n")
        assert length <= 400, f"{file} has {length} lines: it asks for a wall"
