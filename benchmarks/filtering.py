"""What the filter on poses does (the node's parameter `filter`): the demo's simulated sequence, whose truth is known,
through the estimator, once as it is and filtered. Prints JSON: RMS errors, jitter (RMS of the change of the error from
frame to frame), and the delay by which the truth fits the poses best.

    python benchmarks/filtering.py [--views 4] [--rate 30]
"""

import argparse
import json
from pathlib import Path

import numpy as np
from hardware import hardware

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.files import read_image
from fm_pose_core.geometry import Array, apply, log_so3
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.objects.filtering import PoseFilter
from fm_pose_core.types import ObjectPose, Window

ROOT = Path(__file__).resolve().parents[1]
SETTLED = 5  # frames
ACCELERATIONS = ((0.5, 2.0), (1.0, 5.0), (2.0, 10.0), (5.0, 20.0))  # m/s², rad/s²; the node's default is the last


def estimates(views: int) -> tuple[list[Array], list[ObjectPose]]:
    """The true poses (4, 4), and the estimates."""
    instances = BopDataset(ROOT / "demo/sequence").instances("test")
    estimator = PoseEstimator.load(ROOT / "models/tugboat", EstimatorConfig(views=views))
    centre, found = estimator.bundle.object().center[None], []
    for x in instances:
        window = Window(*x.camera.pixels(apply(x.T_camera_object, centre))[0])
        found.append(estimator.estimate(read_image(x.image_path), x.camera, window))
    return [x.T_camera_object for x in instances], found


def figures(poses: list[Array], truth: list[Array], rate: float) -> dict[str, float]:
    """Of poses (4, 4), one for each frame."""
    pairs = list(zip(truth, poses, strict=True))[SETTLED:]
    away = np.array([[*(T[:3, 3] - t[:3, 3]), *log_so3(T[:3, :3] @ t[:3, :3].T)] for t, T in pairs])
    named: dict[str, float] = {}
    for what, values in (("error", away), ("jitter", np.diff(away, axis=0))):
        rms = [float(np.sqrt(np.square(values[:, k]).sum(1).mean())) for k in (slice(3), slice(3, 6))]
        named |= {f"{what}_mm": round(1e3 * rms[0], 2), f"{what}_deg": round(float(np.degrees(rms[1])), 2)}
    return {**named, "delay_ms": round(1e3 * _delay(np.array(poses), np.array(truth), rate))}


def _delay(poses: Array, truth: Array, rate: float) -> float:
    """Seconds by which the true positions, set back, are nearest to those of the poses."""
    times = np.arange(len(truth)) / rate
    misses = {}
    for delay in np.linspace(-0.05, 0.2, 126):
        inside = (times - delay >= 0) & (times - delay <= times[-1])
        then = np.stack([np.interp(times[inside] - delay, times, truth[:, k, 3]) for k in range(3)], -1)
        misses[float(delay)] = float(np.square(poses[inside, :3, 3] - then).sum(1).mean())
    return min(misses, key=lambda d: misses[d])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--views", type=int, default=4)
    parser.add_argument("--rate", type=float, default=30.0, help="images a second (default: %(default)s)")
    arguments = parser.parse_args()
    truth, found = estimates(arguments.views)
    told = {"as estimated": figures([x.T_camera_object for x in found], truth, arguments.rate)}
    for accelerations in ACCELERATIONS:
        f = PoseFilter(*accelerations)
        filtered = [f.update(x.T_camera_object, x.covariance, k / arguments.rate) for k, x in enumerate(found)]
        told[f"{accelerations[0]:g} m/s², {accelerations[1]:g} rad/s²"] = figures(filtered, truth, arguments.rate)
    what = {"frames": len(truth), "views": arguments.views, "rate": arguments.rate}
    print(json.dumps({"hardware": hardware(), **what, "filter": told}, indent=2, ensure_ascii=False))


if __name__ == "__main__":
    main()
