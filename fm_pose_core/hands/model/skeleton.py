"""The hand's skeleton: a kinematic tree with anatomical joint limits, and the joint sets of datasets on it.

Hand frame (right hand): origin in the wrist, x to the thumb's side, y along the middle finger, z out of the palm. Each
bone's frame sits at the joint where it begins, y along the bone; a positive rotation about x is flexion (towards the
palm). A left hand is the mirror image in the plane x = 0, with the same angles.

Joint ranges follow the clinical ranges of motion (American Academy of Orthopaedic Surgeons, 1965), lengths a hand of 19
cm.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, exp_so3

FINGERS = ("thumb", "index", "middle", "ring", "pinky")
RIGID = 6  # the first numbers of a pose: rotation vector (rad) and translation (m) of the hand frame in the camera


@dataclass(frozen=True)
class Bone:
    """name; parent (None: the hand frame); offset (3,): where it begins, in the parent's frame, metres; rest (3, 3):
    its frame in the parent's when all angles are zero; joints: (axis, least, largest) of each rotation, in radians,
    applied in turn."""

    name: str
    parent: str | None
    offset: Array
    rest: Array
    joints: tuple[tuple[str, float, float], ...] = ()


@dataclass(frozen=True)
class Landmark:
    """A named point: `offset` (3,) metres in the frame of `bone`."""

    name: str
    bone: str
    offset: Array


def _degrees(axis: str, least: float, largest: float) -> tuple[str, float, float]:
    return axis, np.radians(least), np.radians(largest)


def _turn(x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Array:
    return exp_so3(np.radians([x, y, z]))


def _frame(along: tuple[float, float, float], palmar: tuple[float, float, float]) -> Array:
    """Columns x, y, z with y along the bone and z as near to `palmar` as that allows."""
    y = np.array(along) / np.linalg.norm(along)
    z = np.array(palmar) - np.dot(palmar, y) * y
    z /= np.linalg.norm(z)
    return np.column_stack([np.cross(y, z), y, z])


def _vector(x: float, y: float, z: float) -> Array:
    return np.array([x, y, z]) * 1e-3


# Of each finger: the metacarpal's end, millimetres; its splay and the metacarpal's largest flexion, degrees; lengths of
# the proximal and the middle bone, millimetres.
FINGER_BONES = {
    "index": ((26, 90, -1), -5.0, 0.0, 43, 26),
    "middle": ((4, 93, -3), 0.0, 0.0, 47, 30),
    "ring": ((-17, 87, -1), 5.0, 12.0, 44, 28),
    "pinky": ((-35, 77, 4), 12.0, 22.0, 34, 20),
}


def average_bones() -> list[Bone]:
    """The tree, parents first. Lengths in the code are millimetres."""
    bones = [
        Bone("palm", None, np.zeros(3), np.eye(3)),
        # The forearm hangs from the palm, so that the hand's frame does not depend on the arm.
        Bone("forearm", "palm", np.zeros(3), _turn(x=180), (_degrees("x", -75, 75), _degrees("z", -35, 25))),
    ]
    return bones + _thumb_bones() + [bone for finger in FINGER_BONES for bone in _finger_bones(finger)]


def _thumb_bones() -> list[Bone]:
    rest = _frame((0.62, 0.68, 0.40), (-0.72, 0.25, 0.64))
    root = (_degrees("z", -35, 30), _degrees("x", -30, 45), _degrees("y", -25, 25))
    middle = (_degrees("x", -15, 65), _degrees("z", -15, 15))
    return [
        Bone("thumb_metacarpal", "palm", _vector(21, 20, 8), rest, root),
        Bone("thumb_proximal", "thumb_metacarpal", _vector(0, 45, 0), np.eye(3), middle),
        Bone("thumb_distal", "thumb_proximal", _vector(0, 34, 0), np.eye(3), (_degrees("x", -25, 85),)),
    ]


def _finger_bones(finger: str) -> list[Bone]:
    end, splay, arch, proximal, middle = FINGER_BONES[finger]
    metacarpal, first, second, third = (f"{finger}_{part}" for part in ("metacarpal", "proximal", "middle", "distal"))
    knuckle = (_degrees("z", -22, 22), _degrees("x", -30, 95))
    return [
        Bone(metacarpal, "palm", np.zeros(3), np.eye(3), (_degrees("x", -4, arch),) if arch else ()),
        Bone(first, metacarpal, _vector(*end), _turn(z=splay), knuckle),
        Bone(second, first, _vector(0, proximal, 0), np.eye(3), (_degrees("x", -8, 115),)),
        Bone(third, second, _vector(0, middle, 0), np.eye(3), (_degrees("x", -10, 85),)),
    ]


# Length of the last bone, millimetres.
TIPS = {"thumb": 27.0, "index": 21.0, "middle": 23.0, "ring": 23.0, "pinky": 20.0}


def joint_sets() -> dict[str, tuple[Landmark, ...]]:
    """The joint sets by name: `hand21` (wrist and four points a finger, thumb first: the order of MediaPipe and
    OpenPose), `nyu14` (Tompson et al. 2014, the 14 joints that are scored) and `icvl16` (Tang et al. 2014)."""
    return {"hand21": _hand21(), "nyu14": _nyu14(), "icvl16": _icvl16()}


def _at(name: str, bone: str, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Landmark:
    """A landmark on a bone; millimetres."""
    return Landmark(name, bone, _vector(x, y, z))


def _tip(finger: str, share: float = 1.0) -> Landmark:
    return _at(f"{finger}_tip", f"{finger}_distal", y=TIPS[finger] * share)


def _hand21() -> tuple[Landmark, ...]:
    result = [_at("wrist", "palm"), _at("thumb_cmc", "thumb_metacarpal")]
    result += [_at("thumb_mcp", "thumb_proximal"), _at("thumb_ip", "thumb_distal"), _tip("thumb")]
    for finger in FINGERS[1:]:
        for joint, bone in (("mcp", "proximal"), ("pip", "middle"), ("dip", "distal")):
            result.append(_at(f"{finger}_{joint}", f"{finger}_{bone}"))
        result.append(_tip(finger))
    return tuple(result)


def _nyu14() -> tuple[Landmark, ...]:
    result = []
    for finger in ("pinky", "ring", "middle", "index"):
        result += [_tip(finger, 0.75), _at(f"{finger}_pip", f"{finger}_middle")]
    result += [_tip("thumb", 0.75), _at("thumb_ip", "thumb_distal"), _at("thumb_mcp", "thumb_proximal")]
    result += [_at("wrist_ulnar", "forearm", -22, 12), _at("wrist_radial", "forearm", 22, 12)]
    return (*result, _at("palm", "palm", y=50))


def _icvl16() -> tuple[Landmark, ...]:
    result = [_at("palm", "palm", 0, 45, 6), _at("thumb_root", "thumb_metacarpal", y=25)]
    result += [_at("thumb_mid", "thumb_proximal", y=20), _tip("thumb", 0.8)]
    for finger in FINGERS[1:]:
        result += [_at(f"{finger}_root", f"{finger}_proximal"), _at(f"{finger}_mid", f"{finger}_middle")]
        result.append(_tip(finger, 0.8))
    return tuple(result)


def skeleton_bones(joint_set: str) -> tuple[tuple[str, str], ...]:
    """Pairs of joint names to draw as lines: along the fingers, and from the first of each to the set's root."""
    names = [x.name for x in joint_sets()[joint_set]]
    root = "wrist" if "wrist" in names else "palm"
    pairs = [(root, n) for n in names if n.startswith("wrist_")]
    order = ("root", "cmc", "mcp", "mid", "pip", "ip", "dip", "tip")
    for finger in FINGERS:
        joints = sorted((n for n in names if n.startswith(finger)), key=lambda n: order.index(n.rsplit("_", 1)[1]))
        pairs += list(zip([root, *joints[:-1]], joints, strict=True))
    return tuple(pairs)


class Skeleton:
    """The tree as arrays, for many poses at a time. A pose is (B, 6 + A): the hand frame's rotation vector and
    translation in the camera, then the A joint angles in the order of `angles`. A left hand takes the same bones, given
    for the right one."""

    def __init__(self, bones: list[Bone] | None = None, left: bool = False) -> None:
        self.bones, self.left = average_bones() if bones is None else bones, left
        self.names = [b.name for b in self.bones]
        self.parents = [-1 if b.parent is None else self.names.index(b.parent) for b in self.bones]
        expect(all(p < i for i, p in enumerate(self.parents)), "bones", "parents before their children", self.names)
        limits = [(f"{b.name}_{axis}", least, largest) for b in self.bones for axis, least, largest in b.joints]
        self.angles = [name for name, _, _ in limits]
        self.least, self.largest = (np.array([x[k] for x in limits]) for k in (1, 2))
        self._mirror = np.array([-1.0 if left else 1.0, 1.0, 1.0])
        self.offsets = np.stack([b.offset for b in self.bones]) * self._mirror
        self._rests = np.stack([b.rest for b in self.bones]) * self._mirror[:, None] * self._mirror

    @property
    def size(self) -> int:
        """Numbers of a pose."""
        return RIGID + len(self.angles)

    def with_offsets(self, offsets: Array) -> "Skeleton":
        """The same tree with other bone offsets (J, 3), metres, as given for a right hand."""
        return Skeleton([replace(b, offset=o) for b, o in zip(self.bones, offsets, strict=True)], self.left)

    def on_bones(self, landmarks: Sequence[Landmark]) -> tuple[NDArray[np.int64], Array]:
        """Landmarks as bone indices (P,) and offsets (P, 3), as `points` takes them."""
        return np.array([self.names.index(x.bone) for x in landmarks]), np.stack(
            [x.offset for x in landmarks]
        ) * self._mirror

    @cached_property
    def ancestors(self) -> NDArray[np.bool_]:
        """(J, A): whether angle a moves bone j."""
        owner = [i for i, b in enumerate(self.bones) for _ in b.joints]
        result = np.zeros((len(self.bones), len(owner)), bool)
        for j in range(len(self.bones)):
            k = j
            while k >= 0:
                result[j] |= np.array(owner) == k
                k = self.parents[k]
        return result

    def frames(self, pose: Array) -> tuple[Array, Array]:
        """pose (B, 6 + A) -> rotations (B, J, 3, 3) and origins (B, J, 3) of the bones' frames in the camera."""
        R, t, _, _ = self._chain(pose)
        return R, t

    def _chain(self, pose: Array) -> tuple[Array, Array, Array, Array]:
        """Rotations and origins, and for each angle its axis and the axis' point, (B, A, 3), all in the camera's
        frame."""
        n, count = len(pose), len(self.bones)
        R, t = np.empty((n, count, 3, 3)), np.empty((n, count, 3))
        axes, pivots = np.empty((n, len(self.angles), 3)), np.empty((n, len(self.angles), 3))
        root_R, root_t = Rotation.from_rotvec(pose[:, :3]).as_matrix(), pose[:, 3:6]
        a = 0
        for j, bone in enumerate(self.bones):
            p = self.parents[j]
            parent_R, parent_t = (root_R, root_t) if p < 0 else (R[:, p], t[:, p])
            t[:, j] = parent_t + parent_R @ self.offsets[j]
            here = parent_R @ self._rests[j]
            for axis, _, _ in bone.joints:
                k = "xyz".index(axis)
                sign = -1.0 if self.left and axis != "x" else 1.0  # of a rotation in the mirror
                axes[:, a], pivots[:, a] = sign * here[:, :, k], t[:, j]
                here = turned(here, k, sign * pose[:, RIGID + a])
                a += 1
            R[:, j] = here
        return R, t, axes, pivots

    def points(self, pose: Array, bone: NDArray[np.int64], offset: Array) -> Array:
        """Landmarks (P: bone indices, and offsets (P, 3)) in the camera's frame: (B, P, 3) metres."""
        R, t = self.frames(pose)
        return t[:, bone] + (R[:, bone] @ offset[..., None])[..., 0]

    def points_and_jacobian(self, pose: Array, bone: NDArray[np.int64], offset: Array) -> tuple[Array, Array]:
        """(B, P, 3), and its derivative (B, P, 3, 6 + A) by a rotation vector in the camera's frame about the hand's
        origin, the translation, and the angles."""
        R, t, axes, pivots = self._chain(pose)
        points = t[:, bone] + (R[:, bone] @ offset[..., None])[..., 0]
        J = np.zeros((*points.shape, self.size))
        arm = points - pose[:, None, 3:6]
        for k in range(3):
            unit = np.zeros(3)
            unit[k] = 1.0
            J[..., k] = np.cross(unit, arm)
        J[..., 3:6] = np.eye(3)
        moved = np.cross(axes[:, None], points[:, :, None] - pivots[:, None])  # (B, P, A, 3)
        J[..., RIGID:] = np.where(self.ancestors[bone][None, :, None], moved.transpose(0, 1, 3, 2), 0.0)
        return points, J


def turned(R: Array, axis: int, angle: Array) -> Array:
    """R (B, 3, 3) times a rotation about the coordinate axis by `angle` (B,)."""
    i, j = (axis + 1) % 3, (axis + 2) % 3
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    result = R.copy()
    result[:, :, i] = c * R[:, :, i] + s * R[:, :, j]
    result[:, :, j] = c * R[:, :, j] - s * R[:, :, i]
    return result
