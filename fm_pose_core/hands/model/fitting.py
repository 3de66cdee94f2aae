"""From annotated 3D joints to the pose and the bone lengths of the hand: T^M needs a rendering under the same pose.

`fit_poses` is a damped Gauss-Newton with joint limits over many frames at a time; `fit_shape` alternates it with a
linear least squares for the lengths, in which the joints' positions are linear once all rotations are known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array
from fm_pose_core.hands.model.skeleton import RIGID, Landmark, Skeleton

Bones = NDArray[np.int64]
BATCH = 512  # frames at a time


@dataclass(frozen=True)
class Fit:
    """pose (B, 6 + A); points (B, P, 3): where the model has the joints, metres."""

    pose: Array
    points: Array

    def residuals(self, joints: Array) -> Array:
        """Distance of each joint (B, P), metres."""
        return np.linalg.norm(self.points - joints, axis=-1)


def fit_poses(
    skeleton: Skeleton,
    landmarks: Sequence[Landmark],
    joints: Array,
    start: Array | None = None,
    iterations: int = 30,
    prior: float = 2e-3,
) -> Fit:
    """The poses whose landmarks come nearest to `joints` (B, P, 3), metres, camera frame, NaN where unknown.

    start (B, 6 + A): where to begin; without it several hand shapes are tried and the best is kept. prior: weight of an
    angle (metres per radian) against the middle of its range, which decides what the joints leave open. Raises
    InputError for other shapes.
    """
    joints = np.asarray(joints, dtype=np.float64)
    expect(
        joints.ndim == 3 and joints.shape[1:] == (len(landmarks), 3),
        "joints",
        f"(B, {len(landmarks)}, 3)",
        joints.shape,
    )
    bone, offset = skeleton.on_bones(landmarks)
    parts = []
    for i in range(0, len(joints), BATCH):
        problem = _Problem(skeleton, bone, offset, joints[i : i + BATCH], prior)
        begin = start[i : i + BATCH] if start is not None else _best_start(problem)
        parts.append(_descend(problem, begin, iterations))
    pose = np.concatenate(parts) if parts else np.zeros((0, skeleton.size))
    return Fit(pose, skeleton.points(pose, bone, offset))


@dataclass(frozen=True)
class _Problem:
    """Landmarks on bones (P: indices, and offsets (P, 3)) shall come to `joints` (B, P, 3), and angles to the middles
    of their ranges, which `prior` weighs."""

    skeleton: Skeleton
    bone: Bones
    offset: Array
    joints: Array
    prior: float

    def of(self, frames: NDArray[np.int64]) -> "_Problem":
        """That of some of the frames."""
        return replace(self, joints=self.joints[frames])

    @property
    def half(self) -> Array:
        """Half the range of each angle (A,), radians, but not next to nothing."""
        return np.maximum((self.skeleton.largest - self.skeleton.least) / 2, 0.1)

    def cost(self, pose: Array) -> Array:
        """(B,), of poses (B, 6 + A)."""
        d = np.nan_to_num(self.skeleton.points(pose, self.bone, self.offset) - self.joints)
        return (d**2).sum((1, 2)) + (self.from_middle(pose) ** 2).sum(1)

    def from_middle(self, pose: Array) -> Array:
        """Residuals (B, A) of the angles."""
        middle = (self.skeleton.largest + self.skeleton.least) / 2
        return self.prior * (pose[:, RIGID:] - middle) / self.half

    def step(self, pose: Array, damping: Array) -> Array:
        """The damped Gauss-Newton step (B, 6 + A) from poses (B, 6 + A). damping (B,)."""
        points, J = self.skeleton.points_and_jacobian(pose, self.bone, self.offset)
        residual = np.nan_to_num(points - self.joints).reshape(len(pose), -1)
        J = J.reshape(len(pose), -1, self.skeleton.size)
        gradient = (J.transpose(0, 2, 1) @ residual[..., None])[..., 0]
        gradient[:, RIGID:] += self.from_middle(pose) * self.prior / self.half
        A = J.transpose(0, 2, 1) @ J + np.diag(np.concatenate([np.zeros(RIGID), (self.prior / self.half) ** 2]))
        stuck = self.stuck(pose, gradient)
        A = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, A)
        A += np.eye(self.skeleton.size) * (damping[:, None, None] * 0.01 + np.where(stuck, 1.0, 1e-9)[:, :, None])
        return -np.linalg.solve(A, np.where(stuck, 0.0, gradient)[..., None])[..., 0]

    def stuck(self, pose: Array, gradient: Array) -> NDArray[np.bool_]:
        """(B, 6 + A): which angles are at a limit and push against it; they take no part in a step."""
        angles, push = pose[:, RIGID:], gradient[:, RIGID:]
        result = np.zeros(pose.shape, bool)
        result[:, RIGID:] = ((angles <= self.skeleton.least) & (push > 0)) | (
            (angles >= self.skeleton.largest) & (push < 0)
        )
        return result

    def moved(self, pose: Array, step: Array) -> Array:
        """The poses after a step, angles within their limits."""
        new = pose + step
        new[:, :3] = (Rotation.from_rotvec(step[:, :3]) * Rotation.from_rotvec(pose[:, :3])).as_rotvec()
        new[:, RIGID:] = np.clip(new[:, RIGID:], self.skeleton.least, self.skeleton.largest)
        return new


def _best_start(problem: _Problem) -> Array:
    """Of several hand shapes, each a little fitted, the best for each frame."""
    tried = [_descend(problem, start, 12) for start in _starts(problem)]
    costs = np.stack([problem.cost(pose) for pose in tried])
    return np.stack(tried)[costs.argmin(0), np.arange(len(problem.joints))]


def _starts(problem: _Problem) -> list[Array]:
    """Hand shapes from open to closed, each laid rigidly over the joints (Kabsch 1976)."""
    result = []
    skeleton, joints = problem.skeleton, problem.joints
    flexions = np.array(
        ["_x" in name and ("proximal" in name or "middle" in name or "distal" in name) for name in skeleton.angles]
    )
    for bend in (0.15, 0.8, 1.3):
        pose = np.zeros((1, skeleton.size))
        pose[0, RIGID:] = np.clip(bend * flexions, skeleton.least, skeleton.largest)
        R, t = _laid_over(skeleton.points(pose, problem.bone, problem.offset)[0], joints)
        poses = np.repeat(pose, len(joints), 0)
        poses[:, :3], poses[:, 3:6] = Rotation.from_matrix(R).as_rotvec(), t
        result.append(poses)
    return result


def _laid_over(model: Array, joints: Array) -> tuple[Array, Array]:
    """Rotations (B, 3, 3) and translations (B, 3) that bring points (P, 3) nearest to the known ones of (B, P, 3)."""
    known = ~np.isnan(joints[..., 0])
    target = np.where(known[..., None], joints, 0.0)
    weight = known / np.maximum(known.sum(1, keepdims=True), 1)
    a, b = (weight[..., None] * model).sum(1), (weight[..., None] * target).sum(1)  # centroids
    H = np.einsum("bp,bpi,bpj->bij", weight, model - a[:, None], target - b[:, None])
    U, _, Vt = np.linalg.svd(H)
    V = Vt.transpose(0, 2, 1)
    V[:, :, 2] *= np.sign(np.linalg.det(V @ U.transpose(0, 2, 1)))[:, None]
    R = V @ U.transpose(0, 2, 1)
    return R, b - (R @ a[..., None])[..., 0]


def _descend(problem: _Problem, pose: Array, iterations: int) -> Array:
    """Levenberg-Marquardt from poses (B, 6 + A), each frame with a damping of its own."""
    pose, cost = pose.copy(), problem.cost(pose)
    damping = np.full(len(pose), 1e-4)
    active = np.arange(len(pose))
    for _ in range(iterations):
        part = problem.of(active)
        new = part.moved(pose[active], part.step(pose[active], damping[active]))
        cost_new = part.cost(new)
        gain = cost[active] - cost_new
        better = cost_new < cost[active]
        damping[active] = np.where(better, damping[active] * 0.2, damping[active] * 8.0)
        pose[active[better]] = new[better]
        cost[active[better]] = cost_new[better]
        active = active[np.where(better, gain > 1e-4 * cost_new + 1e-10, damping[active] < 1e3)]
        if not len(active):
            break
    return pose


def fit_shape(
    skeleton: Skeleton, landmarks: Sequence[Landmark], joints: Array, rounds: int = 8, stiffness: float = 0.02
) -> tuple[Skeleton, tuple[Landmark, ...]]:
    """The bone lengths of one person, and where the dataset's landmarks sit on the bones, from `joints` (B, P, 3),
    metres; some hundred frames with different poses will do. `stiffness` holds them at the given ones: it weighs a
    deviation as that share of all frames."""
    landmarks = tuple(landmarks)
    pose = None
    for _ in range(rounds):
        pose = fit_poses(skeleton, landmarks, joints, pose, iterations=10 if pose is not None else 20).pose
        skeleton, landmarks = _lengths(skeleton, landmarks, joints, pose, stiffness)
    return skeleton, landmarks


class _Unknown(NamedTuple):
    """What `_lengths` looks for: how far the bone or landmark of this number moves along `direction` (3,), in the frame
    that its offset is given in."""

    of_bone: bool
    number: int
    direction: Array


def _lengths(
    skeleton: Skeleton, landmarks: tuple[Landmark, ...], joints: Array, pose: Array, stiffness: float
) -> tuple[Skeleton, tuple[Landmark, ...]]:
    """The offsets of bones and landmarks that bring them nearest to the joints, under given poses."""
    bone, offset = skeleton.on_bones(landmarks)
    unknowns = _unknowns(skeleton, len(landmarks))
    residual = joints - skeleton.points(pose, bone, offset)
    known = ~np.isnan(residual)
    J = np.where(known[..., None], _derivatives(skeleton, bone, pose, unknowns), 0.0).reshape(-1, len(unknowns))
    A = J.T @ J + stiffness * len(pose) * np.eye(len(unknowns))
    change = np.linalg.solve(A, J.T @ np.nan_to_num(residual).reshape(-1))
    offsets = np.stack([b.offset for b in skeleton.bones])
    moved = [x.offset.copy() for x in landmarks]
    for value, (of_bone, i, direction) in zip(change, unknowns, strict=True):
        (offsets if of_bone else moved)[i] += value * direction
    return skeleton.with_offsets(offsets), tuple(replace(x, offset=o) for x, o in zip(landmarks, moved, strict=True))


def _unknowns(skeleton: Skeleton, landmarks: int) -> list[_Unknown]:
    """The offset of each bone, free where it starts at the palm, else along its parent; and that of each landmark."""
    result = []
    for j, b in enumerate(skeleton.bones):
        if not b.offset.any():
            continue
        from_palm = b.parent == "palm" or (
            str(b.parent).endswith("_metacarpal") and not str(b.parent).startswith("thumb")
        )
        directions = np.eye(3) if from_palm else (b.offset / np.linalg.norm(b.offset))[None]
        result += [_Unknown(True, j, d) for d in directions]
    return result + [_Unknown(False, p, d) for p in range(landmarks) for d in np.eye(3)]


def _derivatives(skeleton: Skeleton, bone: Bones, pose: Array, unknowns: list[_Unknown]) -> Array:
    """(B, P, 3, unknowns): by how much each moves each landmark."""
    R, _ = skeleton.frames(pose)
    root = Rotation.from_rotvec(pose[:, :3]).as_matrix()
    mirror = np.array([-1.0 if skeleton.left else 1.0, 1.0, 1.0])
    J = np.zeros((len(pose), len(bone), 3, len(unknowns)))
    for p in range(len(bone)):
        chain, k = set(), int(bone[p])
        while k >= 0:
            chain.add(k)
            k = skeleton.parents[k]
        for c, (of_bone, i, direction) in enumerate(unknowns):
            if of_bone and i in chain:
                parent = skeleton.parents[i]
                J[:, p, :, c] = (root if parent < 0 else R[:, parent]) @ (direction * mirror)
            elif not of_bone and i == p:
                J[:, p, :, c] = R[:, bone[p]] @ (direction * mirror)
    return J
