"""JSON files that anybody may have written, read value by value: each error names the file, the key, what was expected
and what came."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import Array

LARGEST = 1 << 30  # bytes
FARTHEST = 2**53  # whole numbers beyond are no ids, sizes or counts


class Document:
    """A value in a JSON file. where: the file, and the keys that lead to the value."""

    def __init__(self, value: Any, where: str) -> None:
        self.value, self.where = value, where

    def __contains__(self, key: str) -> bool:
        return isinstance(self.value, dict) and key in self.value

    def __getitem__(self, key: str) -> "Document":
        """The value of a key. Raises InputError where there is none, as all methods do."""
        if not isinstance(self.value, dict):
            raise self._not(f"an object with {key!r}")
        if key not in self.value:
            raise self._not(f"the key {key!r}", list(self.value))
        return Document(self.value[key], f"{self.where}: {key}")

    def get(self, key: str, default: Any) -> "Document":
        """The value of a key, or `default`."""
        return self[key] if key in self else Document(default, f"{self.where}: {key}")

    def keyed(self) -> list[tuple[int, "Document"]]:
        """The values of an object whose keys are ids, in their order."""
        if not isinstance(self.value, dict):
            raise self._not("an object with ids as keys")
        for key in self.value:
            # As Python writes it: "01" beside "1" would be one id twice.
            if not (key.isascii() and key.isdecimal() and len(key) < 16 and str(int(key)) == key):
                raise self._not("whole numbers as keys", key)
        return [(int(key), self[key]) for key in sorted(self.value, key=int)]

    def elements(self) -> list["Document"]:
        """Those of a list."""
        if not isinstance(self.value, list):
            raise self._not("a list")
        return [Document(x, f"{self.where}[{i}]") for i, x in enumerate(self.value)]

    def whole(self) -> int:
        """A whole number from 0."""
        if type(self.value) is not int or not 0 <= self.value < FARTHEST:
            raise self._not("a whole number from 0")
        return int(self.value)

    def number(self) -> float:
        """A finite number."""
        return float(self.numbers()[()])

    def numbers(self, *shape: int) -> Array:
        """So many finite numbers, nested in lists in whatever way, in this shape."""
        flat = _flat(self.value, depth=3)
        if len(flat) == math.prod(shape) and all(type(x) in (int, float) for x in flat):
            with contextlib.suppress(OverflowError):
                values = np.array(flat, dtype=np.float64)
                if np.isfinite(values).all():
                    return values.reshape(shape)
        raise self._not(" x ".join(map(str, shape)) + " finite numbers" if shape else "a finite number")

    def _not(self, wanted: str, *got: Any) -> InputError:
        """That something else was expected than what is here, or than `got`. Only made where it is raised: to show a
        whole file takes long."""
        return InputError(f"{self.where}: expected {wanted}, got {_shown(*(got or (self.value,)))}")


def read_document(path: Path, largest: int = LARGEST) -> Document:
    """A JSON file of up to so many bytes. Raises InputError."""
    expect(path.is_file(), str(path), "a JSON file", "nothing there")
    size = path.stat().st_size
    expect(size <= largest, str(path), f"a JSON file of at most {largest} bytes", f"{size}")
    return parse_document(path.read_bytes(), str(path))


def parse_document(content: bytes, where: str) -> Document:
    """JSON from UTF-8. Raises InputError that begins with `where`."""
    try:
        return Document(json.loads(content.decode("utf-8")), where)
    except RecursionError:
        raise InputError(f"{where}: expected JSON, got lists or objects nested too deeply") from None
    except ValueError as error:  # of JSON, of UTF-8, or a number of thousands of digits
        raise InputError(f"{where}: expected JSON, got {error}") from None


def _flat(value: Any, depth: int) -> list[Any]:
    if not isinstance(value, list) or depth == 0:
        return [value]
    return [x for element in value for x in _flat(element, depth - 1)]


def _shown(value: Any) -> str:
    """For an error: short, whatever it is."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of many digits"
    if isinstance(value, dict):
        return f"an object with the keys {_shown(list(value))}"
    try:
        text = json.dumps(value[:8] if isinstance(value, list | str) else value)
    except RecursionError:
        return "lists nested too deeply"
    return text if len(text) <= 60 else f"{text[:60]}…"
