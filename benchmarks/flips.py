"""Whether a symmetric object's pose flips between those that look alike, while the camera moves about it: a line of a
Markdown table for each symmetric object in a BOP result file, such as `results.csv` of a demo of the node.

    dev/with_ros .venv/bin/python -m fm_pose_ros.demo scene --sequence DATASET --output runs/node
    python benchmarks/flips.py DATASET runs/node/results.csv --stretches 3-277,474-856,1012-1212

Of each pose, the equivalent of the label that is nearest to it is looked for; a flip is another one than in the frame
before. Frames of another stretch begin anew: there the object was out of sight. Where the camera turned by more than
90° from one pose to the next, a half turn cannot be told from it; such a change is counted for itself. So is a pose
farther than 30° from all of them: it is wrong.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from fm_pose_core.files import Frames
from fm_pose_core.geometry import Array, log_so3
from fm_pose_core.objects.bop import BopDataset, Result, key, read_results

WRONG, FAR = np.deg2rad(30.0), np.deg2rad(90.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path, metavar="DATASET")
    parser.add_argument("results", type=Path, metavar="RESULTS")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    parser.add_argument(
        "--stretches", required=True, metavar="FRAMES", help="without an interruption each, as 3-9,20-40"
    )
    args = parser.parse_args()
    dataset = BopDataset(args.root)
    labels = {key(x): x.T_camera_object for x in dataset.instances(args.split)}
    found = sorted(read_results(args.results), key=lambda x: (x.scene_id, x.im_id))
    stretches = [Frames.parse(part) for part in args.stretches.split(",")]
    print(
        "| object | poses | wrong | flips, after frame | changes where the camera turned far |\n|---|---|---|---|---|"
    )
    for object_id, model in sorted(dataset.objects.items()):
        own = [x for x in found if x.object_id == object_id and key(x) in labels]
        if not model.symmetries or not own:
            continue
        alike = [np.eye(4), *model.symmetries]
        seen = [(x, *nearest(x, labels[key(x)], alike)) for x in own]
        right = [(x, which) for x, which, away in seen if away <= WRONG]
        changes = [change for stretch in stretches for change in changes_in(right, stretch)]
        turns = [largest_step([labels[key(x)] for x in own if a.im_id <= x.im_id <= b.im_id]) for a, b in changes]
        flips = [str(a.im_id) for (a, _), angle in zip(changes, turns, strict=True) if angle <= FAR]
        cells = [object_id, len(own), len(own) - len(right), f"{len(flips)} ({', '.join(flips) or '–'})"]
        print(f"| {' | '.join(map(str, cells))} | {len(changes) - len(flips)} |")


def changes_in(right: Sequence[tuple[Result, int]], stretch: Frames) -> list[tuple[Result, Result]]:
    """Pairs of successive frames, the second with another equivalent."""
    inside = [(x, which) for x, which in right if stretch.of({(x.scene_id, x.im_id)})]
    return [(a, b) for (a, which), (b, following) in pairwise(inside) if which != following]


def nearest(x: Result, label: Array, alike: Sequence[Array]) -> tuple[int, float]:
    """Which of the equivalents of the label (4, 4), and the angle to it in radians."""
    angles = [turn(label @ S, x.T_camera_object) for S in alike]
    return int(np.argmin(angles)), min(angles)


def largest_step(labels: Sequence[Array]) -> float:
    """Angle between one pose (4, 4) and the next, at most, radians."""
    return max(turn(a, b) for a, b in pairwise(labels))


def turn(T_a: Array, T_b: Array) -> float:
    """Angle between two poses (4, 4), radians."""
    return float(np.linalg.norm(log_so3(T_a[:3, :3].T @ T_b[:3, :3])))


if __name__ == "__main__":
    main()
