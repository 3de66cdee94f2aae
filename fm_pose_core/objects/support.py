"""Objects that stand on one plane, such as a table. If it is known how each of them stands, the others tell how an
object is tilted and how high it is, which is what a single look tells worst. Beyond the paper; what it brings is in
docs/results.md.

Nothing is known of the plane. Each object alone says where it would be, with the uncertainty of its pose; the plane on
which most of them agree is fitted to all, robustly. Then each object is compared with the plane of the *others*. If it
agrees, that is one more measurement of its pose (a Kalman update); if not, it does not stand there, and its pose stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, apply, exp_so3, inverse
from fm_pose_core.objects.pnp import expected_projection_errors
from fm_pose_core.objects.refine import Solution
from fm_pose_core.objects.reprojection import Rows
from fm_pose_core.types import Camera

FEWEST = 3  # objects that make a plane
GATE = 16.3  # squared deviations, beyond which an object does not stand there: one in a thousand of those that do (χ²₃)
SOFT = 8.0  # squared deviations from which on an object says less of the plane
UPRIGHT = 0.5  # cosine: an object that is tilted by more is not compared
ROUNDS, SETTLED = 6, 1e-3  # of the plane's fit; radians, metres: what is left, the step without each object mends
TELLS = 0.2, 0.05  # radians, metres: what is known worse of tilt and height is no evidence of a plane
SAME = 1e-3  # of direction and metres: two ways to stand that are one
MOST_STANCES, MOST_WAYS, CANDIDATES = 8, 64, 128  # of an object; with symmetries; planes that are tried
AXES = np.arange(3)
NEXT, LAST = (AXES + 1) % 3, (AXES + 2) % 3


@dataclass(frozen=True)
class Stance:
    """How an object stands on a plane. up: the plane's normal in the object's frame, of length 1, away from the plane.
    height: of the frame's origin above the plane, metres. tilt, lift: how much both differ from one photograph to
    another: standard deviations, radians about each of two axes, and metres."""

    up: tuple[float, float, float]
    height: float
    tilt: float
    lift: float

    def check(self, where: str) -> None:
        """Raise InputError for numbers that cannot be. where: for the message."""
        length = float(np.linalg.norm(self.up))
        expect(abs(length - 1.0) < 1e-3, f"{where}.up", "a direction of length 1", self.up)
        expect(abs(self.height) < 10.0, f"{where}.height", "metres, below 10", self.height)
        expect(1e-3 <= self.tilt <= 1.0, f"{where}.tilt", "radians, from 0.001 to 1", self.tilt)
        expect(1e-5 <= self.lift <= 1.0, f"{where}.lift", "metres, from 0.00001 to 1", self.lift)


def alike(stances: Sequence[Stance], symmetries: Sequence[Array]) -> list[Stance]:
    """These, and how the object stands where its pose is another one that looks the same, each way once. symmetries (4,
    4 each), metres. MOST_WAYS at the most."""
    found: list[Stance] = []
    for T in (np.eye(4), *(inverse(S) for S in symmetries)):
        for x in stances:
            up = T[:3, :3] @ x.up
            way = replace(x, up=(up[0].item(), up[1].item(), up[2].item()), height=float(x.height - up @ T[:3, 3]))
            new = all(
                abs(way.height - y.height) > SAME or np.abs(np.subtract(way.up, y.up)).max() > SAME for y in found
            )
            found += [way] if new and len(found) < MOST_WAYS else []
    return found


class Standable(NamedTuple):
    """An object in an image. name: windows of one name may show the same thing. box (8, 3): its corners, metres, object
    frame. ways: in which it may stand (`alike`); none if that is not known."""

    name: str
    box: Array
    ways: Sequence[Stance]


def supported(solutions: Sequence[Solution], objects: Sequence[Standable], camera: Camera) -> list[Solution]:
    """The solutions of one image, better by the plane on which their objects stand. camera: for the error to
    expect of the new poses. Of solutions that are the same thing, only the surest is compared."""
    found = list(solutions)
    rows = _compared(solutions, objects)
    if len(rows) < FEWEST:
        return found
    T, covariance = (np.stack([getattr(found[i], k) for i in rows]) for k in ("T_camera_object", "covariance"))
    better = stand(T, covariance, [objects[i].ways for i in rows])
    T, covariance = better.T_camera_object, better.covariance
    boxes = np.stack([objects[i].box for i in rows])
    expected = expected_projection_errors(T, covariance, boxes, [camera] * len(rows))
    for k in np.flatnonzero(better.stands):
        found[rows[k]] = replace(
            found[rows[k]], T_camera_object=T[k], covariance=covariance[k], expected_error=float(expected[k])
        )
    return found


def _compared(solutions: Sequence[Solution], objects: Sequence[Standable]) -> list[int]:
    """Which solutions are: those that have a pose, and of which it is known how they stand."""
    chosen: dict[int, Array] = {}
    for i in sorted(range(len(solutions)), key=lambda i: solutions[i].expected_error):
        x, own = solutions[i], objects[i]
        if x.accepted and len(own.ways) and np.isfinite(x.covariance).all():
            center = apply(x.T_camera_object, own.box.mean(0)[None])[0]
            apart = np.linalg.norm(own.box[0] - own.box[7]) / 2
            same = (c for k, c in chosen.items() if objects[k].name == own.name)
            if all(np.linalg.norm(c - center) > apart for c in same):
                chosen[i] = center
    return sorted(chosen)


class Standing(NamedTuple):
    """T_camera_object (B, 4, 4) and covariance (B, 6, 6) as in ObjectPose; stands (B,): which of them stand on the
    plane. The others are as they were."""

    T_camera_object: Array
    covariance: Array
    stands: NDArray[np.bool_]


def plane_beneath(
    T_camera_object: Array, covariance: Array, stances: Sequence[Sequence[Stance]]
) -> tuple[Array, float]:
    """Normal (3,) and offset of the plane on which most of the objects stand, camera frame, metres: normal · x + offset
    is the height of a point x above it. Otherwise as `stand`."""
    scene = _Scene.with_stances(T_camera_object, covariance, stances)
    plane = _fitted(scene, _likeliest(scene))
    return plane.normal[0], float(plane.offset[0])


def stand(T_camera_object: Array, covariance: Array, stances: Sequence[Sequence[Stance]]) -> Standing:
    """The poses (B, 4, 4) of objects in one image, with covariances (B, 6, 6) as in ObjectPose, and the plane on which
    they stand. stances: one or more of each object, of which the one that fits counts."""
    scene = _Scene.with_stances(T_camera_object, covariance, stances)
    plane = _fitted(scene, _likeliest(scene))
    seen = scene.compared(plane)
    H, g = (x.sum(0) - x for x in seen.normal_equations())  # of all but one
    agree = (seen.squared < GATE) & scene.tells(seen)
    enough = agree.sum() - agree >= FEWEST - 1  # of the others
    unsure = inverse3(np.where(enough[:, None, None], H, np.eye(3)))
    beneath = plane.moved(-_times(unsure, g))
    stands = enough & (scene.compared(beneath, unsure).squared < GATE)
    T, covariance = T_camera_object.copy(), covariance.copy()
    if stands.any():
        T[stands], covariance[stands] = scene.of(stands).updated(beneath.of(stands), unsure[stands])
    return Standing(T, covariance, stands)


class _Plane(NamedTuple):
    """Points x with normal · x + offset = 0, camera frame, metres: normal (…, N, 3), offset (…, N), one for each of N
    objects, or N = 1. tangents (…, N, 2, 3): at right angles to the normal and to each other."""

    normal: Array
    offset: Array
    tangents: Array

    @classmethod
    def through(cls, normal: Array, offset: Array) -> "_Plane":
        """With any tangents."""
        axis = np.eye(3)[np.abs(normal).argmin(-1)]
        first = _cross(normal, axis)
        first /= np.linalg.norm(first, axis=-1, keepdims=True)
        return cls(normal, offset, np.stack([first, _cross(normal, first)], -2))

    def moved(self, step: Array) -> "_Plane":
        """By steps (…, N, 3): radians along the two tangents, and metres of the offset."""
        normal = self.normal + (step[..., None, :2] @ self.tangents)[..., 0, :]
        normal /= np.linalg.norm(normal, axis=-1, keepdims=True)
        along = self.tangents - (self.tangents @ normal[..., None]) * normal[..., None, :]
        return _Plane(normal, self.offset + step[..., 2], along / np.linalg.norm(along, axis=-1, keepdims=True))

    def of(self, rows: Rows) -> "_Plane":
        """Those of some objects."""
        return _Plane(*(x[rows] for x in self))


class _Compared(NamedTuple):
    """Objects beside planes. residual (…, N, 3): the tilt, radians along the tangents, and how much too high, metres;
    precision (…, N, 3, 3): the inverse of its covariance. J (…, N, 3, 6), K (…, N, 3, 3): its derivatives by the pose
    (d, w) and by the plane's step. squared (…, N): squared deviations; infinite for what is tilted far."""

    residual: Array
    precision: Array
    J: Array
    K: Array
    squared: Array

    def normal_equations(self) -> tuple[Array, Array]:
        """(…, N, 3, 3), (…, N, 3): what each object says of the plane's step; the less, the worse it fits (Geman and
        McClure)."""
        weight = np.where(self.squared < 4.0 * GATE, 1.0 / np.square(1.0 + self.squared / SOFT), 0.0)
        KtP = weight[..., None, None] * self.K.swapaxes(-1, -2) @ self.precision
        return KtP @ self.K, _times(KtP, self.residual)


class _Scene(NamedTuple):
    """N objects: their poses, covariances, and the V ways in which each may stand: up (N, V, 3) in the object's frame,
    height (N, V); noise (N, V, 3): the variances of tilt, about two axes, and height."""

    T: Array
    covariance: Array
    up: Array
    height: Array
    noise: Array

    @classmethod
    def with_stances(cls, T: Array, covariance: Array, stances: Sequence[Sequence[Stance]]) -> "_Scene":
        most = max(len(x) for x in stances)
        ways = [[*x, *[x[0]] * (most - len(x))] for x in stances]
        up, height = (np.array([[getattr(way, k) for way in x] for x in ways]) for k in ("up", "height"))
        noise = np.square([[(way.tilt, way.tilt, way.lift) for way in x] for x in ways])
        return cls(T, covariance, up, height, noise)

    def of(self, rows: Rows) -> "_Scene":
        """Some of them."""
        return _Scene(*(x[rows] for x in self))

    @property
    def ups(self) -> Array:
        """(N, V, 3), camera frame."""
        return self.up @ self.T[:, :3, :3].swapaxes(1, 2)

    def tells(self, seen: _Compared) -> NDArray[np.bool_]:
        """(N,) whether a pose says something of where a plane is."""
        variance = np.diagonal(seen.J @ self.covariance @ seen.J.swapaxes(-1, -2), axis1=-2, axis2=-1)
        return np.asarray((variance < np.square([TELLS[0], TELLS[0], TELLS[1]])).all(-1))

    def planes(self) -> tuple[_Plane, NDArray[np.int64]]:
        """On which objects, each in each of its ways, would stand (H, 1), and whose planes they are (H,). Of those with
        few ways first, CANDIDATES at the most."""
        padding = (self.up[:, 1:] == self.up[:, :1]).all(-1) & (self.height[:, 1:] == self.height[:, :1])
        own = np.pad(~padding, ((0, 0), (1, 0)), constant_values=True)
        order = np.argsort(own.sum(1), kind="stable")
        row, way = np.nonzero(own[order])
        row, way = order[row][:CANDIDATES], way[:CANDIDATES]
        normal = self.ups[row, way]
        offset = self.height[row, way] - (normal * self.T[row, :3, 3]).sum(1)
        return _Plane.through(normal[:, None], offset[:, None]), row

    def compared(self, plane: _Plane, unsure: Array | None = None) -> _Compared:
        """unsure: the covariance of the planes' steps (…, N, 3, 3); None: the planes are known."""
        t, ups, every = self.T[:, :3, 3], self.ups, np.arange(len(self.T))
        cosines = (ups * plane.normal[..., None, :]).sum(-1)
        lifts = ((plane.normal * t).sum(-1) + plane.offset)[..., None] - self.height
        way = (cosines - np.abs(lifts)).argmax(-1)  # the way that fits: a metre counts as much as a radian or so
        up, cosine, lift = ups[every, way], *(_picked(x, way) for x in (cosines, lifts))
        residual = np.concatenate([_times(plane.tangents, up), lift[..., None]], -1)
        J, K = np.zeros((*lift.shape, 3, 6)), np.zeros((*lift.shape, 3, 3))
        J[..., :2, 3:], J[..., 2, :3] = _cross(up[..., None, :], plane.tangents), plane.normal
        K[..., 0, 0] = K[..., 1, 1] = -1.0
        K[..., 2, :2], K[..., 2, 2] = _times(plane.tangents, t), 1.0
        covariance = J @ self.covariance @ J.swapaxes(-1, -2)
        covariance[..., AXES, AXES] += self.noise[every, way]
        if unsure is not None:
            covariance = covariance + K @ unsure @ K.swapaxes(-1, -2)
        precision = inverse3(covariance)
        squared = (residual * _times(precision, residual)).sum(-1)
        return _Compared(residual, precision, J, K, np.where(cosine > UPRIGHT, squared, np.inf))

    def updated(self, beneath: _Plane, unsure: Array) -> tuple[Array, Array]:
        """Poses and covariances with one more measurement: that each stands on the plane beneath it."""
        T, step = self.T, np.zeros((len(self.T), 6))
        for _ in range(2):  # the second time from nearby, where it is linear enough
            seen = self._replace(T=T).compared(beneath, unsure)
            gain = self.covariance @ seen.J.swapaxes(1, 2) @ seen.precision
            step = -_times(gain, seen.residual - _times(seen.J, step))
            T = self.T.copy()
            T[:, :3, :3] = np.stack([exp_so3(w) for w in step[:, 3:]]) @ T[:, :3, :3]
            T[:, :3, 3] += step[:, :3]
        return T, self.covariance - gain @ seen.J @ self.covariance


def _likeliest(scene: _Scene) -> _Plane:
    """Of the planes that the objects say, the one with which the others agree best."""
    planes, own = scene.planes()
    told = scene.of(own).compared(_Plane(*(x[:, 0] for x in planes)))
    unsure = told.K @ inverse3(told.precision) @ told.K.swapaxes(1, 2)  # K is its own inverse
    cost = np.minimum(scene.compared(planes, unsure[:, None]).squared, GATE).sum(1)
    best = int(cost.argmin())
    return _Plane(*(x[best] for x in planes))


def _fitted(scene: _Scene, plane: _Plane) -> _Plane:
    """The plane near another one that fits all objects best, robustly."""
    for _ in range(ROUNDS):
        H, g = (x.sum(0) for x in scene.compared(plane).normal_equations())
        step = -_times(inverse3(H), g)
        plane = plane.moved(step[None])
        if np.abs(step).max() < SETTLED:
            break
    return plane


def inverse3(M: Array) -> Array:
    """Inverses of symmetric (…, 3, 3) matrices, by their cofactors (numpy's may start threads, see
    pnp.inverse_spd)."""
    i, j = NEXT[:, None], LAST[:, None]
    cofactors = M[..., i, NEXT] * M[..., j, LAST] - M[..., i, LAST] * M[..., j, NEXT]
    return np.asarray(cofactors / (M[..., 0, :] * cofactors[..., 0, :]).sum(-1)[..., None, None])


def _cross(a: Array, b: Array) -> Array:
    return np.asarray(a[..., NEXT] * b[..., LAST] - a[..., LAST] * b[..., NEXT])


def _picked(x: Array, index: NDArray[np.int64]) -> Array:
    """(…, V), (…,) -> (…,)."""
    return np.asarray(np.take_along_axis(x, index[..., None], -1)[..., 0])


def _times(M: Array, v: Array) -> Array:
    """(…, m, n), (…, n) -> (…, m)."""
    return np.asarray((M @ v[..., None])[..., 0])
