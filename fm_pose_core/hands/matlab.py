"""Arrays of numbers in MATLAB files of level 5, as NYU's annotations are. scipy reads them too, but a damaged file can
end the process in its decoder."""

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import Array

HEADER = 128  # bytes before the first element
LEVEL_5 = b"\0\1IM"  # version and byte order, at the header's end
MATRIX, COMPRESSED = 14, 15
NUMBERS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8", 12: "<i8", 13: "<u8"}
CLASSES = range(6, 16)  # of arrays: numbers, not texts, cells or structures
COMPLEX = 0x800
LARGEST = 1 << 28  # bytes of one array: NYU's has 190 MB


def read_array(file: Path, name: str) -> Array:
    """The array of real numbers that is called `name`, as float64. Raises InputError if the file is damaged, of another
    kind, or has no such array.

    Source: MAT-File Format, MathWorks, chapter 1 (level 5).
    """
    content = file.read_bytes()
    plain = content[HEADER - len(LEVEL_5) : HEADER] == LEVEL_5
    expect(plain, str(file), "a MATLAB file of level 5 (save -v7), little-endian", "something else")
    try:
        for kind, data in _elements(memoryview(content)[HEADER:]):
            found = _array(_inflated(data) if kind == COMPRESSED else data if kind == MATRIX else data[:0], name)
            if found is not None:
                return found
    except (ValueError, struct.error, zlib.error) as error:
        raise InputError(f"{file}: expected a whole MATLAB file, got a damaged one: {error}") from None
    raise InputError(f"{file}: expected the array {name}, got none of real numbers")


def _elements(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each."""
    at = 0
    while at < len(data):
        kind, size = struct.unpack_from("<II", data, at)
        begin, end = at + 8, at + 8 + size
        following = end if kind == COMPRESSED else end + -size % 8
        if kind >> 16:  # up to four bytes, within the tag
            kind, begin, end, following = kind & 0xFFFF, at + 4, at + 4 + (kind >> 16), at + 8
        if end > len(data):
            raise ValueError("it ends too soon")
        yield kind, data[begin:end]
        at = following


def _inflated(data: memoryview) -> memoryview:
    """The matrix in a compressed element."""
    stream = zlib.decompressobj()
    content = stream.decompress(data, LARGEST)
    if not stream.eof:
        raise ValueError(f"more than {LARGEST} bytes, or it ends too soon")
    kind, matrix = next(_elements(memoryview(content)), (0, memoryview(b"")))
    return matrix if kind == MATRIX else matrix[:0]


def _array(matrix: memoryview, name: str) -> Array | None:
    """Of a matrix, if it is the one called `name` and holds real numbers."""
    parts = [part for _, part in zip(range(4), _elements(matrix), strict=False)]
    if len(parts) < 4 or bytes(parts[2][1]) != name.encode():
        return None
    (flags,) = struct.unpack_from("<I", parts[0][1])
    kind, data = parts[3]
    if flags & 0xFF not in CLASSES or flags & COMPLEX or kind not in NUMBERS:
        return None
    shape = np.frombuffer(parts[1][1], "<i4").tolist()
    values = np.frombuffer(data, NUMBERS[kind])
    if len(values) != math.prod(shape) or min(shape) < 0 or len(shape) > 8 or 8 * len(values) > LARGEST:
        raise ValueError(f"{name} has {len(values)} numbers for a shape of {shape}, or too many")
    return values.astype(np.float64).reshape(shape, order="F")
