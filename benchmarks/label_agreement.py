"""How far a dataset's labels, and those that `fm-pose relabel` made of them, are from other labels: a line of a
Markdown table for each object. Errors are medians over the images that the other labels have: angle, and the distance
of the object's centre across and along the line of sight. Symmetric objects take the nearest of their equivalent poses.

    fm-pose relabel DATASET --split test --output LABELS
    python benchmarks/label_agreement.py DATASET LABELS --against OTHER/scene_gt.json [--arrangements]
      [--picture FILE.jpg --of SCENE/IMAGE/OBJECT …]

The picture shows outlines of the model: at the given label (green), the new one (blue) and the other one (red).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, apply, box_corners
from fm_pose_core.objects.arrangements import apart
from fm_pose_core.objects.bop import MM, BopDataset, Instance, ObjectModel, key, relabelled
from fm_pose_core.objects.overlay import BLUE, GREEN, closeup, draw_contour
from fm_pose_core.rendering.mesh import load_mesh

RED = (255, 40, 40)
SIZE = 220  # pixels of a tile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DATASET")
    parser.add_argument("labels", type=Path, metavar="LABELS", help="folder that `fm-pose relabel` wrote")
    parser.add_argument("--split", default="test")
    parser.add_argument("--against", type=Path, required=True, metavar="FILE", help="the other labels")
    parser.add_argument("--arrangements", action="store_true", help="also a line for each arrangement")
    parser.add_argument("--picture", type=Path, metavar="FILE")
    parser.add_argument("--of", nargs="+", default=[], metavar="SCENE/IMAGE/OBJECT")
    args = parser.parse_args()
    dataset = BopDataset(args.root)
    given = dataset.instances(args.split)
    new, other = ({key(x): x.T_camera_object for x in relabelled(given, f)} for f in (args.labels, args.against))
    if args.picture:
        wanted = [tuple(map(int, text.split("/"))) for text in args.of]
        shown = [next(x for x in given if key(x) == k) for k in wanted]
        drawn = [(x, (x.T_camera_object, new[key(x)], other.get(key(x)))) for x in shown]
        cv2.imwrite(str(args.picture), picture(dataset, drawn)[..., ::-1])
    told = json.loads((args.labels / "corrections.json").read_text())
    said = {(c["scene_id"], image, c["obj_id"]): c for c in told for image in c["images"]}
    print(
        "| object | images | corrected | all: given | all: new | corrected: given | corrected: new |\n|---|"
        + "---|" * 6
    )
    for object_id in sorted({k[2] for k in said}):
        model = dataset.model(object_id)
        own = [x for x in given if x.object_id == object_id and key(x) in said]
        both = [x for x in own if key(x) in other]
        poses = [(x, x.T_camera_object, new[key(x)], other[key(x)]) for x in both]
        rows = [(x, (error(before, truth, model), error(after, truth, model))) for x, before, after, truth in poses]
        cells = [model.name, str(len(own)), str(sum(said[key(x)]["accepted"] for x in own))]
        for part in (rows, [r for r in rows if said[key(r[0])]["accepted"]]):
            cells += [text([errors[k] for _, errors in part]) for k in (0, 1)]
        print(f"| {' | '.join(cells)} |")
        if args.arrangements:
            for c in (c for c in told if c["obj_id"] == object_id):
                part = [r for r in rows if said[key(r[0])] is c]
                what = c["reason"] or f"moved by {c['rotation_deg']:.1f}°, {c['translation_mm']:.1f} mm"
                found = " | ".join(text([errors[k] for _, errors in part]) for k in (0, 1))
                print(f"| | {c['images'][0]}–{c['images'][-1]} ({len(c['images'])}) | {what} | {found} | | |")


def picture(dataset: BopDataset, shown: Sequence[tuple[Instance, tuple[Array | None, ...]]]) -> NDArray[np.uint8]:
    """Two instances a line (one, if their number is odd), each with its outlines side by side."""
    tiles = []
    for x, poses in shown:
        mesh = load_mesh(dataset.model(x.object_id).mesh_path, MM)
        around = x.camera.pixels(apply(x.T_camera_object, box_corners(*mesh.box)))
        view, camera = closeup(read_image(x.image_path), x.camera, around, SIZE)
        colours = (GREEN, BLUE, RED)
        drawn = [
            view if T is None else draw_contour(view, camera, T, mesh.vertices, mesh.faces, colour)
            for T, colour in zip(poses, colours, strict=True)
        ]
        tiles.append(np.hstack(drawn))
    columns = 1 if len(tiles) % 2 else 2
    return np.vstack([np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)])


def error(T: Array, truth: Array, model: ObjectModel) -> tuple[float, float, float]:
    """Degrees; millimetres across and along the line of sight."""
    middle = (model.minimum + model.maximum)[None] / 2
    found = []
    for S in (np.eye(4), *model.symmetries):
        at = apply(truth, middle)[0]
        away, ray = apply(T @ S, middle)[0] - at, at / np.linalg.norm(at)
        along = float(away @ ray)
        across = float(np.linalg.norm(away - along * ray))
        found.append((float(np.degrees(apart(T @ S, truth)[0])), across / MM, abs(along) / MM))
    return min(found)


def text(errors: list[tuple[float, float, float]]) -> str:
    if not errors:
        return ""
    angle, across, along = np.median(errors, 0)
    return f"{angle:.1f}°, {across:.1f}, {along:.1f} mm"


if __name__ == "__main__":
    main()
