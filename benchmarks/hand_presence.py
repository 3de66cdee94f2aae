"""How well the network tells hands from depth maps without one: walls, floors, boxes, steps, noise. Prints JSON: the
share that is accepted at some `min_presence` (and the default `min_score`), of the maps without a hand and of frames
with one, by default those of the demo, whose hands were not trained with. The maps are not made as the training's are
(fm_pose_core/hands/absent.py).

    python benchmarks/hand_presence.py [--bundle models/hand] [--count 1000] [--seed 0] [--hands DIR]
"""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
from hardware import hardware
from numpy.typing import NDArray
from tqdm import tqdm

from fm_pose_core.config import HandEstimatorConfig
from fm_pose_core.hands.estimator import HandEstimator
from fm_pose_core.hands.frames import read_frames
from fm_pose_core.types import Camera

ROOT = Path(__file__).resolve().parents[1]
LEVELS = (0.0, 0.5, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995)
CAMERA = Camera(np.array([[476.0, 0, 320.0], [0, 476.0, 240.0], [0, 0, 1]]), 640, 480)
Depth = NDArray[np.float32]


def without_hand(rng: np.random.Generator) -> Depth:
    """A depth map (480, 640), metres, of a room in which nobody is."""
    v, u = np.mgrid[:480, :640].astype(np.float32)
    x, y = (u - 320) / 476, (v - 240) / 476
    a, b = rng.uniform(-0.7, 0.7, 2)
    depth = rng.uniform(0.3, 1.6) / np.maximum(0.2, 1 - a * x - b * y)  # a plane
    for _ in range(int(rng.integers(0, 5))):  # things before it
        centre, size = rng.uniform((0, 0), (640, 480)), rng.uniform(15, 160, 2)
        shape = np.zeros((480, 640), np.uint8)
        if rng.uniform() < 0.5:
            corners = cv2.boxPoints((centre, size, float(rng.uniform(0, 90))))
            cv2.fillConvexPoly(shape, corners.astype(np.int32), 1)
        else:
            cv2.ellipse(shape, (centre, 2 * size, float(rng.uniform(0, 90))), 1, -1)
        bulge = rng.uniform(0, 0.05) * np.cos((u - centre[0]) / 40) * np.cos((v - centre[1]) / 40)
        depth = np.where(shape > 0, rng.uniform(0.2, 1.3) + bulge + rng.uniform(-0.3, 0.3) * x, depth)
    noise = rng.normal(size=depth.shape) * rng.choice([0.0, 0.001, 0.005, 0.05])
    holes = rng.uniform(size=depth.shape) < rng.choice([0.0, 0.02, 0.3])
    return np.where(holes, 0.0, depth + noise).astype(np.float32)


def presences(estimator: HandEstimator, maps: list[Depth], camera: Camera) -> NDArray[np.float64]:
    """Of what is found in each and passes the other gates; -1 for nothing."""
    found = [estimator.estimate(depth, camera) for depth in tqdm(maps, disable=None)]
    return np.array([x.presence if x is not None and x.accepted else -1.0 for x in found])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=ROOT / "models/hand")
    parser.add_argument("--count", type=int, default=1000, help="of maps without a hand")
    parser.add_argument("--seed", type=int, default=0)
    text = "folder in NYU's layout, whose split test is taken (default: the demo's)"
    parser.add_argument("--hands", type=Path, default=ROOT / "demo/hands", help=text)
    arguments = parser.parse_args()
    frames = read_frames("nyu", arguments.hands, "test")
    hands = [frames.depth(k) for k in range(len(frames.paths))]
    empty = [without_hand(np.random.default_rng([arguments.seed, k])) for k in range(arguments.count)]
    estimator = HandEstimator.load(arguments.bundle, HandEstimatorConfig(min_presence=0.0))
    of_hands, of_others = presences(estimator, hands, frames.camera), presences(estimator, empty, CAMERA)
    kept = float(np.quantile(of_hands, 0.05))
    told = {
        "hands": len(hands),
        "without": len(empty),
        "accepted_where_95_percent_are_kept": (of_others >= kept).mean(),
    }
    share = {
        str(t): {"hands": float((of_hands >= t).mean()), "without": float((of_others >= t).mean())} for t in LEVELS
    }
    print(json.dumps({"hardware": hardware(), **told, "accepted": share}, indent=2))


if __name__ == "__main__":
    main()
