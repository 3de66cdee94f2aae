"""Time per stage for whole photographs with several objects, as JSON with the hardware named.

    python benchmarks/scene.py models/lmo demo/scene [--frames 3,17] [--threads 2] [--views 1] [--refine none edges]

The bundle's own detector finds the objects; all windows go through the network in one batch, and then those of the
second look; PnP; refinement; the plane on which objects stand. `other` is what cuts windows, decodes and solves.
Milliseconds of an image.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from hardware import hardware

from fm_pose_core import EstimatorConfig, PoseEstimator
from fm_pose_core.errors import expect
from fm_pose_core.files import Frames, read_image
from fm_pose_core.objects import estimator as estimators
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.objects.comparison.refiner import FeatureRefiner
from fm_pose_core.objects.detection.detector import Detector
from fm_pose_core.objects.edges import EdgeRefiner

WARM_UP = 3  # images


class Clock:
    """Adds up the seconds of calls, by the name of their stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def timed(self, stage: str, call: Callable[..., Any]) -> Callable[..., Any]:
        """The call, with its time taken."""

        def timing(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                self.seconds[stage] += time.perf_counter() - start

        return timing


STAGES: dict[str, list[tuple[Any, str]]] = {
    "detector": [(Detector, "detect")],
    "refinement": [(EdgeRefiner, "refine"), (FeatureRefiner, "refine")],
    "plane": [(estimators, "supported")],
}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("bundle", type=Path)
    p.add_argument("root", type=Path, help="dataset in BOP format")
    p.add_argument("--split", default="test")
    p.add_argument("--frames")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--views", type=int, default=1)
    p.add_argument("--refine", nargs="+", default=["none", "auto"])
    p.add_argument("--rounds", type=int, default=3, help="times that each image is looked at")
    args = p.parse_args()
    expect(args.rounds > 0, "--rounds", "at least 1", args.rounds)
    shown = {(x.scene_id, x.im_id): x for x in BopDataset(args.root).instances(args.split)}
    chosen = Frames.parse(args.frames).of(shown) if args.frames else set(shown)
    images = [(read_image(x.image_path), x.camera) for k, x in shown.items() if k in chosen]
    expect(bool(images), str(args.root), "images", "none")
    clock, config = Clock(), EstimatorConfig(views=args.views, threads=args.threads)
    for stage, methods in STAGES.items():
        for owner, name in methods:
            setattr(owner, name, clock.timed(stage, getattr(owner, name)))
    configs = {refine: replace(config, refine=refine) for refine in args.refine}
    rows = {refine: measure(clock, args.bundle, c, images, args.rounds) for refine, c in configs.items()}
    machine = hardware(views=args.views, threads=args.threads)
    print(json.dumps({**machine, "images": len(images), "refine": rows}, indent=1))


def measure(clock: Clock, bundle: Path, config: EstimatorConfig, images: list, rounds: int) -> dict[str, Any]:
    """Medians over the images."""
    estimator = PoseEstimator.load(bundle, config)
    estimator.backend.infer = clock.timed("network", estimator.backend.infer)  # type: ignore[method-assign]
    totals, stages, found = [], defaultdict(list), []
    for i, (image, camera) in enumerate(images[:WARM_UP] + images * rounds):
        clock.seconds.clear()
        start = time.perf_counter()
        poses = estimator.find(image, camera)
        total = time.perf_counter() - start
        if i < WARM_UP:
            continue
        totals.append(total)
        found.append(len(poses))
        for name in (*STAGES, "network"):
            stages[name].append(clock.seconds[name])
        stages["other"].append(total - sum(clock.seconds.values()))
    medians = {name: round(1e3 * float(np.median(values)), 1) for name, values in stages.items()}
    whole = round(1e3 * float(np.median(totals)), 1)
    return {"windows": float(np.mean(found)), **medians, "image": whole, "images_per_second": round(1e3 / whole, 1)}


if __name__ == "__main__":
    main()
