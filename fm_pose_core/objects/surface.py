"""Poses from the points of the objects' surfaces that the cells of the windows show, beside the corners of their
boxes."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.contract import CORNERS
from fm_pose_core.geometry import Array, exp_so3, transform
from fm_pose_core.objects.pnp import FLOOR, PnpSolutions, refine_pnp
from fm_pose_core.objects.reprojection import COARSE_GAIN, NEAR, Points, Rows, fit

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
    first: PnpSolutions, corners: Points, deviation: Array, seen: Sequence[Measured], scale: float
) -> PnpSolutions:
    """The poses that fit the corners and the surface points best, robustly. Each starts at `first`, the pose of the
    corners alone, or, where that contradicts many of the points, at the one that RANSAC finds among these (Fischler and
    Bolles 1981), whichever fits better.

    corners: of B boxes; deviation (B, 2, 8): of their pixels. seen: FEWEST points or more of each window. scale: of all
    deviations. Neighbouring cells err alike, so all points together count as if there were as many as corners.
    """
    both = _Both.of_windows(corners, deviation, seen, scale)
    starts, started = first.T_camera_object, first.accepted
    unsure = np.flatnonzero(~started | (both.agreed(starts) < AGREED))
    if len(unsure):
        found = [_ransac(seen[i], corners.K[i]) for i in unsure]
        rows = np.array([i for i, T in zip(unsure, found, strict=True) if T is not None], int)
        if len(rows):
            own = both.of(rows)
            others = np.stack([T for T in found if T is not None])
            better = ~started[rows] | (own.cost(others) < own.cost(starts[rows]))
            starts, started = starts.copy(), started.copy()
            starts[rows[better]], started[rows] = others[better], True
    rows = np.flatnonzero(started)
    if not len(rows):
        return first
    both, T = both.of(rows), starts[rows]
    for _ in range(ROUNDS - 1):
        T = fit(T, both.points, 1.0 / both.weighted(T), COARSE_GAIN)[0]
    solved = refine_pnp(T, both.points, both.weighted(T))
    good = np.flatnonzero(solved.accepted)
    return first.changed(rows[good], solved.of(good))


class _Both(NamedTuple):
    """Corners, and behind them surface points, of B windows; N is that of the window with most of them. base (B, 2, N):
    what of a pixel's variance is known, infinite for what is not there. spread (B, N): deviation of a point, metres; 0
    of corners. share (B, N): what each counts."""

    X: Array
    uv: Array
    K: Array
    base: Array
    spread: Array
    share: Array

    @classmethod
    def of_windows(cls, corners: Points, deviation: Array, seen: Sequence[Measured], scale: float) -> "_Both":
        count, own = len(seen), CORNERS
        total = own + max(len(x.points) for x in seen)
        X, uv = (np.repeat(x[:, :, :1], total, 2) for x in (corners.X, corners.uv))
        X[:, :, :own], uv[:, :, :own] = corners.X, corners.uv
        base, spread, share = np.full((count, 2, total), np.inf), np.zeros((count, total)), np.zeros((count, total))
        base[:, :, :own], share[:, :own] = FLOOR**2 + np.square(scale * deviation), 1.0
        for i, x in enumerate(seen):
            here = slice(own, own + len(x.points))
            X[i, :, here], uv[i, :, here], spread[i, here] = x.points.T, x.pixels.T, scale * x.deviation
            base[i, :, here], share[i, here] = FLOOR**2, own / len(x.points)
        return cls(X, uv, corners.K, base, spread, share)

    @property
    def points(self) -> Points:
        return Points(self.X, self.uv, self.K)

    def of(self, rows: Rows) -> "_Both":
        """Those of some windows."""
        return _Both(*(x[rows] for x in self))

    def _compared(self, T: Array) -> tuple[Array, Array, Array]:
        """With poses (B, 4, 4): the variances (B, 2, N), the squared deviations in terms of them (B, N; 0 for what is
        not there), and the depths (B, N)."""
        p = T[:, :3, :3] @ self.X + T[:, :3, 3:]
        depth = np.maximum(p[:, 2], NEAR)
        variance = self.base + np.square(self.K[:, :1, 0] * self.spread / depth)[:, None]
        focal, middle = self.K[:, (0, 1), (0, 1)][:, :, None], self.K[:, :2, 2:]
        off = focal * p[:, :2] / np.where(p[:, 2:] == 0.0, NEAR, p[:, 2:]) + middle - self.uv
        return variance, (np.square(off) / variance).sum(1), p[:, 2]

    def agreed(self, T: Array) -> Array:
        """(B,) share of the surface points within LIMIT of where poses have them."""
        _, squared, depth = self._compared(T)
        points = self.share > 0.0
        points[:, :CORNERS] = False
        near: NDArray[np.bool_] = (squared < LIMIT**2) & (depth > 0.0) & points
        return np.asarray(near.sum(1) / points.sum(1))

    def cost(self, T: Array) -> Array:
        """(B,), infinite where a point is not in front of the camera."""
        _, squared, depth = self._compared(T)
        cost = (self.share * np.minimum(squared, LIMIT**2)).sum(1)
        return np.where(depth.min(1) > 0.0, cost, np.inf)

    def weighted(self, T: Array) -> Array:
        """(B, 2, N) the variances, larger for what counts less, and the more, the farther it is beyond LIMIT."""
        variance, squared, _ = self._compared(T)
        robust = np.minimum(1.0, LIMIT**2 / np.maximum(squared, 1e-18))
        with np.errstate(divide="ignore"):
            return np.asarray(variance / (self.share * robust)[:, None])


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
