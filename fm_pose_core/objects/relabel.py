"""Labels of objects that stand still, corrected from the images.

People label such objects once for an arrangement, and the error of that label is then the same in all of its images.
Here one place of the object is estimated from all images of an arrangement together: networks that never saw the labels
predict the corners of its box in each image, and one rigid transform must explain them all, robustly. The camera's
motion comes from the labels (arrangements.py), in which such errors cancel.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import least_squares
from tqdm import tqdm

from fm_pose_core.errors import expect
from fm_pose_core.files import read_image, write_atomically
from fm_pose_core.geometry import Array, apply, box_corners, exp_so3, inverse, log_so3, transform
from fm_pose_core.objects.arrangements import Arrangement, find_arrangements
from fm_pose_core.objects.bop import MM, BopDataset, Instance
from fm_pose_core.objects.evaluation import Estimator
from fm_pose_core.objects.pnp import expected_projection_error
from fm_pose_core.objects.windows import true_windows
from fm_pose_core.types import Camera

FEWEST = 4  # images; fewer say too little about an error that they share
FOLDS = 4  # parts of the images, each left out once, to see how far the answer depends on it
SAME_VIEW = np.radians(15.0)  # a network errs alike in images from directions that are nearer than this
SURE = (np.radians(3.0), 0.015)  # radians, metres: standard deviations beyond which a correction is refused
VISIBLE = 0.4  # what shows less of the object is no observation
BEST = 2.0  # pixels: no prediction is taken for better than this
NEAR = 0.05  # metres: what is nearer to the camera counts as there


@dataclass(frozen=True)
class Observation:
    """What a network says of one image. corners (8, 2): of the box, image pixels. deviation: the error to expect,
    pixels."""

    camera: Camera
    corners: Array
    deviation: float


@dataclass(frozen=True)
class Correction:
    """Of one arrangement. T_world_object (4, 4): where the object is to be; the label's place where the correction is
    refused. angle, distance: between the label's and the estimated place, radians and metres; sigma_angle,
    sigma_distance: their standard deviations, see `_uncertainty`. before, after: distance of
    the predicted corners from the label's and from the estimated ones, pixels, median over the images. reason: why it
    is refused, or empty."""

    arrangement: Arrangement
    T_world_object: Array
    angle: float
    distance: float
    sigma_angle: float
    sigma_distance: float
    before: float
    after: float
    reason: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the label is to be replaced."""
        return not self.reason

    def to_json(self) -> dict[str, Any]:
        """Plain values, degrees and millimetres."""
        a = self.arrangement
        return {
            "scene_id": a.scene_id,
            "obj_id": a.object_id,
            "images": a.images,
            "accepted": self.accepted,
            "reason": self.reason,
            "rotation_deg": _finite(np.degrees(self.angle)),
            "rotation_sigma_deg": _finite(np.degrees(self.sigma_angle)),
            "translation_mm": _finite(self.distance / MM),
            "translation_sigma_mm": _finite(self.sigma_distance / MM),
            "corners_before_px": _finite(self.before),
            "corners_after_px": _finite(self.after),
        }


def relabel(
    dataset: BopDataset, instances: Sequence[Instance], estimators: Mapping[int, Estimator], show_progress: bool = False
) -> list[Correction]:
    """Corrections for the objects that `estimators` (by object id) know, one for each of their arrangements.

    instances: all of a split, because the labels of all objects tell how the camera moved. Raises InputError where none
    of them is to be corrected, and for an image that can't be read.
    """
    chosen = [x for x in instances if x.object_id in estimators and not x.visible_fraction < VISIBLE]
    expect(bool(chosen), str(dataset.root), "images that show the bundles' objects", "none")
    seen = observe(dataset, chosen, estimators, show_progress)
    corrections = []
    for a in find_arrangements(instances):
        if a.object_id in estimators:
            model = dataset.model(a.object_id)
            box = box_corners(model.minimum, model.maximum)
            corrections.append(correct(a, seen[a.scene_id, a.object_id], box, model.symmetries))
    return corrections


def observe(
    dataset: BopDataset, instances: Sequence[Instance], estimators: Mapping[int, Estimator], show_progress: bool = False
) -> dict[tuple[int, int], dict[int, Observation]]:
    """What the estimators say, by (scene, object) and image; each looks where the label has the object."""
    seen: dict[tuple[int, int], dict[int, Observation]] = defaultdict(dict)
    windows = true_windows(dataset, instances)
    for x, window in tqdm(zip(instances, windows, strict=True), "relabel", len(instances), disable=not show_progress):
        if window is None:
            continue
        pose = estimators[x.object_id].estimate(read_image(x.image_path), x.camera, window)
        if np.isfinite(pose.reprojection_error):
            model = dataset.model(x.object_id)
            box = box_corners(model.minimum, model.maximum)
            expected = expected_projection_error(pose.T_camera_object, pose.covariance, box, x.camera.K)
            seen[x.scene_id, x.object_id][x.im_id] = Observation(x.camera, pose.corners, max(BEST, expected))
    return seen


def correct(
    arrangement: Arrangement, observations: Mapping[int, Observation], box: Array, symmetries: Sequence[Array] = ()
) -> Correction:
    """Where the object stands in an arrangement.

    observations: by image; those of other images do not count. box (8, 3): its corners, metres. symmetries (4, 4) each,
    without the identity. The label stays where the evidence is weak (few images, or images that disagree), and where it
    agrees with the images.
    """
    pairs = zip(arrangement.images, arrangement.T_camera_world, strict=True)
    seen = [(T, observations[image]) for image, T in pairs if image in observations]
    label, nan = arrangement.T_world_object, float("nan")
    if len(seen) < FEWEST:
        reason = f"{len(seen)} images show it, {FEWEST} are needed"
        return Correction(arrangement, label, nan, nan, nan, nan, nan, nan, reason)
    everything = _Place(seen, box, symmetries)
    found, J = everything.solve(label)
    parts = [_Place(_without(seen, fold), box, symmetries).solve(found)[0] for fold in range(FOLDS)]
    sigma = _uncertainty(found, parts, J, [s[0] @ found for s in seen])
    sigmas = float(np.linalg.norm(sigma[3:])), float(np.linalg.norm(sigma[:3]))
    error = _difference(found, label)
    sizes = float(np.linalg.norm(error[3:])), float(np.linalg.norm(error[:3]))
    reason = ""
    if sigmas[0] > SURE[0] or sigmas[1] > SURE[1]:
        reason = f"the images disagree: ± {np.degrees(sigmas[0]):.1f}°, ± {sigmas[1] / MM:.0f} mm"
    elif sizes[0] < 2 * sigmas[0] and sizes[1] < 2 * sigmas[1]:
        reason = "the label agrees with the images"
    distances = everything.distance(label), everything.distance(found)
    return Correction(arrangement, label if reason else found, *sizes, *sigmas, *distances, reason)


def corrected(instances: Sequence[Instance], corrections: Sequence[Correction]) -> list[Instance]:
    """The instances, with the poses that accepted corrections give them."""
    poses = {}
    for c in corrections:
        if c.accepted:
            a = c.arrangement
            for image, T_camera_world in zip(a.images, a.T_camera_world, strict=True):
                poses[a.scene_id, image, a.object_id] = T_camera_world @ c.T_world_object
    keys = [(x.scene_id, x.im_id, x.object_id) for x in instances]
    return [replace(x, T_camera_object=poses[k]) if k in poses else x for x, k in zip(instances, keys, strict=True)]


def write_labels(output: str | Path, instances: Sequence[Instance]) -> None:
    """`output`/SCENE/scene_gt.json for each scene, as `bop.relabelled` reads them; millimetres."""
    scenes: dict[int, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for x in instances:
        T = x.T_camera_object
        pose = {"cam_R_m2c": T[:3, :3].ravel().tolist(), "cam_t_m2c": (T[:3, 3] / MM).tolist()}
        scenes[x.scene_id][str(x.im_id)].append({**pose, "obj_id": x.object_id})
    for scene_id, truths in scenes.items():
        path = Path(output) / f"{scene_id:06d}" / "scene_gt.json"
        write_atomically(path, (json.dumps(truths, indent=1) + "\n").encode())


Seen = tuple[Array, Observation]  # T_camera_world, and what was seen from there


class _Place:
    """One place of an object, seen from many."""

    def __init__(self, seen: Sequence[Seen], box: Array, symmetries: Sequence[Array]) -> None:
        self.seen, self.box = seen, box
        self.twins = [np.eye(4), *symmetries]

    def solve(self, start: Array) -> tuple[Array, Array]:
        """T_world_object (4, 4) with the smallest robust sum of the corners' distances, from `start` on, and the
        Jacobian (N, R, 6) of its N images' R residuals in metres and radians of the object's frame."""
        T, J = start, np.empty((0, 6))
        for _ in range(3):  # which of the equivalent poses an image shows depends on the place
            twins = [self._twin(T, s) for s in self.seen]

            def residuals(x: Array, T: Array = T, twins: list[Array] = twins) -> Array:
                moved = T @ _moved(x)
                return np.concatenate([self._residual(moved @ S, s) for S, s in zip(twins, self.seen, strict=True)])

            found = least_squares(residuals, np.zeros(6), loss="soft_l1", x_scale=[0.01] * 3 + [0.1] * 3)
            T, J = T @ _moved(found.x), found.jac
        return T, J.reshape(len(self.seen), -1, 6)

    def distance(self, T: Array) -> float:
        """Median over the images of the corners' mean distance, pixels."""
        pixels = [self._pixels(T @ self._twin(T, s), s) for s in self.seen]
        each = [np.linalg.norm(p - s[1].corners, axis=1).mean() for p, s in zip(pixels, self.seen, strict=True)]
        return float(np.median(each))

    def _twin(self, T: Array, s: Seen) -> Array:
        return min(self.twins, key=lambda S: float(np.square(self._residual(T @ S, s)).sum()))

    def _residual(self, T: Array, s: Seen) -> Array:
        """The corners of an image hang together: all of them count as one observation of two coordinates."""
        away = (self._pixels(T, s) - s[1].corners) / s[1].deviation
        return away.ravel() / np.sqrt(len(self.box))

    def _pixels(self, T: Array, s: Seen) -> Array:
        points = apply(s[0] @ T, self.box)
        points[:, 2] = np.maximum(points[:, 2], NEAR)
        return s[1].camera.pixels(points)


def _uncertainty(found: Array, parts: Sequence[Array], J: Array, T_camera_object: Sequence[Array]) -> Array:
    """Standard deviations (6,) in the object's frame, metres and radians: the larger of two.

    What the answer loses when a part of the images is left out (jackknife), and what the network's own expectation of
    its errors amounts to, if images from the same direction count as one: its error in them is the same, and more of
    them don't make it smaller."""
    away = np.array([_difference(found, part) for part in parts])  # (FOLDS, 6)
    jackknife = (FOLDS - 1) / FOLDS * np.square(away - away.mean(0)).sum(0)
    directions = np.array([-T[:3, :3].T @ T[:3, 3] for T in T_camera_object])  # of the camera from the object
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    alike = (directions @ directions.T > np.cos(SAME_VIEW)).sum(1)  # (N,)
    information = np.einsum("nri,nrj,n->ij", J, J, 1 / alike)
    expected = np.diag(np.linalg.pinv(information, hermitian=True))
    return np.asarray(np.sqrt(np.maximum(jackknife, expected)))


def _without(seen: Sequence[Seen], fold: int) -> list[Seen]:
    """Without one stretch of the images: neighbours err alike."""
    length = len(seen)
    return [s for k, s in enumerate(seen) if k * FOLDS // length != fold]


def _moved(x: Array) -> Array:
    return transform(exp_so3(x[3:]), x[:3])


def _difference(A: Array, B: Array) -> Array:
    """(6,) metres and radians, in the frame of A's object."""
    D = inverse(A) @ B
    return np.concatenate([D[:3, 3], log_so3(D[:3, :3])])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
