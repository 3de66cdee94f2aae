"""Refine the poses in a BOP result file, and print the scores before and after.

python benchmarks/refinement.py $FM_POSE_DATA/lmo RESULTS.csv --calibrate config/labels/lmo \\
  --calibration-frames 110-277,589-856,1144-1212 --frames 3-107,1012-1131 \\
  --labels $FM_POSE_DATA/lmo/label_consensus/scene_gt.json

By edges and colours in the images, whose worth (size of the object, scale) is measured on labelled images (--calibrate,
--calibration-frames) that are not scored. The results say nothing of their covariance, so all poses have the same:
--across, --along, --turn. Or, with --features, by the network that compares features. With --support, also by the plane
on which the objects of an image stand, before and after.
"""

import argparse
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from hardware import hardware
from threadpoolctl import threadpool_limits

from fm_pose_core.errors import expect
from fm_pose_core.files import Frames, read_image, write_atomically
from fm_pose_core.geometry import Array, apply, box_corners
from fm_pose_core.objects.bop import MM, BopDataset, Instance, Result, key, read_results
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.objects.edges import EdgeNoise, EdgeRefiner, about, measure_edges
from fm_pose_core.objects.evaluation import Evaluation, against, evaluate_results
from fm_pose_core.objects.overlay import BLUE, GREEN, closeup, draw_contour
from fm_pose_core.objects.refine import Look, Refiner, Solution
from fm_pose_core.objects.support import Stance, Standable, alike, supported
from fm_pose_core.rendering.mesh import Mesh, load_mesh
from fm_pose_core.types import Camera


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("root", type=Path, help="a dataset in BOP format")
    p.add_argument("results", type=Path, help="BOP result file")
    p.add_argument("--split", default="test")
    p.add_argument("--frames", help="images that are scored (default: all)")
    p.add_argument("--calibrate", type=Path, help="labels, as of fm-pose relabel (default: the dataset's)")
    p.add_argument("--calibration-frames", default="", help="images that tell what the edges are worth")
    p.add_argument("--labels", type=Path, action="append", default=[], help="also score against these")
    p.add_argument("--across", type=float, default=0.004, help="of the results: deviation across the sight, metres")
    p.add_argument("--along", type=float, default=0.03, help="likewise along it, share of the distance")
    p.add_argument("--turn", type=float, default=3.0, help="likewise of the rotation, degrees")
    p.add_argument("--features", type=Path, metavar="RUN_DIR", help="refine by the part `refiner` of this run instead")
    text = "a bundle that knows how the objects stand on a plane: their poses are made better by it, too"
    p.add_argument("--support", type=Path, metavar="BUNDLE", help=text)
    p.add_argument("--times", type=int, default=2, help="looks of --features")
    p.add_argument("--picture", type=Path, help="draw the model's outline before and after, for the poses of --show")
    p.add_argument("--show", nargs="+", default=[], metavar="IMAGE:OBJECT")
    args = p.parse_args()
    expect(args.times >= 1, "--times", "at least 1", args.times)
    expect(bool(args.features or args.calibration_frames), "--calibration-frames", "images, or --features", "none")
    dataset = BopDataset(args.root)
    frames = Frames.parse(args.frames) if args.frames else None
    before = read_results(args.results)
    with threadpool_limits(1):
        noise = {} if args.features else calibrate(args)
        refiners = by_features(args, dataset) if args.features else by_edges(args, dataset, noise)
        after, milliseconds = refine(args, dataset, before, refiners)
    tables = {}
    for name, results in (("before", before), ("after", after)):
        evaluation = evaluate_results(dataset, args.split, results, frames=frames)
        tables[name] = {"dataset": summary(evaluation)}
        for labels in args.labels:
            tables[name][str(labels)] = summary(against(evaluation, dataset, labels))
    if args.picture:
        draw(args, dataset, before, after)
    worth = {k: vars(v) for k, v in noise.items()}
    print(json.dumps({**hardware(), "median_ms": milliseconds, "worth": worth, **tables}, indent=1))


def calibrate(args: argparse.Namespace) -> dict[int, EdgeNoise]:
    """What the edges of each object are worth."""
    dataset = BopDataset(args.root, args.calibrate)
    instances = dataset.instances(args.split)
    chosen = Frames.parse(args.calibration_frames).of({(x.scene_id, x.im_id) for x in instances})
    own = defaultdict(list)
    for x in instances:
        if (x.scene_id, x.im_id) in chosen:
            own[x.object_id].append(x)
    return {k: measure_edges(*thing(dataset, k), xs) for k, xs in sorted(own.items())}


def thing(dataset: BopDataset, object_id: int) -> tuple[Mesh, Array, float]:
    """Mesh, box corners and diameter of an object."""
    model = dataset.model(object_id)
    mesh = load_mesh(model.mesh_path, MM).simplified(5000)
    return mesh, box_corners(model.minimum, model.maximum), model.diameter


Refined = Callable[[np.ndarray, Instance, Solution], Solution]  # image, its camera, pose -> pose


def by_edges(args: argparse.Namespace, dataset: BopDataset, noise: dict[int, EdgeNoise]) -> dict[int, Refined]:
    """For each object."""
    return {
        k: partial(refined, EdgeRefiner(*thing(dataset, k), worth, dataset.model(k).symmetries))
        for k, worth in noise.items()
    }


def by_features(args: argparse.Namespace, dataset: BopDataset) -> dict[int, Refined]:
    """For each object that the run knows."""
    import torch

    from fm_pose_core.learning.export import fused_of
    from fm_pose_core.objects.comparison.refiner import FeatureRefiner
    from fm_pose_core.objects.experiment import ObjectExperiment
    from fm_pose_core.tasks import load_experiment

    torch.set_num_threads(1)
    experiment = load_experiment(args.features / "config.yaml")
    expect(isinstance(experiment, ObjectExperiment), str(args.features), "a run for objects", "one for hands")
    assert isinstance(experiment, ObjectExperiment)
    network = fused_of(args.features / "refiner", experiment.parts()["refiner"])
    found: dict[int, Refined] = {}
    for k in (x.id for x in experiment.objects):
        mesh, box, diameter = thing(dataset, k)
        refiner = FeatureRefiner(network.infer, mesh, box, *experiment.windows(diameter), args.times)
        found[k] = partial(refined, refiner)
    return found


def refined(refiner: Refiner, image: np.ndarray, shown: Instance, solution: Solution) -> Solution:
    """By one refiner."""
    return refiner.refine(Look(image[None], shown.camera, np.eye(3), lambda: image), solution)


def prior(args: argparse.Namespace, box: np.ndarray, T: np.ndarray) -> Solution:
    """A pose with the deviations that all of them have."""
    covariance = about(T, box.mean(0), args.across, args.along, np.radians(args.turn))
    return Solution(T, np.zeros((8, 2)), 0.0, covariance, 0.0)


def refine(
    args: argparse.Namespace, dataset: BopDataset, results: list[Result], refiners: dict[int, Refined]
) -> tuple[list[Result], float]:
    """The results, refined, and the median time of one by the refiner."""
    cameras = {key(x)[:2]: x for x in dataset.instances(args.split)}
    boxes = {k: thing(dataset, k)[1] for k in refiners}
    ways = stances(args.support, dataset) if args.support else {}
    images: dict[tuple[int, int], list[Result]] = defaultdict(list)
    after: list[Result] = []
    seconds: list[float] = []
    for r in results:
        where = r.scene_id, r.im_id
        (images[where] if where in cameras and r.object_id in refiners else after).append(r)
    for where, own in images.items():
        shown, ids = cameras[where], [r.object_id for r in own]
        image = read_image(shown.image_path)

        def on_plane(found: list[Solution], ids: list[int] = ids, camera: Camera = shown.camera) -> list[Solution]:
            return supported(found, [Standable(str(k), boxes[k], ways.get(k, [])) for k in ids], camera)

        found = [prior(args, boxes[r.object_id], r.T_camera_object) for r in own]
        starts = [replace(x, T_camera_object=y.T_camera_object) for x, y in zip(found, on_plane(found), strict=True)]
        for i, (k, solution) in enumerate(zip(ids, starts, strict=True)):
            start = time.perf_counter()
            end = refiners[k](image, shown, solution)
            found[i] = found[i] if end is solution else end
            seconds.append(time.perf_counter() - start)
        poses = [x.T_camera_object for x in on_plane(found)]
        after += [replace(r, T_camera_object=T) for r, T in zip(own, poses, strict=True)]
    return after, 1e3 * float(np.median(seconds))


def stances(bundle: Path, dataset: BopDataset) -> dict[int, list[Stance]]:
    """How the objects stand, as a bundle knows it."""
    known = ObjectBundle.load(bundle).objects
    return {x.object_id: alike(x.entry.stances, dataset.model(x.object_id).symmetries) for x in known}


def draw(args: argparse.Namespace, dataset: BopDataset, before: list[Result], after: list[Result]) -> None:
    """A column for each pose to show: before (green), and below it after (blue)."""
    columns = []
    for image, object_id in (map(int, text.split(":")) for text in args.show):
        pair = [r for x in (before, after) for r in x if (r.im_id, r.object_id) == (image, object_id)]
        wanted = "an image and an object that the results have, once"
        expect(len(pair) == 2, "--show", wanted, f"{image}:{object_id}")
        x = next(x for x in dataset.instances(args.split) if key(x)[:2] == key(pair[0])[:2])
        mesh, box, _ = thing(dataset, object_id)
        around = np.vstack([x.camera.pixels(apply(r.T_camera_object, box)) for r in pair])
        view, camera = closeup(read_image(x.image_path), x.camera, around, 260)
        colours = zip(pair, (GREEN, BLUE), strict=True)
        shown = [draw_contour(view, camera, r.T_camera_object, mesh.vertices, mesh.faces, c) for r, c in colours]
        columns.append(np.vstack(shown))
    ok, jpeg = cv2.imencode(args.picture.suffix, np.hstack(columns)[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    assert ok
    write_atomically(args.picture, jpeg.tobytes())


def summary(evaluation: Evaluation) -> dict[str, list[float]]:
    """Of each object and in the mean: 2D projection, ADD(-S), 5 cm 5°, percent."""
    rows = {**{str(k): v for k, v in evaluation.objects.items()}, "mean": evaluation.mean}
    return {k: [round(100 * x, 1) for x in (v.projection, v.add, v.cm_deg)] for k, v in rows.items()}


if __name__ == "__main__":
    main()
