"""Which objects stand still relative to which, and over which images: from the labels of a scene alone.

A camera that moves around objects that stand still sees all of them move in the same way. So each object's label tells
how the camera moved from an image to the next; objects that agree stand still, and their agreement is the camera's
motion. An object that disagrees in a single image has a wrong label there. One that disagrees from then on was moved:
another arrangement of it begins. Where no two objects agree, the camera's motion is unknown and all begin anew.

A dataset that tells where its camera was (BOP's cam_R_w2c, of a board or a turntable) needs no other objects for this.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fm_pose_core.geometry import Array, apply, exp_so3, inverse, log_so3, project_to_so3, transform
from fm_pose_core.objects.bop import Instance

AGREE = (np.radians(1.0), 0.005)  # radians, metres at the object: labels of objects that stand still agree so well
TREMBLE = (np.radians(6.0), 0.020)  # labels that were made image by image scatter so much about the object's place


@dataclass
class Arrangement:
    """One object over the images in which it stands still. images: their numbers, in order. T_camera_world (4, 4) for
    each: the camera's motion, up to one rigid transform of the world that is the same for all objects of the stretch.
    T_world_object (4, 4): where the labels have the object, robustly averaged. stretch: images with the same number
    share a world."""

    scene_id: int
    object_id: int
    stretch: int
    images: list[int] = field(default_factory=list)
    T_camera_world: list[Array] = field(default_factory=list)
    T_world_object: Array = field(default_factory=lambda: np.eye(4))


def find_arrangements(instances: Sequence[Instance]) -> list[Arrangement]:
    """The arrangements of all objects, of which each image has one instance at the most, in the order of the images."""
    result: list[Arrangement] = []
    for scene_id in sorted({x.scene_id for x in instances}):
        labels: dict[int, dict[int, Array]] = defaultdict(dict)
        cameras: dict[int, Array] = {}
        for x in instances:
            if x.scene_id == scene_id:
                labels[x.im_id][x.object_id] = x.T_camera_object
                if x.T_camera_world is not None:
                    cameras[x.im_id] = x.T_camera_world
        known = cameras if cameras.keys() == labels.keys() else {}  # one world for all of its images, or none
        result += _Scene(scene_id, labels, known).arrangements()
    return result


def mean_pose(poses: Sequence[Array], at: Array | None = None) -> Array:
    """The robust mean (4, 4): medians of the rotation vectors about the chordal mean, and of where the poses take the
    point `at` (3,), the origin by default."""
    R = project_to_so3(np.mean([T[:3, :3] for T in poses], 0))
    for _ in range(3):
        R = R @ exp_so3(np.median([log_so3(R.T @ T[:3, :3]) for T in poses], 0))
    at = np.zeros(3) if at is None else at
    return transform(R, np.median([apply(T, at[None])[0] for T in poses], 0) - R @ at)


def apart(A: Array, B: Array) -> tuple[float, float]:
    """Angle (radians) and distance of the origins (metres) between two poses (4, 4)."""
    return float(np.linalg.norm(log_so3(A[:3, :3].T @ B[:3, :3]))), float(np.linalg.norm(A[:3, 3] - B[:3, 3]))


class _Scene:
    """Follows the objects of a scene from image to image."""

    def __init__(self, scene_id: int, labels: dict[int, dict[int, Array]], cameras: dict[int, Array]) -> None:
        self.scene_id, self.labels, self.cameras, self.images = scene_id, labels, cameras, sorted(labels)
        self.stretch = 0
        self.open: dict[int, Arrangement] = {}  # by object
        self.labelled: dict[int, list[Array]] = {}  # T_world_object in each image of the open ones
        self.done: list[Arrangement] = []

    def arrangements(self) -> list[Arrangement]:
        for i, image in enumerate(self.images):
            T_camera_world = self._camera(image)
            if T_camera_world is None:
                self._close_all()
                self.stretch += bool(self.done)
                T_camera_world = np.eye(4)  # the world is this image's camera
            for object_id, T in self.labels[image].items():
                self._add(object_id, i, T_camera_world, inverse(T_camera_world) @ T)
        self._close_all()
        return self.done

    def _camera(self, image: int) -> Array | None:
        """The camera's place, as the dataset tells it, or as the largest group of objects that agree has it; None where
        no two agree."""
        if image in self.cameras:
            return self.cameras[image]
        seen = {k: T for k, T in self.labels[image].items() if k in self.open}
        votes = {k: T @ inverse(self.open[k].T_world_object) for k, T in seen.items()}
        best: list[int] = []
        for k, vote in votes.items():
            agreeing = [o for o, other in votes.items() if _agree(vote, other, self.open[k].T_world_object)]
            best = max(best, agreeing, key=len)
        if len(best) < 2:
            return None
        middle = np.mean([self.open[k].T_world_object[:3, 3] for k in best], 0)
        return mean_pose([votes[k] for k in best], middle)

    def _add(self, object_id: int, i: int, T_camera_world: Array, T_world_object: Array) -> None:
        current = self.open.get(object_id)
        if (
            current is not None
            and not _near(current.T_world_object, T_world_object)
            and not self._returns(object_id, i)
        ):
            self.done.append(self.open.pop(object_id))
            current = None
        if current is None:
            current = self.open[object_id] = Arrangement(self.scene_id, object_id, self.stretch)
            self.labelled[object_id] = []
        current.images.append(self.images[i])
        current.T_camera_world.append(T_camera_world)
        self.labelled[object_id].append(T_world_object)
        current.T_world_object = mean_pose(self.labelled[object_id])

    def _returns(self, object_id: int, i: int) -> bool:
        """Whether the object is back in its place in the next image that shows it: then this label alone is wrong."""
        for image in self.images[i + 1 : i + 3]:
            T_camera_world = self._camera(image)
            T = self.labels[image].get(object_id)
            if T_camera_world is not None and T is not None:
                return _near(self.open[object_id].T_world_object, inverse(T_camera_world) @ T)
        return False

    def _close_all(self) -> None:
        self.done += self.open.values()
        self.open = {}


def _near(A: Array, B: Array) -> bool:
    angle, distance = apart(A, B)
    return angle < TREMBLE[0] and distance < TREMBLE[1]


def _agree(A: Array, B: Array, T_world_object: Array) -> bool:
    """Whether two places of the camera put an object into the same place."""
    at = T_world_object[:3, 3][None]
    angle, _ = apart(A, B)
    return angle < AGREE[0] and float(np.linalg.norm(apply(A, at) - apply(B, at))) < AGREE[1]
