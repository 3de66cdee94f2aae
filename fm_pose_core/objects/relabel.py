"""Labels of objects that stand still, corrected from the images.

People label such objects once for an arrangement, and the error of that label is then the same in all of its images.
Here one place of the object is found that explains the edges in all images of an arrangement together (alignment.py),
beginning at the label. The camera's motion comes from the labels of all objects (arrangements.py), in which such errors
cancel.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from fm_pose_core.errors import expect
from fm_pose_core.files import read_image, write_atomically
from fm_pose_core.geometry import Array, exp_so3, inverse, log_so3, transform
from fm_pose_core.objects.alignment import BLURS, Aligner, Fit, View
from fm_pose_core.objects.arrangements import Arrangement, apart, find_arrangements
from fm_pose_core.objects.bop import MM, BopDataset, Instance, key
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.photographs import occluding_depth, others_in_image
from fm_pose_core.rendering.mesh import load_mesh

VISIBLE = 0.3  # what shows less of the object says little of its place
MOST = 40  # images of an arrangement that are compared
MARGIN, LARGEST = 1.5, 256  # of the patch: share of the object's diameter; pixels
FACES = 15_000  # of the model: finer is not seen
FIRST_TURN = np.radians(10.0)  # from the label to the places where the search begins as well
COARSE, FINE = 6, 12  # images that are enough to search with
BEST = 4  # places of the coarse search that are followed
SAME = 0.02  # agreement: two places whose agreement differs by less explain the images alike
MERGE = 4.0  # deviations, by which two finds of one place may differ
OTHER = np.radians(4.0)  # two places of which one is turned by more are not the same
RIGHT = 2.0  # deviations, within which a label agrees with the images
SURE = (np.radians(2.5), 0.012)  # radians, metres: standard deviations beyond which a correction is refused
# Labels are rarely off by more than this: a place that is farther from the label by one such unit must agree better
# with the images, by so much (growing with the square).
USUAL, DOUBT = (np.radians(15.0), 0.015), 0.005
FAR = (np.radians(45.0), 0.5)  # radians, diameters: nobody labels so wrong; it is another object, or a mistake here
SIZE_KNOWN, SIZE_FAR = 0.01, 0.1  # standard deviation of a size that tells something; none is off by more
FITS = 0.35  # inliers: fewer, and it is not the model's edges that were found

Item = TypeVar("Item")


@dataclass(frozen=True)
class Correction:
    """Of one arrangement. T_world_object (4, 4): where the object is to be; the label's place where the correction is
    refused. angle, distance: between the label's and the found place, radians and metres (of the centre); sigma_angle,
    sigma_distance: their standard deviations. before, after: how well the model's edges agree with the images', from 0
    to 1, at the label's and at the found place. reason: why it is refused, or empty."""

    arrangement: Arrangement
    T_world_object: Array
    angle: float = float("nan")
    distance: float = float("nan")
    sigma_angle: float = float("nan")
    sigma_distance: float = float("nan")
    before: float = float("nan")
    after: float = float("nan")
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
            "agreement_before": _finite(self.before),
            "agreement_after": _finite(self.after),
        }


def relabel(
    dataset: BopDataset,
    instances: Sequence[Instance],
    object_ids: Sequence[int] = (),
    tell: Callable[[int], object] = lambda images: None,
) -> list[Correction]:
    """Corrections for all objects, or for those of `object_ids`, one for each of their arrangements.

    instances: all of the split, because the labels of all objects tell how the camera moved. tell: is called with the
    number of images that are done. Raises InputError for an image or a mesh that can't be read.
    """
    wanted = set(object_ids) or {x.object_id for x in instances}
    missing = wanted - {x.object_id for x in instances}
    expect(not missing, str(dataset.root), f"images of objects {sorted(wanted)}", f"none of {sorted(missing)}")
    arrangements = find_arrangements(instances)
    corrections = []
    with threadpool_limits(1):  # the matrices are small
        for object_id in sorted(wanted):
            own = _Object(dataset, instances, [a for a in arrangements if a.object_id == object_id])
            corrections += own.corrections(tell)
            own.close()
    return corrections


def corrected(instances: Sequence[Instance], corrections: Sequence[Correction]) -> list[Instance]:
    """The instances, with the poses that accepted corrections give them."""
    poses = {}
    for c in corrections:
        if c.accepted:
            a = c.arrangement
            for image, T_camera_world in zip(a.images, a.T_camera_world, strict=True):
                poses[a.scene_id, image, a.object_id] = T_camera_world @ c.T_world_object
    return [replace(x, T_camera_object=poses[key(x)]) if key(x) in poses else x for x in instances]


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


@dataclass(frozen=True)
class _Group:
    """Arrangements in which the object stands in the same place, by the images. fit: where. agreement: of the views
    with it. lead: by how much it is better than any other place."""

    arrangements: list[Arrangement]
    fit: Fit
    agreement: float
    lead: float


@dataclass(frozen=True)
class _Patch:
    """The surroundings of the object in an image, see `Aligner.patch`. front: see `View`."""

    pixels: NDArray[np.uint8]
    inside: NDArray[np.bool_]
    T_view_world: Array
    front: NDArray[np.float32]


class _Object:
    """All arrangements of one object. Places are of its centre here, as in `Aligner`."""

    def __init__(self, dataset: BopDataset, instances: Sequence[Instance], arrangements: Sequence[Arrangement]) -> None:
        self.model = dataset.model(arrangements[0].object_id)
        self.arrangements = arrangements
        self.instances = {key(x): x for x in instances if x.object_id == self.model.id}
        own = list(self.instances.values())
        nearest = float(np.quantile([x.T_camera_object[2, 3] for x in own], 0.05))
        native = MARGIN * self.model.diameter / nearest * max(x.camera.K[0, 0] for x in own)
        crop = Crop.around(self.model.diameter, nearest, MARGIN, int(np.clip(native, 64, LARGEST)))
        self.aligner = Aligner(load_mesh(self.model.mesh_path, MM).simplified(FACES), crop)
        self.to_center = transform(np.eye(3), self.aligner.center)
        self.patches = self._patches(dataset, instances)

    def close(self) -> None:
        self.aligner.close()

    def corrections(self, tell: Callable[[int], object]) -> list[Correction]:
        done, groups = self._groups(tell)
        self._measure(groups)
        for group in groups:
            views = self._views(group.arrangements)
            fit = self.aligner.refine(views, group.fit.T_world_center)
            if fit is not None:
                group = replace(group, fit=fit, agreement=self.aligner.agreement(views, fit.T_world_center))
            done += [self._decide(a, group) for a in group.arrangements]
        return sorted(done, key=lambda c: (c.arrangement.scene_id, c.arrangement.images))

    def _groups(self, tell: Callable[[int], object]) -> tuple[list[Correction], list[_Group]]:
        """What can't be corrected, and where the rest stands."""
        refused, groups = [], list[_Group]()
        for a in self.arrangements:
            views = self._views([a])
            group = self._search(a, views) if views else None
            if group is None:
                reason = "too few edges are found" if views else f"no image shows {100 * VISIBLE:.0f} % of it"
                refused.append(Correction(a, a.T_world_object, reason=reason))
            elif groups and (merged := self._merged(groups[-1], group)):
                groups[-1] = merged
            else:
                groups.append(group)
            tell(len(a.images))
        return refused, groups

    def _measure(self, groups: Sequence[_Group]) -> None:
        """Find out how large the object is, as a share of its model, from the groups that tell it apart from the
        distance; the others take it over."""
        found = []
        for group in groups:
            fit = self.aligner.refine(self._views(group.arrangements), group.fit.T_world_center, free_size=True)
            if fit is not None and fit.size_sigma < SIZE_KNOWN and abs(fit.size - 1.0) < SIZE_FAR:
                found.append((fit.size, fit.size_sigma))
        if found:
            sizes, sigmas = np.array(found).T
            weights = sigmas**-2 / (sigmas**-2).sum()
            mean = float(weights @ sizes)
            spread = float(weights @ np.square(sizes - mean)) / max(1, len(found) - 1)
            self.aligner.size = mean
            self.aligner.size_sigma = float(np.sqrt((weights**2) @ (sigmas**2) + spread))

    def _views(self, arrangements: Sequence[Arrangement]) -> list[View]:
        patches = [p for a in arrangements for p in self.patches[a.scene_id, a.images[0]]]
        return [self.aligner.view(p.pixels, p.inside, p.T_view_world, p.front) for p in _spread(patches, MOST)]

    def _patches(self, dataset: BopDataset, instances: Sequence[Instance]) -> dict[tuple[int, int], list[_Patch]]:
        """Of each arrangement, by its scene and first image."""
        shown: list[tuple[tuple[int, int], Array, Instance]] = []
        for a in self.arrangements:
            own = [self.instances[a.scene_id, image, a.object_id] for image in a.images]
            pairs = list(zip(a.T_camera_world, own, strict=True))
            visible = [(T, x) for T, x in pairs if not x.visible_fraction < VISIBLE]
            shown += [((a.scene_id, a.images[0]), T, x) for T, x in _spread(visible, MOST)]
        seen = [
            self.aligner.patch(read_image(x.image_path), x.camera, x.T_camera_object @ self.to_center)
            for _, _, x in shown
        ]
        others = others_in_image([x for _, _, x in shown], instances)
        fronts = occluding_depth(dataset, others, [T_view_camera for _, _, T_view_camera in seen], self.aligner.crop)
        patches: dict[tuple[int, int], list[_Patch]] = {(a.scene_id, a.images[0]): [] for a in self.arrangements}
        for (first, T_camera_world, _), (pixels, inside, T_view_camera), front in zip(shown, seen, fronts, strict=True):
            patches[first].append(_Patch(pixels, inside, T_view_camera @ T_camera_world, front))
        return patches

    def _search(self, a: Arrangement, views: list[View]) -> _Group | None:
        """The place near the label that explains the views best."""
        label, align = a.T_world_object @ self.to_center, self.aligner
        few, some = _spread(views, COARSE), _spread(views, FINE)
        starts = [align.match(few, T, BLURS[:1]) for T in _around(label)]
        starts.sort(key=lambda T: -align.agreement(few, T, BLURS[0]))
        found: list[tuple[float, Fit]] = []
        for T in _distinct([label, *starts])[: BEST + 1]:
            fit = align.refine(views, align.match(some, T, BLURS[1:]))
            if fit is not None and self._near(fit.T_world_center, label):
                value = align.agreement(views, fit.T_world_center) - _doubt(fit.T_world_center, label)
                found.append((value, fit))
        if not found:
            return None
        found.sort(key=lambda f: -f[0])
        value, best = found[0]
        rivals = [v for v, f in found[1:] if apart(f.T_world_center, best.T_world_center)[0] > OTHER]
        agreement = align.agreement(views, best.T_world_center)
        return _Group([a], best, agreement, value - max(rivals, default=-1.0))

    def _near(self, T: Array, label: Array) -> bool:
        angle, distance = apart(T, label)
        return angle < FAR[0] and distance < FAR[1] * self.model.diameter

    def _merged(self, last: _Group, group: _Group) -> _Group | None:
        """Both in one, if the object did not move between them: one place explains the images of each as well as its
        own does, and is not farther from it than the images let one say."""
        worlds = {(a.scene_id, a.stretch) for a in (last.arrangements[0], group.arrangements[0])}
        if len(worlds) > 1:
            return None
        if _squared_deviations(last.fit, group.fit) > MERGE**2:
            return None
        arrangements = [*last.arrangements, *group.arrangements]
        views = self._views(arrangements)
        start = max(last, group, key=lambda g: sum(len(a.images) for a in g.arrangements)).fit.T_world_center
        fit = self.aligner.refine(views, start)
        if fit is None:
            return None
        for part in (last, group):
            if self.aligner.agreement(self._views(part.arrangements), fit.T_world_center) < part.agreement - SAME:
                return None
        agreement = self.aligner.agreement(views, fit.T_world_center)
        return _Group(arrangements, fit, agreement, max(last.lead, group.lead))

    def _decide(self, a: Arrangement, group: _Group) -> Correction:
        fit, label = group.fit, a.T_world_object @ self.to_center
        found = fit.T_world_center
        angle, distance = apart(found, label)
        sigma_angle, sigma_distance = (float(np.sqrt(np.trace(fit.covariance[k, k]))) for k in (slice(3, 6), slice(3)))
        views = self._views([a])
        before, after = (self.aligner.agreement(views, T) for T in (label, found))
        reason = ""
        if fit.inliers < FITS:
            reason = f"the images show only {100 * fit.inliers:.0f} % of the model's edges"
        elif sigma_angle > SURE[0] or sigma_distance > SURE[1]:
            reason = f"the images leave it open: ± {np.degrees(sigma_angle):.1f}°, ± {sigma_distance / MM:.0f} mm"
        elif group.lead < SAME:
            reason = "the images agree with two places alike"
        elif not self._near(found, label):
            reason = "too far from the label"
        elif self._right(a, fit):
            reason = "the label agrees with the images"
        elif after - _doubt(found, label) < before + SAME:
            reason = "the label fits as well"
        place = a.T_world_object if reason else found @ inverse(self.to_center)
        return Correction(a, place, angle, distance, sigma_angle, sigma_distance, before, after, reason)

    def _right(self, a: Arrangement, fit: Fit) -> bool:
        """Whether the labels of the images are as near as the uncertainty lets one say: within two deviations."""
        far = []
        for image, T_camera_world in zip(a.images, a.T_camera_world, strict=True):
            label = self.instances[a.scene_id, image, a.object_id].T_camera_object @ self.to_center
            far.append(_squared_deviations(fit, inverse(T_camera_world) @ label))
        return float(np.mean(far)) < RIGHT**2


def _doubt(T: Array, label: Array) -> float:
    """What the agreement of a place must make up for."""
    away = np.array(apart(T, label)) / USUAL
    return DOUBT * float(away @ away)


def _squared_deviations(fit: Fit, other: Fit | Array) -> float:
    """How far two places are apart, a coordinate, in units of the variance."""
    T = other.T_world_center if isinstance(other, Fit) else other
    covariance = fit.covariance + (other.covariance if isinstance(other, Fit) else 0.0)
    D = inverse(fit.T_world_center) @ T
    d = np.concatenate([D[:3, 3], log_so3(D[:3, :3])])
    return float(d @ np.linalg.solve(covariance, d)) / 6


def _around(T: Array) -> list[Array]:
    """The place, and twelve that are turned from it, about the vertices of an icosahedron."""
    g = (1 + np.sqrt(5)) / 2
    axes = [np.roll([0.0, s, t * g], k) / np.hypot(1, g) for k in range(3) for s in (1, -1) for t in (1, -1)]
    return [T, *(T @ transform(exp_so3(FIRST_TURN * axis), np.zeros(3)) for axis in axes)]


def _distinct(places: Sequence[Array]) -> list[Array]:
    """Without those that are as good as an earlier one."""
    kept: list[Array] = []
    for T in places:
        if all(apart(T, other)[0] > np.radians(1.0) for other in kept):
            kept.append(T)
    return kept


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of them at the most, evenly."""
    chosen = np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).round().astype(int))
    return [items[k] for k in chosen]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
