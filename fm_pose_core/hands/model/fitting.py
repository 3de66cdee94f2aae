"""From annotated 3D joints to the pose and the bone lengths of the hand (issue: T^M needs a rendering under the same
pose).

`fit_poses` is a damped Gauss-Newton with joint limits over many frames at a time; `fit_shape` alternates it with a
linear least squares for the lengths, in which the joints' positions are linear once all rotations are known.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array
from fm_pose_core.hands.model.skeleton import RIGID, Landmark, Skeleton, rotations

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
        part = joints[i : i + BATCH]
        if start is not None:
            parts.append(_descend(skeleton, bone, offset, part, start[i : i + BATCH], iterations, prior))
            continue
        tried = [_descend(skeleton, bone, offset, part, s, 12, prior) for s in _starts(skeleton, bone, offset, part)]
        costs = np.stack([_cost(skeleton, bone, offset, part, pose, prior) for pose in tried])
        best = np.stack(tried)[costs.argmin(0), np.arange(len(part))]
        parts.append(_descend(skeleton, bone, offset, part, best, iterations, prior))
    pose = np.concatenate(parts) if parts else np.zeros((0, skeleton.size))
    return Fit(pose, skeleton.points(pose, bone, offset))


def _starts(skeleton: Skeleton, bone: Bones, offset: Array, joints: Array) -> list[Array]:
    """Hand shapes from open to closed, each laid rigidly over the joints (Kabsch 1976)."""
    result = []
    flexions = np.array(
        ["_x" in name and ("proximal" in name or "middle" in name or "distal" in name) for name in skeleton.angles]
    )
    known = ~np.isnan(joints[..., 0])
    target = np.where(known[..., None], joints, 0.0)
    weight = known / np.maximum(known.sum(1, keepdims=True), 1)
    for bend in (0.15, 0.8, 1.3):
        pose = np.zeros((1, skeleton.size))
        pose[0, RIGID:] = np.clip(bend * flexions, skeleton.least, skeleton.largest)
        model = skeleton.points(pose, bone, offset)[0]
        a, b = (weight[..., None] * model).sum(1), (weight[..., None] * target).sum(1)  # centroids
        H = np.einsum("bp,bpi,bpj->bij", weight, model - a[:, None], target - b[:, None])
        U, _, Vt = np.linalg.svd(H)
        V = Vt.transpose(0, 2, 1)
        V[:, :, 2] *= np.sign(np.linalg.det(V @ U.transpose(0, 2, 1)))[:, None]
        R = V @ U.transpose(0, 2, 1)
        poses = np.repeat(pose, len(joints), 0)
        poses[:, :3] = rotation_vectors(R)
        poses[:, 3:6] = b - (R @ a[..., None])[..., 0]
        result.append(poses)
    return result


def _cost(skeleton: Skeleton, bone: Bones, offset: Array, joints: Array, pose: Array, prior: float) -> Array:
    d = np.nan_to_num(skeleton.points(pose, bone, offset) - joints)
    return (d**2).sum((1, 2)) + (_from_middle(skeleton, pose, prior) ** 2).sum(1)


def _from_middle(skeleton: Skeleton, pose: Array, prior: float) -> Array:
    middle, half = (skeleton.largest + skeleton.least) / 2, (skeleton.largest - skeleton.least) / 2
    return prior * (pose[:, RIGID:] - middle) / np.maximum(half, 0.1)


def _descend(
    skeleton: Skeleton, bone: Bones, offset: Array, joints: Array, pose: Array, iterations: int, prior: float
) -> Array:
    """Levenberg-Marquardt, each frame with a damping of its own; angles are kept within their limits after each step,
    and one that is at its limit and pushes against it takes no part in the step."""
    pose = pose.copy()
    damping = np.full(len(pose), 1e-4)
    cost = _cost(skeleton, bone, offset, joints, pose, prior)
    half = np.maximum((skeleton.largest - skeleton.least) / 2, 0.1)
    diagonal = np.concatenate([np.zeros(RIGID), (prior / half) ** 2])
    eye = np.eye(skeleton.size)
    active = np.arange(len(pose))
    for _ in range(iterations):
        x = pose[active]
        points, J = skeleton.points_and_jacobian(x, bone, offset)
        residual = np.nan_to_num(points - joints[active]).reshape(len(x), -1)
        J = J.reshape(len(x), -1, skeleton.size)
        gradient = (J.transpose(0, 2, 1) @ residual[..., None])[..., 0]
        gradient[:, RIGID:] += _from_middle(skeleton, x, prior) * prior / half
        A = J.transpose(0, 2, 1) @ J + np.diag(diagonal)
        stuck = np.zeros(x.shape, bool)
        stuck[:, RIGID:] = ((x[:, RIGID:] <= skeleton.least) & (gradient[:, RIGID:] > 0)) | (
            (x[:, RIGID:] >= skeleton.largest) & (gradient[:, RIGID:] < 0)
        )
        A = np.where(stuck[:, :, None] | stuck[:, None, :], 0.0, A)
        gradient = np.where(stuck, 0.0, gradient)
        A += eye * (damping[active, None, None] * 0.01 + np.where(stuck, 1.0, 1e-9)[:, :, None])
        step = -np.linalg.solve(A, gradient[..., None])[..., 0]
        new = x + step
        new[:, :3] = rotation_vectors(rotations(step[:, :3]) @ rotations(x[:, :3]))
        new[:, RIGID:] = np.clip(new[:, RIGID:], skeleton.least, skeleton.largest)
        cost_new = _cost(skeleton, bone, offset, joints[active], new, prior)
        better = cost_new < cost[active]
        gain = cost[active] - cost_new
        damping[active] = np.where(better, damping[active] * 0.2, damping[active] * 8.0)
        pose[active[better]] = new[better]
        cost[active[better]] = cost_new[better]
        going = np.where(better, gain > 1e-4 * cost_new + 1e-10, damping[active] < 1e3)
        active = active[going]
        if not len(active):
            break
    return pose


def rotation_vectors(R: Array) -> Array:
    """Rotation vectors (B, 3) of rotation matrices (B, 3, 3), by way of the quaternion with the largest component."""
    t = np.trace(R, axis1=1, axis2=2)
    q = np.empty((len(R), 4))
    q[:, 0] = 1.0 + t
    for k in range(3):
        i, j = (k + 1) % 3, (k + 2) % 3
        q[:, k + 1] = 1.0 + R[:, k, k] - R[:, i, i] - R[:, j, j]
    largest = q.argmax(1)
    w, x, y, z = 0, 1, 2, 3
    skew = np.stack([R[:, 2, 1] - R[:, 1, 2], R[:, 0, 2] - R[:, 2, 0], R[:, 1, 0] - R[:, 0, 1]], 1)
    plus = {(x, y): R[:, 0, 1] + R[:, 1, 0], (x, z): R[:, 0, 2] + R[:, 2, 0], (y, z): R[:, 1, 2] + R[:, 2, 1]}
    rows = np.empty((4, len(R), 4))
    rows[w] = np.concatenate([q[:, :1], skew], 1)
    for k in (x, y, z):
        rows[k, :, 0], rows[k, :, k] = skew[:, k - 1], q[:, k]
        for m in (x, y, z):
            if m != k:
                rows[k, :, m] = plus[min(k, m), max(k, m)]
    quaternion = rows[largest, np.arange(len(R))]
    quaternion /= np.linalg.norm(quaternion, axis=1, keepdims=True)
    quaternion *= np.where(quaternion[:, :1] < 0, -1.0, 1.0)
    n = np.linalg.norm(quaternion[:, 1:], axis=1, keepdims=True)
    angle = 2.0 * np.arctan2(n, quaternion[:, :1])
    return quaternion[:, 1:] * np.where(n < 1e-12, 2.0, angle / np.maximum(n, 1e-12))


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


def _lengths(
    skeleton: Skeleton, landmarks: tuple[Landmark, ...], joints: Array, pose: Array, stiffness: float
) -> tuple[Skeleton, tuple[Landmark, ...]]:
    bone, offset = skeleton.on_bones(landmarks)
    R, _ = skeleton.frames(pose)
    root = rotations(pose[:, :3])
    mirror = np.array([-1.0 if skeleton.left else 1.0, 1.0, 1.0])
    # Unknowns: the offset of each bone (free where it starts at the palm, else along its parent) and of each landmark.
    columns: list[tuple[str, int, Array]] = []  # kind, index, direction in the frame that the offset is given in
    for j, b in enumerate(skeleton.bones):
        if not b.offset.any():
            continue
        from_palm = b.parent == "palm" or (
            str(b.parent).endswith("_metacarpal") and not str(b.parent).startswith("thumb")
        )
        directions = np.eye(3) if from_palm else (b.offset / np.linalg.norm(b.offset))[None]
        columns += [("bone", j, d) for d in directions]
    columns += [("landmark", p, d) for p in range(len(landmarks)) for d in np.eye(3)]
    J = np.zeros((len(pose), len(landmarks), 3, len(columns)))
    for p in range(len(landmarks)):
        chain, k = set(), int(bone[p])
        while k >= 0:
            chain.add(k)
            k = skeleton.parents[k]
        for c, (kind, i, direction) in enumerate(columns):
            if kind == "bone" and i in chain:
                parent = skeleton.parents[i]
                J[:, p, :, c] = (root if parent < 0 else R[:, parent]) @ (direction * mirror)
            elif kind == "landmark" and i == p:
                J[:, p, :, c] = R[:, bone[p]] @ (direction * mirror)
    residual = joints - skeleton.points(pose, bone, offset)
    known = ~np.isnan(residual)
    J = np.where(known[..., None], J, 0.0).reshape(-1, len(columns))
    residual = np.nan_to_num(residual).reshape(-1)
    A = J.T @ J + stiffness * len(pose) * np.eye(len(columns))
    change = np.linalg.solve(A, J.T @ residual)
    offsets = np.stack([b.offset for b in skeleton.bones])
    moved = [x.offset.copy() for x in landmarks]
    for value, (kind, i, direction) in zip(change, columns, strict=True):
        (offsets if kind == "bone" else moved)[i] += value * direction
    return skeleton.with_offsets(offsets), tuple(replace(x, offset=o) for x, o in zip(landmarks, moved, strict=True))
