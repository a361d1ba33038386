"""Plain data from a pickle without unpickling: only operations that build lists, dicts, tuples, strings and numbers are executed.

A pickle is a program; no part of it that names, imports or calls anything is carried out, and the file is refused at the first one. So a
file of a stranger can be read (`refs(unc).p` of RefCOCO), and one that holds more than data is named with the operation and its byte.
"""

from __future__ import annotations

import codecs
import io
import pickletools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from diptych.core.disk.paths import read_file
from diptych.core.errors import DataError

LARGEST = 2**31
DEEPEST = 10_000
"""Bytes of a file, and values that wait on the stack, at most."""
MARK = object()
VALUES = frozenset(
    ("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT", "UNICODE", "BINUNICODE", "SHORT_BINUNICODE",
     "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8")
)  # fmt: skip
TEXTS = frozenset(("STRING", "BINSTRING", "SHORT_BINSTRING"))
"""Strings of Python 2: bytes, which are UTF-8 in every published file."""
CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False, "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple,
}  # fmt: skip
IGNORED = frozenset(("PROTO", "FRAME"))
_BY_CODE = {operation.code: operation for operation in pickletools.opcodes}


def read_plain(path: Path) -> Any:
    """The value in a pickle of plain data. Raises DataError: not a pickle, cut off, or one that does more than hold data."""
    try:
        data = read_file(path, most=LARGEST)
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror or error}", file=path, expected="a file") from error
    machine = _Machine()
    try:
        for name, argument, at in _operations(data):
            if name == "STOP":
                return machine.pop()
            try:
                machine.step(name, argument)
            except _Refused:
                raise DataError(
                    f"is a pickle that does more than hold data: {name} at byte {at:,}, which is not carried out",
                    file=path,
                    expected="lists, dicts, texts and numbers",
                ) from None
    except DataError:
        raise
    except Exception as error:  # a damaged file can be anything
        reason = next(iter(str(error).splitlines()), "")[:100] or type(error).__name__
        raise DataError(f"is not a complete pickle: {reason}", file=path, expected="lists, dicts, texts and numbers") from error
    raise DataError("is cut off: it has no end", file=path, expected="a whole pickle")


def _operations(data: bytes) -> Iterator[tuple[str, Any, int]]:
    """(name, argument, byte) of each operation, as `pickletools.genops`, which takes no byte strings beyond ASCII."""
    file = io.BytesIO(data)
    while code := file.read(1):
        operation = _BY_CODE[code.decode("latin-1")]
        argument: Any = None
        at = file.tell() - 1
        if operation.name == "STRING":
            argument = codecs.escape_decode(file.readline().rstrip(b"\n")[1:-1])[0]
        elif operation.arg is not None:
            argument = operation.arg.reader(file)
        yield operation.name, argument, at


class _Refused(Exception):
    """An operation that is not carried out."""


class _Machine:
    """Stack and memo of the operations that are."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def pop(self) -> Any:
        return self.stack.pop()

    def items(self) -> list[Any]:
        """Values above the last mark, which goes with them."""
        at = len(self.stack) - 1
        while self.stack[at] is not MARK:
            at -= 1
            if at < 0:
                raise ValueError("an operation without its mark")
        values = self.stack[at + 1 :]
        del self.stack[at:]
        return values

    def step(self, name: str, argument: Any) -> None:
        if len(self.stack) > DEEPEST and name == "MARK":
            raise ValueError("it is nested too deep")
        if name in VALUES:
            self.stack.append(argument)
        elif name in TEXTS:
            text = argument.encode("latin-1") if isinstance(argument, str) else argument
            self.stack.append(text.decode("utf-8", "replace"))
        elif name in CONSTANTS:
            self.stack.append(CONSTANTS[name]())
        elif name == "MARK":
            self.stack.append(MARK)
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self.memo[len(self.memo) if name == "MEMOIZE" else int(argument)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            self.stack.append(self.memo[int(argument)])
        elif name in ("LIST", "TUPLE", "DICT"):
            self._collected(name)
        elif name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            count = int(name[-1])
            last = tuple(self.stack[-count:])
            del self.stack[-count:]
            self.stack.append(last)
        elif name in ("APPEND", "APPENDS"):
            values = self.items() if name == "APPENDS" else [self.pop()]
            self._top(list).extend(values)
        elif name in ("SETITEM", "SETITEMS"):
            pairs = self.items() if name == "SETITEMS" else [self.stack.pop(-2), self.pop()]
            self._top(dict).update(zip(pairs[::2], pairs[1::2], strict=True))
        elif name == "POP":
            self.pop()
        elif name not in IGNORED:
            raise _Refused

    def _collected(self, name: str) -> None:
        values = self.items()
        if name == "DICT":
            self.stack.append(dict(zip(values[::2], values[1::2], strict=True)))
        else:
            self.stack.append(values if name == "LIST" else tuple(values))

    def _top(self, kind: type) -> Any:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"a {type(self.stack[-1]).__name__} where a {kind.__name__} should be")
        return self.stack[-1]
