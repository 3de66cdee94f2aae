"""How well and how fast the hand model fits annotated joints: bone lengths of each person from some of the frames, then
the pose in every frame. JSON with the hardware named; --picture draws the model in some of the fitted poses.

    python benchmarks/fitting.py nyu_test_groundtruth_label.txt --people 0 2440 [--dataset nyu] [--picture hands.jpg]
"""

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from hardware import hardware

from fm_pose_core import __version__
from fm_pose_core.geometry import Array
from fm_pose_core.hands.experiment import JOINT_SET, SHAPE_FRAMES
from fm_pose_core.hands.labels import DATASETS, MM, read_labels
from fm_pose_core.hands.model.fitting import fit_poses, fit_shape
from fm_pose_core.hands.model.skeleton import Landmark, Skeleton, joint_sets, skeleton_bones

TILE, COLUMNS = 240, 6


def draw(
    skeleton: Skeleton, landmarks: tuple[Landmark, ...], poses: Array, joints: Array, bones: list[tuple[int, int]]
) -> list[Any]:
    """Tiles (TILE, TILE, 3): the skin in each pose, shaded as if a lamp stood at the camera; the annotated joints over
    it."""
    from fm_pose_core.hands.model.skin import build_skin, tips_of
    from fm_pose_core.rendering.renderer import DepthRenderer

    skin = build_skin(skeleton, tips=tips_of(landmarks))
    renderer = DepthRenderer(len(skin.vertices), skin.faces, TILE, TILE)
    tiles = []
    for pose, own in zip(poses, joints, strict=True):
        center = own.mean(0)
        f = TILE * center[2] / 0.26
        K = np.array(
            [[f, 0, TILE / 2 - f * center[0] / center[2]], [0, f, TILE / 2 - f * center[1] / center[2]], [0, 0, 1]]
        )
        depth = renderer.render(skin.posed(pose), K)
        seen = depth > 0
        smooth = cv2.GaussianBlur(np.where(seen, depth, depth.max()), (0, 0), 0.8)
        slope = np.hypot(*(g * f / np.maximum(smooth, 1e-3) for g in np.gradient(smooth)))
        shade = np.where(seen, 60 + 180 / np.sqrt(1 + slope**2), 255).astype(np.uint8)
        tile = cv2.cvtColor(shade, cv2.COLOR_GRAY2BGR)
        points = [tuple(int(x) for x in np.rint((K @ p)[:2] / p[2])) for p in own]
        for a, b in bones:
            cv2.line(tile, points[a], points[b], (200, 120, 30), 1, cv2.LINE_AA)
        for point in points:
            cv2.circle(tile, point, 3, (40, 40, 220), -1, cv2.LINE_AA)
        tiles.append(tile)
    renderer.close()
    return tiles


def summary(names: Sequence[str], residuals: Array, shaping: float, fitting: float) -> dict[str, object]:
    """residuals (N, J), metres; seconds for the bone lengths and for all poses."""

    def percentiles(values: Array, *shares: int) -> dict[str, float]:
        return {f"{p}%": round(float(np.percentile(values, p)) / MM, 2) for p in shares}

    medians = zip(names, np.median(residuals, 0), strict=True)
    mean = {"mean": round(float(residuals.mean()) / MM, 2)}
    return {
        "frames": len(residuals),
        "residual_mm": percentiles(residuals, 10, 25, 50, 75, 90, 95, 99) | mean,
        "mean_residual_of_a_frame_mm": percentiles(residuals.mean(1), 50, 90, 99, 100),
        "per_joint_median_mm": {n: round(float(m) / MM, 2) for n, m in medians},
        "seconds_for_the_bone_lengths": round(shaping, 2),
        "frames_per_second": round(len(residuals) / fitting),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("labels", type=Path, help="u v d of each joint, a frame per line")
    parser.add_argument("--dataset", default="nyu", choices=list(DATASETS))
    parser.add_argument(
        "--people",
        type=int,
        nargs="+",
        default=[0],
        help="frame, counted from 0, at which each person begins (default: %(default)s)",
    )
    parser.add_argument("--picture", type=Path, help="draw six frames of each person into this file")
    arguments = parser.parse_args()
    joints = read_labels(arguments.labels, DATASETS[arguments.dataset])[1]
    landmarks = joint_sets()[JOINT_SET[arguments.dataset]]
    names = [x.name for x in landmarks]
    bones = [(names.index(a), names.index(b)) for a, b in skeleton_bones(JOINT_SET[arguments.dataset])]
    people, tiles = [], []
    for begin, end in zip(arguments.people, [*arguments.people[1:], len(joints)], strict=True):
        own = joints[begin:end]
        started = time.perf_counter()
        skeleton, placed = fit_shape(Skeleton(), landmarks, own[:: max(1, len(own) // SHAPE_FRAMES)])
        shaped = time.perf_counter()
        fit = fit_poses(skeleton, placed, own)
        seconds = time.perf_counter() - shaped
        residuals = fit.residuals(own)
        people.append(summary(names, residuals, shaped - started, seconds))
        if arguments.picture:
            shown = np.linspace(0, len(own) - 1, COLUMNS + 2).astype(int)[1:-1]
            tiles.append(np.hstack(draw(skeleton, placed, fit.pose[shown], own[shown], bones)))
    if arguments.picture:
        cv2.imwrite(str(arguments.picture), np.vstack(tiles), [cv2.IMWRITE_JPEG_QUALITY, 88])
    print(json.dumps({"hardware": hardware(), "version": __version__, "people": people}, indent=2))


if __name__ == "__main__":
    main()
