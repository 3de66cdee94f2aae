"""Poses from the 8 projected corners of objects' boxes: solve, refine, and say how sure. For all windows of an image at
once: a closed-form solution (SQPnP) of each starts a weighted Levenberg-Marquardt, see reprojection.py."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, apply, exp_so3, project, skew, transform
from fm_pose_core.objects.reprojection import LEAST_GAIN, NEAR, Points, fit, projected
from fm_pose_core.types import Camera

FLOOR = 0.5  # pixels: no predicted corner is better than this
GOOD_PROJECTION = 5.0  # pixels: the threshold of the 2D projection metric that the score speaks about


@dataclass(frozen=True)
class PnpSolution:
    """What the corners say.

    T_camera_object: (4, 4), metres; identity where there is no solution. reprojection_error: RMS pixels over the 8
    corners, infinite without a solution. covariance: (6, 6) of (x, y, z, rotX, rotY, rotZ), metres and radians about
    the fixed axes of the camera. accepted: False if there is no usable pose; `reason` then says why.
    """

    T_camera_object: Array
    reprojection_error: float
    covariance: Array
    accepted: bool
    reason: str = ""


@dataclass(frozen=True)
class PnpSolutions:
    """As PnpSolution, of B windows: T_camera_object (B, 4, 4), reprojection_error (B,), covariance (B, 6, 6), and the
    reasons, empty where there is a pose."""

    T_camera_object: Array
    reprojection_error: Array
    covariance: Array
    reasons: tuple[str, ...]

    @classmethod
    def refused(cls, reasons: Sequence[str]) -> "PnpSolutions":
        """No poses."""
        count = len(reasons)
        T = np.tile(np.eye(4), (count, 1, 1))
        return cls(T, np.full(count, np.inf), np.full((count, 6, 6), np.nan), tuple(reasons))

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """(B,) where there is a pose."""
        return np.array([not reason for reason in self.reasons], bool)

    def __getitem__(self, i: int) -> PnpSolution:
        T, error, covariance, reason = self.T_camera_object, self.reprojection_error, self.covariance, self.reasons[i]
        return PnpSolution(T[i], float(error[i]), covariance[i], not reason, reason)

    def of(self, rows: NDArray[np.int64]) -> "PnpSolutions":
        """Those of some windows (M,)."""
        T, error, covariance = self.T_camera_object, self.reprojection_error, self.covariance
        return PnpSolutions(T[rows], error[rows], covariance[rows], tuple(self.reasons[i] for i in rows))

    def changed(self, rows: NDArray[np.int64], found: "PnpSolutions") -> "PnpSolutions":
        """With what was found (M) for some windows (M,) in place of what was there."""
        T, error, covariance = self.T_camera_object.copy(), self.reprojection_error.copy(), self.covariance.copy()
        T[rows], error[rows], covariance[rows] = found.T_camera_object, found.reprojection_error, found.covariance
        reasons = list(self.reasons)
        for row, reason in zip(rows, found.reasons, strict=True):
            reasons[row] = reason
        return PnpSolutions(T, error, covariance, tuple(reasons))


def widened(corners: Array, deviation: Array) -> Array:
    """A network's corners (N, 2) with the deviations (N, 2), as far apart as the true ones are in the mean.

    A network that is unsure answers with the mean of what it takes for possible, and the mean of boxes that are turned
    differently is smaller than each of them: E|c|² = |E c|² + variance, about the middle of the corners. A box that is
    too small is taken for one that is far away. An answer that leaves more open than it says grows by √2.
    """
    middle = corners.mean(0)
    squared, variance = (float(np.square(x).sum()) for x in (corners - middle, deviation))
    if not squared > 0.0:
        return corners
    return np.asarray(middle + (corners - middle) * np.sqrt(1.0 + min(1.0, variance / squared)))


def solve_pnp(
    box_corners: Array,
    corners: Array,
    K: Array,
    spread: Array | None = None,
    *,
    floor: float = FLOOR,
    spread_scale: float = 1.0,
    max_reprojection_error: float = np.inf,
) -> PnpSolution:
    """Pose of the object whose box corners project onto `corners`.

    box_corners: (8, 3) metres, object frame (any N >= 6 points that are not in one plane will do). corners: (8, 2)
    pixels of an ideal pinhole camera with K (3, 3), without skew. spread: (8, 2) standard deviations in pixels as the
    network tells them, or None for zero. One measurement's variance is s² = floor² + (spread_scale · spread)²; the
    covariance adds to it whatever the residuals show beyond that, so that a network that is too sure of itself is found
    out.

    Bad corners (not finite, all in one place, no pose in front of the camera, RMS above `max_reprojection_error`
    pixels) do not raise: `accepted` is False and `reason` says why. Raises InputError for wrong shapes.
    """
    X, uv = np.asarray(box_corners, dtype=np.float64), np.asarray(corners, dtype=np.float64)
    s = np.zeros_like(uv) if spread is None else np.asarray(spread, dtype=np.float64)
    expect(X.ndim == 2 and X.shape[1] == 3 and len(X) >= 6, "box_corners", "shape (8, 3)", X.shape)
    expect(uv.shape == (len(X), 2), "corners", f"shape ({len(X)}, 2)", uv.shape)
    expect(s.shape == uv.shape, "spread", f"shape {uv.shape}", s.shape)
    points = Points(X.T[None], uv.T[None], np.asarray(K, dtype=np.float64)[None])
    found = solve_corners(points, (floor**2 + (spread_scale * s) ** 2).T[None])[0]
    if found.accepted and not found.reprojection_error <= max_reprojection_error:
        reason = f"reprojection error {found.reprojection_error:.1f} px is above {max_reprojection_error:.1f} px"
        return replace(found, accepted=False, reason=reason)
    return found


def solve_corners(corners: Points, variance: Array, least_gain: float | Array = LEAST_GAIN) -> PnpSolutions:
    """As solve_pnp, of B windows at once. variance (B, 2, N): of the corners' pixels. least_gain: see fit."""
    closed = [_closed_form(X, uv, K, s2) for X, uv, K, s2 in zip(*corners, variance, strict=True)]
    starts = [x for x in closed if not isinstance(x, str)]
    if len(starts) == len(closed):
        return refine_pnp(np.array(starts), corners, variance, least_gain)
    found = PnpSolutions.refused([x if isinstance(x, str) else "" for x in closed])
    rows = np.flatnonzero(found.accepted)
    if not len(rows):
        return found
    least = np.broadcast_to(least_gain, len(closed))[rows]
    return found.changed(rows, refine_pnp(np.array(starts), corners.of(rows), variance[rows], least))


def refine_pnp(
    T_camera_object: Array, points: Points, variance: Array, least_gain: float | Array = LEAST_GAIN
) -> PnpSolutions:
    """The poses near the given ones (B, 4, 4) that fit best. variance (B, 2, N): of the pixels, infinite for what is
    not there. least_gain: see fit. The covariance is that of measurements of these variances, or what residuals show
    beyond their mean. Variances that are enlarged to count less (surface.py) are not exceeded."""
    count = len(variance)
    weight, flat = 1.0 / variance, variance.reshape(count, -1)
    T, residual, J = fit(T_camera_object, points, weight, least_gain)
    present = weight.reshape(count, -1) > 0.0
    number, told = present.sum(1), np.where(present, flat, 0.0).sum(1)
    squared = np.square(residual.reshape(count, -1)).sum(1, where=present)
    excess = np.maximum(0.0, squared / (number - 6) - told / number)
    J = J.reshape(count, 6, -1)
    covariance = inverse_spd((J / (flat + excess[:, None])[:, None]) @ J.swapaxes(1, 2))
    found = PnpSolutions(T, np.sqrt(2.0 * squared / number), covariance, ("",) * count)
    lost = np.flatnonzero(np.isnan(covariance[:, 0, 0]))
    unknown = ["the corners do not determine a pose"] * len(lost)
    return found.changed(lost, PnpSolutions.refused(unknown)) if len(lost) else found


def with_distance(found: PnpSolutions, center: Array, distance: Array, sigma: Array) -> PnpSolutions:
    """The poses, which there must be, after another measurement: the distance (B,) in metres of the point `center`
    (B, 3) of each object from the camera, whose logarithm has the standard deviation `sigma` (B,). A Kalman update; it
    moves what the corners leave open, which is next to the line of sight alone."""
    P, T = found.covariance, found.T_camera_object
    step = np.zeros((len(T), 6))
    for _ in range(2):  # the second time from nearby, where it is linear enough
        turned = (T[:, :3, :3] @ center[:, :, None])[:, :, 0]
        p = turned + T[:, :3, 3]
        squared = np.square(p).sum(1, keepdims=True)
        J = np.concatenate([p, np.cross(turned, p)], 1) / squared  # of log |p| by (d, w)
        PJ = (P @ J[:, :, None])[:, :, 0]
        gain = PJ / ((J * PJ).sum(1) + sigma**2)[:, None]
        off = np.log(distance) - 0.5 * np.log(squared[:, 0]) + (J * step).sum(1)
        step = gain * off[:, None]
        T = found.T_camera_object.copy()
        T[:, :3, :3] = np.stack([exp_so3(w) for w in step[:, 3:]]) @ T[:, :3, :3]
        T[:, :3, 3] += step[:, :3]
    return replace(found, T_camera_object=T, covariance=P - gain[:, :, None] * PJ[:, None])


def rotate_covariance(covariance: Array, R_a_b: Array) -> Array:
    """(…, 6, 6) covariance of a pose in frame b -> in frame a that is turned against it by R_a_b (…, 3, 3), same
    origin."""
    A = np.zeros((*R_a_b.shape[:-2], 6, 6))
    A[..., :3, :3] = A[..., 3:, 3:] = R_a_b
    return np.asarray(A @ covariance @ np.swapaxes(A, -1, -2))


def moved_origin(covariance: Array, step: Array) -> Array:
    """(6, 6) covariance of a pose -> of the same object's pose whose origin is `step` (3,) metres away, along the fixed
    axes of the camera: as that of T -> that of T S, which may be turned, too."""
    A = np.eye(6)
    A[:3, 3:] = -skew(step)
    return np.asarray(A @ covariance @ A.T)


def expected_projection_error(T_camera_object: Array, covariance: Array, points: Array, camera: Camera) -> float:
    """Mean over `points` (N, 3; metres, object frame) of the RMS displacement in pixels that a pose error distributed
    as `covariance` (6, 6) causes in the camera's image, distorted as it is, to first order."""
    return float(expected_projection_errors(T_camera_object[None], covariance[None], points[None], [camera])[0])


def expected_projection_errors(
    T_camera_object: Array, covariance: Array, points: Array, cameras: Sequence[Camera]
) -> Array:
    """The same (B,) of several poses (B, 4, 4), with covariances (B, 6, 6), points (B, N, 3), and the camera of
    each."""
    T, K = T_camera_object, np.stack([camera.K for camera in cameras])
    pixels, J, _ = projected(T[:, :3, :3], T[:, :3, 3], points.swapaxes(1, 2), K)
    for i, camera in enumerate(cameras):
        if camera.distortion.size:
            J[i] = _bent(J[i], pixels[i], camera)
    flat = J.reshape(len(T), 6, -1)
    variance = ((covariance @ flat) * flat).sum(1).reshape(len(T), 2, -1)  # diagonals of Jᵀ C J
    return np.asarray(np.sqrt(variance.sum(1)).mean(1))


def _bent(J: Array, pixels: Array, camera: Camera) -> Array:
    """The derivatives (6, 2, N) of a pinhole camera's pixels (2, N) -> those of the pixels of `camera`, which has the
    same K."""
    focal, middle = np.diag(camera.K)[:2], camera.K[:2, 2]
    rays = np.column_stack([(pixels.T - middle) / focal, np.ones(pixels.shape[1])])
    return np.asarray(np.einsum("nij,kjn->kin", camera.magnification(rays) / focal, J))


def score(projection_error: float) -> float:
    """In [0, 1], from the expected 2D projection error in pixels of the real image: 1 for none, 0.5 for 5 px, the
    metric's limit."""
    return 1.0 / (1.0 + (projection_error / GOOD_PROJECTION) ** 2)


def _closed_form(X: Array, uv: Array, K: Array, variance: Array) -> Array | str:
    """T (4, 4) that minimises the algebraic error with every point in front of the camera, or why there is none. X
    (3, N), uv and variance (2, N)."""
    import cv2

    if not np.isfinite(uv).all() or not np.isfinite(variance).all():
        return "the network's corners or spreads are not finite"
    if np.ptp(uv, axis=1).max() < 1.0:
        return "the corners lie in one place"
    points, pixels = np.ascontiguousarray(X.T), np.ascontiguousarray(uv.T)
    for method in (cv2.SOLVEPNP_SQPNP, cv2.SOLVEPNP_EPNP):
        try:
            found = cv2.solvePnPGeneric(points, pixels, K, np.zeros(0), flags=method)
        except cv2.error:
            continue
        vectors = [
            (np.asarray(r, np.float64).reshape(3), np.asarray(t, np.float64).reshape(3))
            for r, t in zip(*found[1:3], strict=True)
        ]
        poses = [transform(exp_so3(r), t) for r, t in vectors if np.isfinite(r).all() and np.isfinite(t).all()]
        poses = [T for T in poses if (T[2, :3] @ X + T[2, 3]).min() > NEAR]
        if len(poses) == 1:
            return poses[0]
        if poses:
            return min(poses, key=lambda T: float(np.square(project(K, apply(T, points)) - pixels).sum()))
    return "no pose has all corners in front of the camera"


def inverse_spd(information: Array) -> Array:
    """Inverses of symmetric positive definite matrices (…, D, D), NaN where they are singular. By eigenvalues: for
    the inverse of even a 6x6 matrix OpenBLAS starts threads, which can cost a millisecond on a busy machine."""
    diagonal = np.diagonal(information, axis1=-2, axis2=-1)
    good = np.isfinite(information).all((-2, -1)) & (diagonal > 0.0).all(-1)
    if not good.all():
        information = np.where(good[..., None, None], information, np.eye(information.shape[-1]))
        diagonal = np.diagonal(information, axis1=-2, axis2=-1)
    scale = np.sqrt(diagonal)
    values, vectors = np.linalg.eigh(information / (scale[..., :, None] * scale[..., None, :]))
    good &= values[..., 0] > 1e-12 * values[..., -1]
    half = vectors / np.sqrt(np.where(good[..., None], values, 1.0))[..., None, :] / scale[..., :, None]
    inverse = half @ half.swapaxes(-1, -2)
    inverse[~good] = np.nan
    return np.asarray(inverse)
