"""`fm-pose model`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from fm_pose_core.cli.options import command
from fm_pose_core.errors import expect

SMALLEST, LARGEST = 0.02, 2.0  # metres: a diameter beyond is told


def add(verbs: Any, text: str) -> None:
    p = command(verbs, "model", run, text, "fm-pose model mug.stl --unit mm --id 1 --dataset DIR")
    text = "mesh: PLY, OBJ, STL, GLB …, with colours or a texture if it has any"
    p.add_argument("mesh", type=Path, metavar="MESH", help=text)
    text = "folder of the dataset; DIR/models is made, and other objects in it stay"
    p.add_argument("--dataset", type=Path, required=True, metavar="DIR", help=text)
    p.add_argument("--id", type=int, default=1, metavar="N", help="the object's number (default: %(default)s)")
    p.add_argument("--unit", choices=("m", "cm", "mm", "inch"), required=True, help="of the mesh's numbers")
    text = (
        "how the object may be turned and looks the same, about an axis through the middle of its box: z:2 for a half "
        "turn about z, z:4 for quarters, z:all for a solid of revolution; may be given for several axes"
    )
    p.add_argument("--symmetry", action="append", default=[], metavar="AXIS:TURNS", help=text)


def run(args: argparse.Namespace) -> None:
    expect(0 <= args.id < 10**6, "--id", "a number from 0 to 999999", args.id)
    from fm_pose_core.objects.models import UNITS, Turns, write_model
    from fm_pose_core.rendering.mesh import load_mesh

    symmetries = [Turns.read(x) for x in args.symmetry]
    mesh = load_mesh(args.mesh, UNITS[args.unit])
    path = write_model(args.dataset, args.id, mesh, symmetries)
    size = " x ".join(f"{x:.3f}" for x in mesh.box[1] - mesh.box[0])
    print(f"{path}: {len(mesh.faces)} triangles, {size} m, diameter {mesh.diameter:.3f} m")
    if not SMALLEST <= mesh.diameter <= LARGEST:
        print(f"fm-pose: is --unit {args.unit} right? The object would be {mesh.diameter:.3g} m large", file=sys.stderr)
    if (mesh.colours == mesh.colours[0]).all():
        print("fm-pose: the mesh has one colour; the nearer it looks to the object, the better", file=sys.stderr)
