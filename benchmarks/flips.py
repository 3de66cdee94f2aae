"""Whether a symmetric object's pose flips between those that look alike, while the camera moves about it: a line of a
Markdown table for each symmetric object in a BOP result file, such as `results.csv` of a demo of the node.

    dev/with_ros .venv/bin/python -m fm_pose_ros.demo scene --sequence DATASET --output runs/node
    python benchmarks/flips.py DATASET runs/node/results.csv --stretches 3-277,474-856,1012-1212

Of each pose, the equivalent of the label that is nearest to it is looked for; a flip is another one than in the frame
before. Frames of another stretch begin anew: there the object was out of sight. A pose farther than 30° from all of
them is wrong, and counted for itself.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from fm_pose_core.files import Frames
from fm_pose_core.geometry import Array, log_so3
from fm_pose_core.objects.bop import BopDataset, Result, key, read_results

WRONG = np.deg2rad(30.0)


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
    print("| object | poses | wrong | flips, after frame |\n|---|---|---|---|")
    for object_id, model in sorted(dataset.objects.items()):
        own = [x for x in found if x.object_id == object_id and key(x) in labels]
        if not model.symmetries or not own:
            continue
        alike = [np.eye(4), *model.symmetries]
        seen = [(x, *nearest(x, labels[key(x)], alike)) for x in own]
        right = [(x, which) for x, which, away in seen if away <= WRONG]
        flips = [flip for stretch in stretches for flip in flips_in(right, stretch)]
        print(f"| {object_id} | {len(own)} | {len(own) - len(right)} | {len(flips)} ({', '.join(flips) or '–'}) |")


def flips_in(right: Sequence[tuple[Result, int]], stretch: Frames) -> list[str]:
    """Frames after which another equivalent comes."""
    inside = [(x, which) for x, which in right if stretch.of({(x.scene_id, x.im_id)})]
    return [str(x.im_id) for (x, which), (_, following) in pairwise(inside) if which != following]


def nearest(x: Result, label: Array, alike: Sequence[Array]) -> tuple[int, float]:
    """Which of the equivalents of the label (4, 4), and the angle to it in radians."""
    R = x.T_camera_object[:3, :3]
    angles = [float(np.linalg.norm(log_so3((label @ S)[:3, :3].T @ R))) for S in alike]
    return int(np.argmin(angles)), min(angles)


if __name__ == "__main__":
    main()
