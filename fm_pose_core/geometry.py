"""Rotations, rigid transforms and projection. SI units, float64, column vectors.

`T_a_b` (4, 4) takes points from frame b to frame a: p_a = T_a_b p_b. The camera frame is the optical one
(z forward, x right, y down; ROS REP 103).
"""

import math

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from fm_pose_core.errors import InputError, expect

Array = NDArray[np.float64]
NO_TURN = 1e-6  # radians, about: the axis of a turn that is less, or so near to a half turn, takes more care


def transform(R: Array, t: Array) -> Array:
    """(3, 3) rotation and (3,) translation -> (4, 4) rigid transform."""
    T = np.eye(4)
    T[:3, :3] = R
    T[:3, 3] = np.asarray(t).reshape(3)
    return T


def inverse(T: Array) -> Array:
    """Inverse of a (4, 4) rigid transform."""
    R = T[:3, :3].T
    return transform(R, -R @ T[:3, 3])


def apply(T: Array, points: Array) -> Array:
    """Transform (N, 3) points by a (4, 4) rigid transform."""
    return points @ T[:3, :3].T + T[:3, 3]


def project_to_so3(M: Array) -> Array:
    """Nearest rotation (Frobenius) to a (3, 3) matrix, by SVD. Raises InputError for numbers that are not finite, with
    which the SVD may never return."""
    if not np.isfinite(M).all():
        raise InputError(f"rotation: expected finite numbers, got {np.asarray(M).tolist()}")
    U, _, Vt = np.linalg.svd(M)
    return U @ np.diag([1.0, 1.0, np.sign(np.linalg.det(U @ Vt))]) @ Vt


def skew(w: Array) -> Array:
    """(3,) -> (3, 3) with skew(w) @ v == cross(w, v)."""
    return np.array([[0.0, -w[2], w[1]], [w[2], 0.0, -w[0]], [-w[1], w[0], 0.0]])


def exp_so3(w: Array) -> Array:
    """Rotation vector (3,) in radians -> (3, 3) rotation (Rodrigues). Written out, since the refinement of PnP calls it
    in its inner loop, where SciPy's Rotation takes longer. NaN for what is not finite, or beyond all numbers that make
    sense."""
    x, y, z = np.asarray(w, dtype=np.float64).tolist()
    angle = math.hypot(x, y, z)
    if not angle < 1e100:
        return np.full((3, 3), np.nan)
    # sin(a) / a and (1 - cos(a)) / a², to first order where they cannot be computed so
    s, c = (math.sin(angle) / angle, (1.0 - math.cos(angle)) / angle**2) if angle >= 1e-8 else (1.0, 0.0)
    return np.array(
        [
            [1.0 - c * (y * y + z * z), c * x * y - s * z, c * x * z + s * y],
            [c * x * y + s * z, 1.0 - c * (x * x + z * z), c * y * z - s * x],
            [c * x * z - s * y, c * y * z + s * x, 1.0 - c * (x * x + y * y)],
        ]
    )


def log_so3(R: Array) -> Array:
    """(3, 3) rotation -> rotation vector (3,) in radians, angle in [0, pi]."""
    (_, a, b), (c, _, d), (e, f, _) = rows = R.tolist()
    v = np.array([f - d, b - e, c - a])  # 2 sin(angle), along the axis
    sine, cosine = math.sqrt(v @ v), rows[0][0] + rows[1][1] + rows[2][2] - 1.0
    if sine > NO_TURN:
        return v * (math.atan2(sine, cosine) / sine)
    return v / 2 if cosine > 0 else np.asarray(Rotation.from_matrix(R).as_rotvec())  # next to none, and to a half turn


def left_jacobian(w: Array) -> Array:
    """(3, 3) J with exp_so3(w + d) = exp_so3(J d) exp_so3(w) for a small d (Sola et al., arXiv:1812.01537, Eq. 145)."""
    angle = float(np.linalg.norm(w))
    W = skew(w)
    if angle < 1e-6:
        return np.eye(3) + W / 2
    return np.eye(3) + (1.0 - np.cos(angle)) / angle**2 * W + (angle - np.sin(angle)) / angle**3 * W @ W


def quaternion_from_rotation(R: Array) -> Array:
    """(3, 3) rotation -> unit quaternion (4,) in ROS order x, y, z, w, with w >= 0."""
    return np.asarray(Rotation.from_matrix(R).as_quat(canonical=True))


def rotation_from_quaternion(q: Array) -> Array:
    """Unit quaternion (4,) in ROS order x, y, z, w -> (3, 3) rotation; q is normalised first."""
    return np.asarray(Rotation.from_quat(q).as_matrix())


def rotation_looking_along(ray: Array) -> Array:
    """Smallest rotation R_a_b (3, 3) that takes the z axis of b onto the direction `ray` (3,) given in a.

    A virtual camera b that looks along `ray` of camera a without turning about it.
    """
    z = np.asarray(ray, dtype=np.float64) / np.linalg.norm(ray)
    expect(z[2] > -0.999, "ray", "a direction that is not opposite to the z axis", ray)
    v = np.array([-z[1], z[0], 0.0])  # e_z × z
    V = skew(v)
    return np.eye(3) + V + V @ V / (1.0 + z[2])


def project(K: Array, points_camera: Array) -> Array:
    """Pinhole projection of (…, 3) camera-frame points in metres with K (3, 3) -> (…, 2) pixels."""
    uvw = points_camera @ K.T
    return uvw[..., :2] / uvw[..., 2:]


def inverse_intrinsics(K: Array) -> Array:
    """Inverse of an upper triangular K (3, 3) with K[2, 2] = 1 and without skew."""
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    return np.array([[1.0 / fx, 0.0, -cx / fx], [0.0, 1.0 / fy, -cy / fy], [0.0, 0.0, 1.0]])


def box_corners(minimum: Array, maximum: Array) -> Array:
    """The 8 corners (8, 3) of an axis-aligned box: x is slowest, z fastest; corner 0 is `minimum`, corner 7
    `maximum`."""
    lo, hi = np.asarray(minimum, dtype=np.float64), np.asarray(maximum, dtype=np.float64)
    return np.array([[x, y, z] for x in (lo[0], hi[0]) for y in (lo[1], hi[1]) for z in (lo[2], hi[2])])


# Pairs of corner indices (12, 2) that an edge of the box joins.
BOX_EDGES = ((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (1, 5), (2, 6), (3, 7))

VIEW_SHIFT, VIEW_TURN = 0.05, np.radians(10.0)  # of the views that are averaged: share of a window's width, radians


def view_offsets(count: int) -> list[tuple[float, float, float]]:
    """Of `count` views about a window: shift (u, v) as shares of its width, and turn in radians. One is the window
    itself; more stand on a small circle, turned to and fro. The errors of their answers differ, their mean's is
    smaller."""
    expect(count >= 1, "views", "a number from 1", count)
    if count == 1:
        return [(0.0, 0.0, 0.0)]
    angles = np.pi / 4 + 2 * np.pi * np.arange(count) / count
    turns = [0.0 if count % 2 and k == count - 1 else VIEW_TURN * (-1) ** k for k in range(count)]
    return [
        (VIEW_SHIFT * float(np.cos(a)), VIEW_SHIFT * float(np.sin(a)), t) for a, t in zip(angles, turns, strict=True)
    ]
