"""From a CAD file to a model of a BOP dataset: the mesh in millimetres, and its entry in models_info.json."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fm_pose_core.document import read_document
from fm_pose_core.errors import InputError, expect
from fm_pose_core.files import write_atomically
from fm_pose_core.geometry import Array, exp_so3, transform
from fm_pose_core.objects.bop import MM, MOST
from fm_pose_core.rendering.mesh import Mesh, ply_file

UNITS = {"m": 1.0, "cm": 1e-2, "mm": 1e-3, "inch": 0.0254}  # metres


class Turns(NamedTuple):
    """The object looks the same after each of `number` equal turns about an axis (0, 1, 2: x, y, z) through the middle
    of its box; 0: after every turn."""

    axis: int
    number: int

    @classmethod
    def read(cls, text: str) -> "Turns":
        """From z:2, or z:all. Raises InputError for anything else."""
        found = re.fullmatch(r"([xyz]):(all|\d{1,3})", text)
        number = 0 if found is None or found[2] == "all" else int(found[2])
        if found is None or number == 1:
            raise InputError(f"symmetry: expected x:2, y:4, z:all …, got {text!r}")
        return cls("xyz".index(found[1]), number)


def write_model(root: Path, object_id: int, mesh: Mesh, symmetries: Sequence[Turns] = ()) -> Path:
    """Write models/obj_00000N.ply and its entry in models/models_info.json below `root`; entries of other objects stay.
    Returns the mesh's file. Raises InputError for a models_info.json that is none."""
    path, info_path = root / "models" / f"obj_{object_id:06d}.ply", root / "models" / "models_info.json"
    known = {str(k): x.value for k, x in read_document(info_path).keyed()} if info_path.is_file() else {}
    known[str(object_id)] = _entry(mesh, symmetries)
    write_atomically(path, ply_file(mesh, MM))
    text = json.dumps(dict(sorted(known.items(), key=lambda x: int(x[0]))), indent=2)
    write_atomically(info_path, text.encode())
    return path


def _entry(mesh: Mesh, symmetries: Sequence[Turns]) -> dict[str, Any]:
    minimum, maximum = mesh.box
    names = ("min_x", "min_y", "min_z", "size_x", "size_y", "size_z")
    values = np.concatenate([minimum, maximum - minimum]) / MM
    entry = {"diameter": mesh.diameter / MM, **dict(zip(names, values.tolist(), strict=True))}
    middle = (minimum + maximum) / 2 / MM
    continuous = [{"axis": np.eye(3)[x.axis].tolist(), "offset": middle.tolist()} for x in symmetries if not x.number]
    discrete = [T.reshape(-1).tolist() for T in _discrete([x for x in symmetries if x.number], middle)]
    entry |= {"symmetries_continuous": continuous} if continuous else {}
    return entry | ({"symmetries_discrete": discrete} if discrete else {})


def _discrete(symmetries: Sequence[Turns], middle: Array) -> list[Array]:
    """(4, 4) each, mm, without the identity: all that the turns make, one after the other."""
    steps = [exp_so3(np.eye(3)[x.axis] * (2 * np.pi / x.number)) for x in symmetries]
    found = [np.eye(3)]
    for R in found:  # it grows on the way
        for S in (step @ R for step in steps):
            if np.abs(np.array(found) - S).max((1, 2)).min() > 1e-6:
                found.append(S)
        expect(len(found) <= MOST, "symmetries", "turns that fit together, as of a box or a cube", "endlessly many")
    return [transform(R, middle - R @ middle) for R in found[1:]]
