"""Labels of objects that stand still, corrected from the images.

People label such objects once for an arrangement, and the error of that label is then the same in all of its images.
Here one place of the object is found that explains all images of an arrangement together, by edges and colours
(places.py), beginning at the label. The camera's motion comes from the labels of all objects (arrangements.py), in
which such errors cancel.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from fm_pose_core.errors import expect
from fm_pose_core.files import write_atomically
from fm_pose_core.geometry import Array, inverse
from fm_pose_core.objects.alignment import Fit
from fm_pose_core.objects.arrangements import Arrangement, apart, find_arrangements
from fm_pose_core.objects.bop import MM, BopDataset, Instance, key
from fm_pose_core.objects.places import Place, Places, doubt, squared_deviations

RIGHT = 2.1  # squared deviations a coordinate, within which a label is right: 95 % of chi square with 6 degrees
LEAST = 0.2  # agreement: with less, it is not the model's edges that were found


@dataclass(frozen=True)
class Correction:
    """Of one arrangement. T_world_object (4, 4): where the object is to be; the label's place where the correction is
    refused. angle, distance: between the label's and the found place, radians and metres (of the centre); sigma_angle,
    sigma_distance: their standard deviations. before, after: how well the model's edges agree with the images', from 0
    to 1, at the images' labels and at the found place. reason: why it is refused, or empty. confirmed: whether it is
    refused because the label is right."""

    arrangement: Arrangement
    T_world_object: Array
    angle: float = float("nan")
    distance: float = float("nan")
    sigma_angle: float = float("nan")
    sigma_distance: float = float("nan")
    before: float = float("nan")
    after: float = float("nan")
    reason: str = ""
    confirmed: bool = False

    @property
    def accepted(self) -> bool:
        """Whether the label is to be replaced."""
        return not self.reason

    @property
    def sure(self) -> bool:
        """Whether the images say where the object is: the label is replaced, or confirmed."""
        return self.accepted or self.confirmed

    def to_json(self) -> dict[str, Any]:
        """Plain values, degrees and millimetres."""
        a = self.arrangement
        return {
            "scene_id": a.scene_id,
            "obj_id": a.object_id,
            "images": a.images,
            "accepted": self.accepted,
            "confirmed": self.confirmed,
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
    """Corrections for all objects, or for those of `object_ids`, one for each of their arrangements, or, if the object
    was moved within one, for each of its parts.

    instances: all of the split, because the labels of all objects tell how the camera moved. tell: is called with the
    number of images that are done. Raises InputError for an image or a mesh that can't be read.
    """
    wanted = set(object_ids) or {x.object_id for x in instances}
    missing = wanted - {x.object_id for x in instances}
    expect(not missing, str(dataset.root), f"images of objects {sorted(wanted)}", f"none of {sorted(missing)}")
    alone = len({key(x) for x in instances}) == len(instances)
    expect(alone, str(dataset.root), "one instance of an object in an image", "several")
    arrangements = find_arrangements(instances)
    corrections = []
    with threadpool_limits(1):  # the matrices are small
        for object_id in sorted(wanted):
            own = [a for a in arrangements if a.object_id == object_id]
            places = Places(dataset, instances, own)
            found = {id(a): place for place in places.find(tell) for a in place.arrangements}
            corrections += [_decide(places, a, found.get(id(a))) for a in places.arrangements]
            places.close()
    return corrections


def corrected(
    instances: Sequence[Instance], corrections: Sequence[Correction], sure_alone: bool = False
) -> list[Instance]:
    """The instances, with the poses that accepted corrections give them. sure_alone: without those whose labels are
    neither replaced nor confirmed."""
    poses = {}
    unsure = {
        (c.arrangement.scene_id, image, c.arrangement.object_id)
        for c in corrections
        for image in c.arrangement.images
        if sure_alone and not c.sure
    }
    for c in corrections:
        if c.accepted:
            a = c.arrangement
            for image, T_camera_world in zip(a.images, a.T_camera_world, strict=True):
                poses[a.scene_id, image, a.object_id] = T_camera_world @ c.T_world_object
    kept = [x for x in instances if key(x) not in unsure]
    return [replace(x, T_camera_object=poses[key(x)]) if key(x) in poses else x for x in kept]


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


def _decide(places: Places, a: Arrangement, place: Place | None) -> Correction:
    """The correction of an arrangement, or why there is none."""
    if place is None:
        return Correction(a, a.T_world_object, reason=places.why_none(a))
    fit, label = place.fit, places.label(a)
    found = fit.T_world_center
    angle, distance = apart(found, label)
    before, after = places.agreement(a), places.agreement(a, found)
    reason, confirmed = "", False
    if after < LEAST:
        reason = "the images do not show the model's edges"
    elif place.unsure:
        reason = place.unsure
    elif not places.near(found, label):
        reason = "too far from the label"
    elif _right(places, a, fit):
        reason, confirmed = "the label agrees with the images", True
    elif places.gain(a, found) < doubt(found, label):
        reason, confirmed = "the label fits as well", True
    T_world_object = a.T_world_object if reason else found @ inverse(places.T_object_center)
    figures = angle, distance, *fit.deviations, before, after
    return Correction(a, T_world_object, *figures, reason, confirmed)


def _right(places: Places, a: Arrangement, fit: Fit) -> bool:
    """Whether the labels of the images are as near as the uncertainty lets one say."""
    far = []
    for image, T_camera_world in zip(a.images, a.T_camera_world, strict=True):
        T_camera_object = places.instances[a.scene_id, image, a.object_id].T_camera_object
        far.append(squared_deviations(fit, inverse(T_camera_world) @ T_camera_object @ places.T_object_center))
    return float(np.mean(far)) < RIGHT


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
