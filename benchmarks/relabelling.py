"""How near relabelling comes to the truth. The labels of a simulated dataset are exact; here they are disturbed, by one
rigid transform in each arrangement and by trembling from image to image, and corrected. Prints JSON: for each
disturbance the errors of the labels of all images, before and after, degrees and millimetres.

    fm-pose simulate DIR --seed 7 --photos 0 --frames 180
    python benchmarks/relabelling.py DIR [--images 30] [--around]
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hardware import hardware

from fm_pose_core.geometry import Array, exp_so3, transform
from fm_pose_core.objects.arrangements import apart
from fm_pose_core.objects.bop import BopDataset, Instance, key
from fm_pose_core.objects.relabel import corrected, relabel

# Degrees and millimetres of an arrangement, degrees of trembling.
DISTURBANCES = {
    "exact": (0.0, 0.0, 0.0),
    "trembling": (0.0, 0.0, 2.0),
    "small": (5.0, 5.0, 2.0),
    "large": (15.0, 15.0, 2.0),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("root", type=Path)
    parser.add_argument("--images", type=int, default=30, help="images of an arrangement (default: %(default)s)")
    text = "the images of an arrangement are from all around; else they are neighbours"
    parser.add_argument("--around", action="store_true", help=text)
    parser.add_argument("--disturbances", nargs="+", default=list(DISTURBANCES), choices=list(DISTURBANCES))
    args = parser.parse_args()
    dataset = BopDataset(args.root)
    # The images of an arrangement become a scene of their own, whose labels are wrong in their own way.
    given = dataset.instances("test")
    scenes = len(given) // args.images
    exact = [replace(x, scene_id=k % scenes if args.around else k // args.images) for k, x in enumerate(given)]
    exact.sort(key=key)
    report: dict[str, Any] = {}
    for name in args.disturbances:
        wrong = disturbed(exact, *DISTURBANCES[name])
        corrections = relabel(dataset, wrong)
        report[name] = {
            "arrangements": len(corrections),
            "corrected": sum(c.accepted for c in corrections),
            "before": errors(wrong, exact),
            "after": errors(corrected(wrong, corrections), exact),
            "each": [{k: v for k, v in c.to_json().items() if k != "images"} for c in corrections],
        }
    print(
        json.dumps({"results": report, "images": args.images, "around": args.around, "hardware": hardware()}, indent=1)
    )


def disturbed(instances: Sequence[Instance], degrees: float, millimetres: float, trembling: float) -> list[Instance]:
    """One wrong transform for each scene, and a turn for each image."""
    result = []
    for x in instances:
        rng = np.random.default_rng([x.scene_id])
        wrong = transform(exp_so3(np.radians(degrees) * _direction(rng)), 1e-3 * millimetres * _direction(rng))
        rng = np.random.default_rng([x.scene_id, x.im_id])
        tremble = transform(exp_so3(np.radians(trembling) * rng.normal(size=3) / np.sqrt(3)), np.zeros(3))
        result.append(replace(x, T_camera_object=x.T_camera_object @ wrong @ tremble))
    return result


def errors(labels: Sequence[Instance], truth: Sequence[Instance]) -> dict[str, list[float]]:
    """Median and largest angle and distance, degrees and millimetres."""
    each = [apart(a.T_camera_object, b.T_camera_object) for a, b in zip(labels, truth, strict=True)]
    angles, distances = np.array(each).T
    return {
        "degrees": [float(f(np.degrees(angles))) for f in (np.median, np.max)],
        "millimetres": [float(f(1e3 * distances)) for f in (np.median, np.max)],
    }


def _direction(rng: np.random.Generator) -> Array:
    v = rng.normal(size=3)
    return np.asarray(v / np.linalg.norm(v))


if __name__ == "__main__":
    main()
