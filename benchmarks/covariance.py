"""How well the covariance of poses fits their errors: the median of eᵀC⁻¹e over the accepted poses of labelled images,
by that of a χ² distribution with 6 degrees of freedom. 1: it fits; 4: errors are twice what it says. The errors of the
labels are in it. Also how many poses are accepted, and how many of these are farther than 25 pixels from where the
labels have the object, or of an object that the image does not show.

    FM_POSE_DATA=… python benchmarks/covariance.py models/lmo $FM_POSE_DATA/lmo --frames 474-575 \\
      --labels config/labels/lmo [--refine none edges] [--support none auto]
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np
from hardware import hardware

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.files import Frames, read_image
from fm_pose_core.geometry import Array, apply, log_so3
from fm_pose_core.objects.bop import BopDataset, Instance, relabelled
from fm_pose_core.objects.bundle import BundledObject
from fm_pose_core.objects.calibration import CHI2_MEDIAN
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.objects.pnp import inverse_spd
from fm_pose_core.objects.validation import nearest_truth
from fm_pose_core.types import Camera

FAR = 25.0  # pixels


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bundle", type=Path)
    p.add_argument("root", type=Path, help="a dataset in BOP format")
    p.add_argument("--split", default="test")
    p.add_argument("--frames", default="*")
    p.add_argument("--labels", type=Path, help="others than the dataset's")
    p.add_argument("--refine", nargs="+", default=["none", "edges"])
    p.add_argument("--support", nargs="+", default=["none", "auto"])
    args = p.parse_args()
    given = BopDataset(args.root).instances(args.split)
    chosen = Frames.parse(args.frames).of({(x.scene_id, x.im_id) for x in given})
    given = [x for x in given if (x.scene_id, x.im_id) in chosen]
    labelled = relabelled(given, args.labels) if args.labels else given
    images: dict[Path, dict[int, Instance]] = defaultdict(dict)
    for x in (*given, *labelled):
        images[x.image_path][x.object_id] = x
    known = {(x.im_id, x.object_id) for x in labelled}
    rows = {}
    for refine in args.refine:
        for support in args.support:
            estimator = PoseEstimator.load(args.bundle, EstimatorConfig(refine=refine, support=support))
            rows[f"refine {refine}, support {support}"] = measure(estimator, images, known)
    print(json.dumps({**hardware(), "frames": args.frames, "labels": str(args.labels or "dataset"), **rows}, indent=1))


def measure(
    estimator: PoseEstimator, images: dict[Path, dict[int, Instance]], known: set[tuple[int, int]]
) -> dict[str, float]:
    """known: images and objects that have a label."""
    objects = {x.name: x for x in estimator.bundle.objects}
    squares, accepted, false = [], 0, 0
    for path, truths in images.items():
        camera = next(iter(truths.values())).camera
        for window, pose in estimator.find(read_image(path), camera):
            if not pose.accepted:
                continue
            accepted += 1
            own = objects[window.object]
            truth = truths.get(own.object_id)
            told = _pixel(camera, pose.T_camera_object, own)
            if truth is None or np.linalg.norm(told - _pixel(camera, truth.T_camera_object, own)) > FAR:
                false += 1
            elif (truth.im_id, truth.object_id) in known:
                e = _error(pose.T_camera_object, truth.T_camera_object, own)
                squares.append(float(e @ inverse_spd(pose.covariance) @ e))
    return {
        "accepted": accepted,
        "false": false,
        "compared": len(squares),
        "chi2_by_median": round(float(np.median(squares)) / CHI2_MEDIAN[6], 2),
    }


def _pixel(camera: Camera, T: Array, own: BundledObject) -> Array:
    return camera.pixels(apply(T, own.center[None]))[0]


def _error(T: Array, T_true: Array, own: BundledObject) -> Array:
    """(6,) metres and radians, as the covariance is."""
    truth = nearest_truth(T, [T_true, *(T_true @ S for S in own.symmetries)])
    return np.concatenate([truth[:3, 3] - T[:3, 3], log_so3(truth[:3, :3] @ T[:3, :3].T)])


if __name__ == "__main__":
    main()
