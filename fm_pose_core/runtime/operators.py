"""Which operators an ONNX file uses, read from its bytes, so that this costs no package. A network is a line of
operators without loops: one that loops may run for ever, and no engine can be stopped."""

from collections.abc import Iterator
from pathlib import Path

from fm_pose_core.errors import InputError, expect

LOOPING = {"Loop", "Scan", "If", "SequenceMap"}
GRAPH, FUNCTIONS, NODE, OPERATOR = 7, 25, 1, 4  # fields of ModelProto, ModelProto, GraphProto, NodeProto


def check_operators(path: Path) -> None:
    """Raise InputError for a network with loops, branches or functions of its own, and for what is no ONNX file."""
    try:
        model = path.read_bytes()
        graphs = [part for field, part in _fields(model) if field == GRAPH]
        functions = any(field == FUNCTIONS for field, _ in _fields(model))
        nodes = [part for graph in graphs for field, part in _fields(graph) if field == NODE]
        names = {part.decode(errors="replace") for x in nodes for field, part in _fields(x) if field == OPERATOR}
    except IndexError:
        raise InputError(f"{path}: expected a network in an ONNX file, got other bytes, or a part of one") from None
    found = sorted(names & LOOPING) + (["functions"] if functions else [])
    expect(not found, str(path), "a network without loops, branches and functions", ", ".join(found))


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The numbers and contents of a protobuf message's fields that have a length. Raises IndexError where it ends too
    soon, is none, or has groups, which ONNX never had."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        kind = tag & 7
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
