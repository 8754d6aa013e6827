"""Pickled dictionaries of arrays, as paddle.save writes .pdparams, read without pickle: nothing is imported or called.

`pickletools.genops` takes a pickle apart into its instructions without carrying any of them out. The few that build
dictionaries, tuples, numbers and strings are carried out here, on values of our own; "call numpy's _reconstruct"
becomes an array of the bytes that follow, and every other symbol or instruction ends the reading.
"""

from __future__ import annotations

import math
import mmap
import pickletools
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import torch
from torch import Tensor

from vitrail.errors import WeightsError
from vitrail.weights.formats.nested import Value, flatten
from vitrail.weights.formats.npz_file import array_of, tensor_of
from vitrail.weights.formats.torch_file import needs_code

_NAME_TABLE = "StructuredToParameterName@@"  # paddle's names of the parameters: told by no one else, needed by no one
_SPLIT = "UnpackBigParamInfor@@"
_NUMBERS = re.compile(r"[<>=|]?([bui][1248]|f[248]|V2)")
_MAX_INSTRUCTIONS = 5_000_000
_MARK = object()
_WAY_OUT = 'numpy.savez("x.npz", **{name: numpy.asarray(value) for name, value in state.items()})'


class _Damaged(Exception):
    """The instructions contradict themselves."""


@dataclass(frozen=True)
class _Symbol:
    name: str


@dataclass(frozen=True)
class _Encoded:
    """Bytes that protocol 2 writes as text, each byte a letter."""

    text: str


@dataclass
class _Dtype:
    code: str
    order: str = "="


@dataclass
class _Array:
    """An array before its state arrives, and after."""

    tensor: Tensor | None = None


def read_paddle(path: Path) -> tuple[dict[str, Tensor], dict[str, Value]]:
    """The arrays of a pickled dictionary, by name; pairs (name, array), paddle's single tensors, are arrays too.

    Raises:
        WeightsError: damaged, or it holds anything but plain arrays, containers, strings and numbers; says what.
    """
    try:
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as bytes_of_file,
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore", DeprecationWarning)  # of genops, about strange escapes in damaged text
            tree = _Machine(path, len(bytes_of_file)).run(bytes_of_file)
    except WeightsError:
        raise
    # What a damaged pickle sets off in genops and here: a stack that is empty, text that is none, a length that lies.
    except (
        _Damaged,
        OSError,
        ValueError,
        IndexError,
        KeyError,
        TypeError,
        OverflowError,
        MemoryError,
        RecursionError,
    ) as error:
        raise WeightsError(f"{path}: damaged or incomplete ({error or type(error).__name__})") from error
    if not isinstance(tree, dict):
        raise WeightsError(f"{path}: a pickle of no dictionary of arrays, but of one {type(tree).__name__.strip('_')}")
    if _SPLIT in tree:
        raise WeightsError(
            f"{path}: its large arrays are cut in pieces; save it again with paddle.save(..., protocol=4)"
        )
    tree.pop(_NAME_TABLE, None)
    return flatten(tree, str(path), _opened)


def _opened(node: object) -> object:
    """A tensor where the node is an array, or paddle's pair of a parameter's name and its array."""
    if isinstance(node, tuple) and len(node) == 2 and isinstance(node[0], str) and isinstance(node[1], _Array):
        node = node[1]
    return node.tensor if isinstance(node, _Array) else node


class _Machine:
    """The stack machine that pickles are written for, with the instructions of plain data and no others."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.budget = size  # of bytes in arrays: no honest file uses one of its bytes twice
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, source: mmap.mmap) -> Any:
        for number, (opcode, argument, _) in enumerate(pickletools.genops(cast(IO[bytes], source))):
            if number > _MAX_INSTRUCTIONS:
                raise _Damaged(f"more than {_MAX_INSTRUCTIONS:,} instructions")
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _PUSHED:
                self.stack.append(argument)
            elif opcode.name in _STEPS:
                _STEPS[opcode.name](self, argument)
            elif opcode.name not in _WITHOUT_EFFECT:
                raise needs_code(self.path, f"the pickle instruction {opcode.name}", _WAY_OUT)
        raise _Damaged("it has no end")

    def above_mark(self) -> list[Any]:
        """Takes what stands above the last mark, and the mark."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise _Damaged("a mark is missing")

    def take(self, count: int) -> tuple[Any, ...]:
        if count > len(self.stack):
            raise _Damaged("it takes more than it has put down")
        items = tuple(self.stack[len(self.stack) - count :])
        del self.stack[len(self.stack) - count :]
        return items

    def set_items(self, items: list[Any] | tuple[Any, ...]) -> None:
        table = self.stack[-1]
        if not isinstance(table, dict) or len(items) % 2:
            raise _Damaged("items for what is no dictionary")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if not isinstance(key, str | int):
                raise _Damaged(f"a dictionary with a key of type {type(key).__name__}")
            table[key] = value

    def append(self, items: list[Any] | tuple[Any, ...]) -> None:
        if not isinstance(self.stack[-1], list):
            raise _Damaged("items for what is no list")
        self.stack[-1].extend(items)

    def symbol(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise _Damaged("an import without a name")
        full = f"{module}.{name}"
        if full not in _CALLS and full != "numpy.ndarray":
            raise needs_code(self.path, full[:200], _WAY_OUT)
        self.stack.append(_Symbol(full))

    def reduce(self) -> None:
        function, arguments = self.take(2)
        if not isinstance(function, _Symbol) or function.name not in _CALLS or not isinstance(arguments, tuple):
            raise _Damaged("it calls what is no function")
        self.stack.append(_CALLS[function.name](self, *arguments))

    def build(self) -> None:
        (state,) = self.take(1)
        target = self.stack[-1]
        if (
            isinstance(target, _Dtype)
            and isinstance(state, tuple)
            and len(state) >= 2
            and state[1] in ("<", ">", "|", "=")
        ):
            target.order = state[1]
        elif isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5 and target.tensor is None:
            _, shape, dtype, fortran_order, data = state
            target.tensor = self.array(data, dtype, shape, bool(fortran_order))
        elif not (isinstance(target, dict) and not state):
            raise _Damaged(f"a state for what has none ({type(target).__name__.strip('_')})")

    def array(self, data: Any, dtype: Any, shape: Any, fortran_order: bool) -> Tensor:
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or len(shape) > 16:
            raise _Damaged("an array without type or shape")
        if not all(type(length) is int and length >= 0 for length in shape):
            raise _Damaged("an array whose shape is none")
        if isinstance(data, _Encoded | str):  # text is what Python 2 wrote
            data = (data.text if isinstance(data, _Encoded) else data).encode("latin-1")
        kind: np.dtype[Any] = np.dtype((dtype.order if dtype.order in "<>" else "=") + dtype.code)
        if not isinstance(data, bytes | bytearray) or len(data) != math.prod(shape) * kind.itemsize:
            raise _Damaged(f"an array of shape {shape} and type {dtype.code} whose bytes are not as many")
        self.budget -= len(data)
        if self.budget < 0:
            raise _Damaged("its arrays claim more bytes than the file holds")
        array = array_of(np.frombuffer(data, np.uint8).copy(), kind, shape, fortran_order)
        tensor = tensor_of(array, str(self.path))
        # Paddle has no unsigned 16-bit type; it hands its bfloat16 to numpy as one.
        return tensor.view(torch.bfloat16) if tensor.dtype == torch.uint16 else tensor

    def _reconstruct(self, kind: Any, *_: Any) -> _Array:
        if kind != _Symbol("numpy.ndarray"):
            raise _Damaged("an array that is none")
        return _Array()

    def _dtype(self, code: Any, *_: Any) -> _Dtype:
        match = _NUMBERS.fullmatch(code) if isinstance(code, str) else None
        if match is None:
            shown = code[:40] if isinstance(code, str) else type(code).__name__
            if shown.lstrip("<>|=")[:1] == "O":
                raise WeightsError(
                    f"{self.path}: it holds an array of Python objects, refused unread because reading one can run any"
                    " code it holds; save plain arrays where it was made"
                )
            raise WeightsError(f"{self.path}: it holds an array of type {shown!r}, which no weights are")
        return _Dtype(match[1])

    def _encode(self, text: Any, encoding: Any = "latin1") -> _Encoded:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise _Damaged("text in an encoding that no array uses")
        return _Encoded(text)

    def _ordered(self, items: Any = ()) -> dict[Any, Any]:
        table: dict[Any, Any] = {}
        for key, value in self._same(items):
            if not isinstance(key, str | int):
                raise _Damaged(f"a dictionary with a key of type {type(key).__name__}")
            table[key] = value
        return table

    def _same(self, items: Any) -> tuple[Any, ...]:
        if not isinstance(items, tuple | list):
            raise _Damaged("a tuple of what is no sequence")
        self.budget -= len(items)
        if self.budget < 0:
            raise _Damaged("it copies more than the file holds")
        return tuple(items)

    def _no_bytes(self) -> bytes:  # how protocol 2 says b""
        return b""

    def _scalar(self, dtype: Any, data: Any) -> Any:
        return self.array(data, dtype, (), False).item()

    def _from_buffer(self, data: Any, dtype: Any, shape: Any, order: Any) -> _Array:
        return _Array(self.array(data, dtype, shape, order == "F"))


_CALLS: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _Machine._dtype,
    "_codecs.encode": _Machine._encode,
    "collections.OrderedDict": _Machine._ordered,
    **{f"{builtins}.tuple": _Machine._same for builtins in ("builtins", "__builtin__")},
    **{f"{builtins}.bytes": _Machine._no_bytes for builtins in ("builtins", "__builtin__")},
    **{f"numpy.{core}.multiarray._reconstruct": _Machine._reconstruct for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": _Machine._scalar for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": _Machine._from_buffer for core in ("core", "_core")},
}
_WITHOUT_EFFECT = {"PROTO", "FRAME"}
_PUSHED = {  # the argument, as genops decodes it, is the value
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES",
    "BINBYTES8", "BYTEARRAY8",
}  # fmt: skip


def _remember(machine: _Machine, place: int) -> None:
    machine.memo[place] = machine.stack[-1]


def _push(make: Callable[[_Machine, Any], Any]) -> Callable[[_Machine, Any], None]:
    def step(machine: _Machine, argument: Any) -> None:
        machine.stack.append(make(machine, argument))

    return step


def _dict(machine: _Machine) -> None:
    items = machine.above_mark()
    machine.stack.append({})
    machine.set_items(items)


def _global(machine: _Machine, argument: str) -> None:
    module, _, name = argument.partition(" ")
    machine.symbol(module, name)


_STEPS: dict[str, Callable[[_Machine, Any], Any]] = {
    "MARK": _push(lambda machine, _: _MARK),
    "POP": lambda machine, _: machine.take(1),
    "POP_MARK": lambda machine, _: machine.above_mark(),
    "NONE": _push(lambda machine, _: None),
    "NEWTRUE": _push(lambda machine, _: True),
    "NEWFALSE": _push(lambda machine, _: False),
    "EMPTY_DICT": _push(lambda machine, _: {}),
    "EMPTY_LIST": _push(lambda machine, _: []),
    "EMPTY_TUPLE": _push(lambda machine, _: ()),
    "TUPLE": _push(lambda machine, _: tuple(machine.above_mark())),
    "TUPLE1": _push(lambda machine, _: machine.take(1)),
    "TUPLE2": _push(lambda machine, _: machine.take(2)),
    "TUPLE3": _push(lambda machine, _: machine.take(3)),
    "LIST": _push(lambda machine, _: machine.above_mark()),
    "DICT": lambda machine, _: _dict(machine),
    "SETITEM": lambda machine, _: machine.set_items(machine.take(2)),
    "SETITEMS": lambda machine, _: machine.set_items(machine.above_mark()),
    "APPEND": lambda machine, _: machine.append(machine.take(1)),
    "APPENDS": lambda machine, _: machine.append(machine.above_mark()),
    "PUT": _remember,
    "BINPUT": _remember,
    "LONG_BINPUT": _remember,
    "MEMOIZE": lambda machine, _: _remember(machine, len(machine.memo)),
    "GET": _push(lambda machine, place: machine.memo[place]),
    "BINGET": _push(lambda machine, place: machine.memo[place]),
    "LONG_BINGET": _push(lambda machine, place: machine.memo[place]),
    "GLOBAL": _global,
    "STACK_GLOBAL": lambda machine, _: machine.symbol(*machine.take(2)),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}
