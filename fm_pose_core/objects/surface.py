"""Pose from the points of the object's surface that the cells of the window show, beside the corners of its box."""

from typing import NamedTuple

import numpy as np

from fm_pose_core.geometry import Array, apply, exp_so3, project, transform
from fm_pose_core.objects.pnp import FLOOR, PnpSolution, fit, refine_pnp

FEWEST = 6  # points that are worth a second look
PRESENT = 0.5  # probability from which on a cell shows the object
LIMIT = 3.0  # standard deviations from which on a measurement loses weight
ROUNDS = 2  # of weighting anew
AGREED = 0.7  # share of the points within LIMIT of a pose that needs no other to begin with
TRIALS, NEAR_ENOUGH = 100, 3.0  # of RANSAC; pixels


class Measured(NamedTuple):
    """points (M, 3) of the object's surface, metres, object frame; pixels (M, 2) of the window that show them;
    deviation (M,) of a point's coordinates, metres."""

    points: Array
    pixels: Array
    deviation: Array


def solve_surface(
    first: PnpSolution, box_corners: Array, corners: Array, deviation: Array, seen: Measured, K: Array, scale: float
) -> PnpSolution:
    """The pose that fits the corners and the surface points best, robustly. It starts at `first`, the pose of the
    corners alone, or, where that contradicts many of the points, at the one that RANSAC finds among these (Fischler and
    Bolles 1981), whichever fits better.

    box_corners (8, 3) metres; corners, deviation (8, 2) pixels; K (3, 3) of the window. scale: of all deviations.
    Neighbouring cells err alike, so all points together count as if there were as many as corners.
    """
    X, uv = np.vstack([box_corners, seen.points]), np.vstack([corners, seen.pixels])

    def variance(T: Array) -> Array:
        depth = np.maximum(apply(T, seen.points)[:, 2], 1e-3)
        of_points = np.repeat((scale * seen.deviation * K[0, 0] / depth)[:, None] ** 2, 2, 1)
        return FLOOR**2 + np.vstack([scale**2 * deviation**2, of_points])

    share = np.concatenate([np.ones(len(corners)), np.full(len(seen.points), len(corners) / len(seen.points))])

    def deviations(T: Array, s2: Array) -> Array:
        return np.asarray(np.sqrt((np.square(project(K, apply(T, X)) - uv) / s2).sum(1)))

    def agreed(T: Array) -> float:
        near = deviations(T, variance(T))[len(corners) :] < LIMIT
        return float((near & (apply(T, seen.points)[:, 2] > 0)).mean())

    starts = [first.T_camera_object] if first.accepted else []
    if not starts or agreed(starts[0]) < AGREED:
        starts += [x for x in [_ransac(seen, K)] if x is not None]
    if not starts:
        return first
    T = min(starts, key=lambda T: _cost(T, X, uv, K, variance(T), share))

    def weighted(T: Array) -> Array:
        s2 = variance(T)
        return np.asarray(s2 / (share * np.minimum(1.0, LIMIT / np.maximum(deviations(T, s2), 1e-9)) ** 2)[:, None])

    for _ in range(ROUNDS - 1):
        T = fit(T, X, uv, K, weighted(T))[0]
    found = refine_pnp(T, X, uv, K, weighted(T))
    return found if found.accepted else first


def _cost(T: Array, X: Array, uv: Array, K: Array, variance: Array, share: Array) -> float:
    points = apply(T, X)
    if points[:, 2].min() <= 0:
        return np.inf
    squared = (np.square(project(K, points) - uv) / variance).sum(1)
    return float((share * np.minimum(squared, LIMIT**2)).sum())


def _ransac(seen: Measured, K: Array) -> Array | None:
    import cv2

    try:
        found, r, t, _ = cv2.solvePnPRansac(
            seen.points,
            seen.pixels,
            K,
            None,
            iterationsCount=TRIALS,
            reprojectionError=NEAR_ENOUGH,
            flags=cv2.SOLVEPNP_EPNP,
        )
    except cv2.error:
        return None
    if not found or not np.isfinite(r).all() or not np.isfinite(t).all():
        return None
    return transform(exp_so3(np.asarray(r, np.float64).reshape(3)), np.asarray(t, np.float64).reshape(3))
