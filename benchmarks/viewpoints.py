"""How far the viewpoint of an image is from those of the photographs that train, and how many poses are right there: a
line of a Markdown table for each range of angles, columns for each report of `fm-pose evaluate bop --output`.

    fm-pose evaluate bop --bundle models/lmo --root DATASET … --output runs/report
    python benchmarks/viewpoints.py DATASET runs/report/evaluation.json [OTHER.json …] --training 110-277,589-856

The angle is that between the directions in which the object sees the camera, to the nearest photograph that shows it;
a camera that turns where it stands has no other viewpoint. Symmetric objects take the nearest of their
equivalent poses. Targets without an accepted pose count as wrong; objects that no photograph shows are left out.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from fm_pose_core.errors import expect
from fm_pose_core.files import Frames
from fm_pose_core.geometry import Array
from fm_pose_core.objects.bop import BopDataset, Instance, key, relabelled

RANGES = (0.0, 4.0, 7.0, 12.0, 180.0)  # degrees
LIMIT = 5.0  # pixels
SHOWN = 0.1  # visible fraction of photographs that train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DATASET")
    parser.add_argument("reports", type=Path, nargs="+", metavar="REPORT", help="evaluation.json of a report")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    parser.add_argument("--training", required=True, metavar="FRAMES", help="frames that train, as 110-277,589-856")
    parser.add_argument("--labels", type=Path, help="of the photographs, in place of the dataset's")
    parser.add_argument("--least", type=float, default=0.0, help="visible fraction from which on a target counts")
    args = parser.parse_args()
    dataset = BopDataset(args.root)
    given = dataset.instances(args.split)
    known = relabelled(given, args.labels) if args.labels else given
    chosen = Frames.parse(args.training).of({(x.scene_id, x.im_id) for x in known})
    trained = [x for x in known if (x.scene_id, x.im_id) in chosen and not x.visible_fraction < SHOWN]
    # Of a target, the dataset's own label: an angle needs no more.
    angles = {key(x): nearest(x, trained, dataset.model(x.object_id).symmetries) for x in given}
    reports = [read(path, args.least) for path in args.reports]
    for path, report in zip(args.reports, reports, strict=True):
        expect(report.keys() == reports[0].keys(), str(path), f"the targets of {args.reports[0]}", "others")
    print("| angle | targets |" + " 2D projection, 5 cm 5°, median rotation |" * len(reports))
    print("|---" * (2 + len(reports)) + "|")
    for low, high in pairwise(RANGES):
        rows = [[x for k, x in report.items() if low <= angles[k] < high] for report in reports]
        name = f"{low:.0f}–{high:.0f}°" if high < RANGES[-1] else f"from {low:.0f}°"
        print(f"| {name} | {len(rows[0])} | " + " | ".join(map(shares, rows)) + " |")


def nearest(x: Instance, trained: Sequence[Instance], symmetries: Sequence[Array]) -> float:
    """Degrees; infinite where no photograph shows the object."""
    others = [towards_camera(o.T_camera_object) for o in trained if o.object_id == x.object_id]
    own = [towards_camera(x.T_camera_object @ S) for S in (np.eye(4), *symmetries)]
    cosines = [float(a @ b) for a in own for b in others]
    return float(np.degrees(np.arccos(np.clip(max(cosines), -1.0, 1.0)))) if cosines else float("inf")


def towards_camera(T_camera_object: Array) -> Array:
    """(3,) unit, object frame."""
    v = -T_camera_object[:3, :3].T @ T_camera_object[:3, 3]
    return np.asarray(v / np.linalg.norm(v))


def read(path: Path, least: float) -> dict[tuple[int, int, int], dict[str, Any]]:
    """The targets of a report that show so much, as far as it is known."""
    rows = json.loads(path.read_text())["instances"]
    kept = (x for x in rows if x["visible_fraction"] is None or x["visible_fraction"] >= least)
    return {(x["scene_id"], x["im_id"], x["obj_id"]): x for x in kept}


def shares(rows: Sequence[dict[str, Any]]) -> str:
    if not rows:
        return "–"
    projections, rotations = ([error(x, k) for x in rows] for k in ("projection_2d_px", "rotation_deg"))
    near = [x["status"] == "scored" and bool(x["within_5cm_5deg"]) for x in rows]
    projection = 100.0 * np.mean(np.less(projections, LIMIT))
    return f"{projection:.0f}, {100.0 * np.mean(near):.0f}, {np.median(rotations):.1f}°"


def error(x: dict[str, Any], name: str) -> float:
    """Infinite without an accepted pose, or where there is no such error, as behind the camera."""
    value = x.get(name) if x["status"] == "scored" else None
    return float("inf") if value is None else float(value)


if __name__ == "__main__":
    main()
