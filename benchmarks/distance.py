"""How far away a network has objects that are hidden in part: each stage's error of the distance, by how much of the
object is visible, and what taking the corners apart (pnp.widened) and a factor of the distance's own are worth. Prints
JSON with the hardware named.

    python benchmarks/distance.py models/lmo $FM_POSE_DATA/lmo --frames 474-575 --labels LABELS [--markdown]

The windows are those of the bundle's own detector; poses are not refined. LABELS: as `fm-pose evaluate bop --labels`.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
from hardware import hardware

from fm_pose_core import EstimatorConfig, PoseEstimator
from fm_pose_core.files import Frames, read_image
from fm_pose_core.geometry import Array, apply, transform
from fm_pose_core.objects.bop import BopDataset, Instance, relabelled
from fm_pose_core.objects.evaluation import model_vertices
from fm_pose_core.objects.metrics import pose_errors
from fm_pose_core.objects.pnp import PnpSolution, solve_pnp, widened
from fm_pose_core.objects.solver import ObjectSolver, Sight, see, see_again
from fm_pose_core.types import Window

VISIBLE = (0.1, 0.4, 0.6, 0.8, 1.0)
STAGES = ("detector", "corners", "corners taken apart", "network's own", "pose")
# Whether corners are taken apart; whether the distance has a factor of its own.
WAYS = {"neither": (False, False), "corners taken apart": (True, False), "and the distance's own factor": (True, True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("root", type=Path, help="a dataset in BOP format")
    parser.add_argument("--split", default="test", help="(default: %(default)s)")
    parser.add_argument("--frames", required=True, help="as of `fm-pose evaluate bop`")
    parser.add_argument("--labels", type=Path, help="in place of the dataset's")
    parser.add_argument("--markdown", action="store_true", help="print tables in place of JSON")
    args = parser.parse_args()
    dataset = BopDataset(args.root)
    given = dataset.instances(args.split)
    chosen = Frames.parse(args.frames).of({(x.scene_id, x.im_id) for x in given})
    targets = [x for x in given if (x.scene_id, x.im_id) in chosen]
    targets = relabelled(targets, args.labels) if args.labels else targets
    estimator = PoseEstimator.load(args.bundle, EstimatorConfig(refine="none"))
    errors: dict[str, list[list[float]]] = defaultdict(list)  # by visible fraction
    right: dict[str, dict[int, list[list[bool]]]] = {way: defaultdict(list) for way in WAYS}  # by object
    for x, sights, told in seen(estimator, targets):
        stages = distances(estimator, sights[0], told)
        center = apply(x.T_camera_object, sights[0].solver.box_corners.mean(0)[None])
        errors[bin_of(x.visible_fraction)].append([100.0 * (d / float(np.linalg.norm(center)) - 1.0) for d in stages])
        for way, options in WAYS.items():
            right[way][x.object_id].append(judge(dataset, x, sights, estimator, *options))
    report = {
        "targets": {k: len(v) for k, v in sorted(errors.items())},
        "distance_percent": {k: dict(zip(STAGES, medians(v), strict=True)) for k, v in sorted(errors.items())},
        "right_percent": {
            way: np.round(100 * np.mean([np.mean(v, 0) for v in of.values()], 0), 1).tolist()
            for way, of in right.items()
        },
        "hardware": hardware(),
    }
    print(markdown(report) if args.markdown else json.dumps(report, indent=1))


def seen(estimator: PoseEstimator, targets: list[Instance]) -> Iterator[tuple[Instance, tuple[Sight, ...], float]]:
    """The targets that the detector finds: what the network says of each, the best look first, and the detector's
    distance, metres."""
    for _, group in groupby(targets, key=lambda x: (x.scene_id, x.im_id)):
        own = list(group)
        image, camera = read_image(own[0].image_path), own[0].camera
        windows: dict[str, Window] = {}
        for found in estimator.detector.detect(image, camera, 0.02):
            windows.setdefault(found.window.object, found.window)
        for x in own:
            known = next((k for k in estimator.bundle.objects if k.object_id == x.object_id), None)
            if known is None or known.name not in windows or x.visible_fraction < VISIBLE[0]:
                continue
            window, views = windows[known.name], estimator.config.views
            plain = ObjectSolver(known.box_corners, known.crop, known.index, views, known.entry.fill)
            solver = plain.for_distance(window.distance)
            first = see(estimator.backend.infer, [(solver, solver.look(image, camera, window))])
            yield x, see_again(estimator.backend.infer, first, estimator.bundle.spread_scale)[0], window.distance


def solve(sight: Sight, estimator: PoseEstimator, apart: bool, own_factor: bool) -> PnpSolution:
    """ObjectSolver.pose, with or without two of its steps."""
    scale = estimator.bundle.spread_scale
    factor = estimator.bundle.distance_scale if own_factor else scale
    return replace(sight.solver, distance_scale=factor, widen=apart).pose(sight.answer, scale)


def distances(estimator: PoseEstimator, sight: Sight, told: float) -> list[float]:
    """Metres, of STAGES."""
    scale, answer, box = estimator.bundle.spread_scale, sight.answer, sight.solver.box_corners
    K, deviation = sight.solver.crop.K, answer.deviation
    ways = [answer.corners, widened(answer.corners, scale * deviation)]
    plain, apart = (solve_pnp(box, c, K, deviation, spread_scale=scale) for c in ways)
    pose = solve(sight, estimator, True, True)
    own = answer.distance[0] if answer.distance else float("nan")
    return [told or float("nan"), away(plain, box), away(apart, box), own, away(pose, box)]


def away(found: PnpSolution, box: Array) -> float:
    return float(np.linalg.norm(apply(found.T_camera_object, box.mean(0)[None]))) if found.accepted else float("nan")


def judge(
    dataset: BopDataset, x: Instance, sights: tuple[Sight, ...], estimator: PoseEstimator, apart: bool, own: bool
) -> list[bool]:
    """2D projection, ADD(-S), 5 cm 5°."""
    solved = [(sight, solve(sight, estimator, apart, own)) for sight in sights]
    sight, found = next((pair for pair in solved if pair[1].accepted), solved[-1])
    T, model = transform(sight.look.R_camera_window, np.zeros(3)) @ found.T_camera_object, dataset.model(x.object_id)
    e = pose_errors(T, x.T_camera_object, model_vertices(model), model.diameter, x.camera, model.symmetries)
    return [found.accepted and ok for ok in (e.projection_correct, e.add_correct, e.within_5cm_5deg)]


def bin_of(fraction: float) -> str:
    low, high = next(pair for pair in pairwise(VISIBLE) if fraction <= pair[1])
    return f"{100 * low:.0f}–{100 * high:.0f} %"


def medians(rows: list[list[float]]) -> list[float]:
    return [round(float(v), 1) for v in np.nanmedian(rows, axis=0)]


def markdown(report: dict) -> str:
    lines = ["| visible | targets | " + " | ".join(STAGES) + " |", "|---" * (len(STAGES) + 2) + "|"]
    for k, row in report["distance_percent"].items():
        lines.append(f"| {k} | {report['targets'][k]} | " + " | ".join(f"{row[s]:+.1f}" for s in STAGES) + " |")
    lines += ["", "| | 2D projection, ADD(-S), 5 cm 5° |", "|---|---|"]
    lines += [f"| {way} | {', '.join(f'{v:.1f}' for v in row)} |" for way, row in report["right_percent"].items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
