"""The vertices of a PLY file, without a mesh library: evaluating and showing need no more."""

from pathlib import Path

import numpy as np

from fm_pose_core.errors import InputError, expect
from fm_pose_core.geometry import Array


def read_ply_vertices(path: str | Path) -> Array:
    """(N, 3) vertices of an ASCII or binary PLY file, in the file's unit. Raises InputError for anything else."""
    types = {
        "char": "i1",
        "uchar": "u1",
        "short": "i2",
        "ushort": "u2",
        "int": "i4",
        "uint": "u4",
        "float": "f4",
        "double": "f8",
    }
    types |= {
        "int8": "i1",
        "uint8": "u1",
        "int16": "i2",
        "uint16": "u2",
        "int32": "i4",
        "uint32": "u4",
        "float32": "f4",
        "float64": "f8",
    }
    content = Path(path).read_bytes()
    header, end, body = content.partition(b"end_header")
    body = body[body.find(b"\n") + 1 :]
    lines = [line.split() for line in header.decode("ascii", "replace").splitlines()]
    elements = [n for n, line in enumerate(lines) if line[:1] == ["element"]]
    try:
        expect(bool(end) and lines[0] == ["ply"], str(path), "a PLY file", "another header")
        encoding = next(line[1] for line in lines if line[:1] == ["format"])
        expect(lines[elements[0]][1] == "vertex", str(path), "the vertices first", lines[elements[0]][1])
        count = int(lines[elements[0]][2])
        stop = elements[1] if len(elements) > 1 else len(lines)
        properties = [(line[2], types[line[1]]) for line in lines[elements[0] : stop] if line[:1] == ["property"]]
        if encoding == "ascii":
            names = [name for name, _ in properties]
            table = np.array(
                [line.split()[: len(names)] for line in body.decode("ascii").splitlines()[:count]], dtype=np.float64
            )
            vertices = table[:, [names.index(axis) for axis in "xyz"]]
        else:
            order = {"binary_little_endian": "<", "binary_big_endian": ">"}[encoding]
            records = np.frombuffer(body, dtype=[(name, order + kind) for name, kind in properties], count=count)
            vertices = np.stack([records[axis] for axis in "xyz"], axis=1).astype(np.float64)
        expect(
            vertices.shape == (count, 3) and bool(np.isfinite(vertices).all()),
            str(path),
            f"{count} finite vertices",
            "something else",
        )
    except (IndexError, KeyError, StopIteration, UnicodeDecodeError) as error:
        raise InputError(
            f"{path}: expected a PLY file with x, y, z per vertex, got a header that does not say so ({error!r})"
        ) from None
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: expected a whole PLY file, got {error}") from None
    return vertices
