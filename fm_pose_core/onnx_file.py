"""What an ONNX file holds, read from its bytes, so that this costs no package. A bundle's network is a line of ONNX's
own operators in one file: loops may run for ever, and no engine can be stopped; no checksum covers weights in other
files."""

from collections.abc import Iterator
from pathlib import Path

from fm_pose_core.errors import InputError, expect

# Protobuf messages of ONNX that matter here: their fields by number, and the message in each.
# https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
FIELDS = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute", 7: "domain"},
    "attribute": {5: "tensor", 6: "subgraph", 10: "tensor", 11: "subgraph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "external"},
}
REFUSED = {
    "training": "a training of its own",
    "function": "functions",
    "subgraph": "loops or branches",
    "external": "weights in other files",
}
DOMAINS = {"", "ai.onnx"}
LARGEST_TAG = 2**32  # beyond, readers differ in what they read


def check_onnx_file(path: Path) -> None:
    """Raise InputError for a network with loops, branches, functions or operators of its own, or whose weights are in
    other files, and for what is no ONNX file."""
    try:
        found = {(kind, _text(part)) for kind, part in _parts(path.read_bytes(), "model")}
    except IndexError:
        raise InputError(f"{path}: expected a network in an ONNX file, got other bytes, or a part of one") from None
    odd = {REFUSED[kind] for kind, _ in found if kind in REFUSED}
    odd |= {f"operators of {name!r}" for kind, name in found if kind == "domain" and name not in DOMAINS}
    wanted = "a network in one file, of ONNX's operators, without loops, branches and functions"
    expect(not odd, str(path), wanted, ", ".join(sorted(odd)))


def _parts(message: bytes, kind: str) -> Iterator[tuple[str, bytes]]:
    """The parts of a message that say something by themselves: their kinds and contents, at any depth."""
    for number, part in _fields(message):
        inner = FIELDS[kind].get(number)
        if inner in FIELDS:
            yield from _parts(part, inner)
        elif inner is not None:
            yield inner, part


def _text(part: bytes) -> str:
    """Short, whatever it is."""
    return part[:60].decode(errors="replace")


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of a protobuf message's fields that have a length. Raises IndexError where it ends too
    soon, is none, or has groups, which ONNX never had."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
        if tag >= LARGEST_TAG:
            raise IndexError
        if kind == 0:
            _, at = _varint(message, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        elif kind == 2:
            length, at = _varint(message, at)
            if at + length > len(message):
                raise IndexError
            yield tag >> 3, message[at : at + length]
            at += length
        else:
            raise IndexError


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """A number, and where the next one begins."""
    value = shift = 0
    while shift < 70:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise IndexError
