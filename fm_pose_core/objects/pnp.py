"""Pose from the 8 projected corners of the object's box: solve, refine, and say how sure.

A closed-form solution (SQPnP) starts a weighted Levenberg-Marquardt that works on the pose with a left perturbation,
p = exp(w) R X + t + d, so that its information matrix is at once that of (d, w): metres along, and radians about, the
fixed axes of the camera.
"""

from dataclasses import dataclass, replace

import numpy as np

from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, exp_so3, skew, transform

FLOOR = 0.5  # pixels: no predicted corner is better than this
NEAR = 1e-3  # metres: a corner nearer to the camera's plane than this counts as behind it
ITERATIONS = 20
MINUS_SKEW = np.zeros((3, 9))  # q @ MINUS_SKEW are the entries of -skew(q)
MINUS_SKEW[0, [5, 7]], MINUS_SKEW[1, [2, 6]], MINUS_SKEW[2, [1, 3]] = (1, -1), (-1, 1), (1, -1)
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
    pixels of an ideal pinhole camera with K (3, 3). spread: (8, 2) standard deviations in pixels as the network tells
    them, or None for zero. One measurement's variance is s² = floor² + (spread_scale · spread)²; the covariance adds
    to it whatever the residuals show beyond that, so that a network that is too sure of itself is found out.

    Bad corners (not finite, all in one place, no pose in front of the camera, RMS above `max_reprojection_error`
    pixels) do not raise: `accepted` is False and `reason` says why. Raises InputError for wrong shapes.
    """
    X, uv = np.asarray(box_corners, dtype=np.float64), np.asarray(corners, dtype=np.float64)
    s = np.zeros_like(uv) if spread is None else np.asarray(spread, dtype=np.float64)
    expect(X.ndim == 2 and X.shape[1] == 3 and len(X) >= 6, "box_corners", "shape (8, 3)", X.shape)
    expect(uv.shape == (len(X), 2), "corners", f"shape ({len(X)}, 2)", uv.shape)
    expect(s.shape == uv.shape, "spread", f"shape {uv.shape}", s.shape)
    if not np.isfinite(uv).all() or not np.isfinite(s).all():
        return _refused("the network's corners or spreads are not finite")
    if np.ptp(uv, axis=0).max() < 1.0:
        return _refused("the corners lie in one place")

    start = _closed_form(X, uv, K)
    if start is None:
        return _refused("no pose has all corners in front of the camera")
    found = refine_pnp(transform(*start), X, uv, K, floor**2 + (spread_scale * s) ** 2)
    if found.accepted and not found.reprojection_error <= max_reprojection_error:
        reason = f"reprojection error {found.reprojection_error:.1f} px is above {max_reprojection_error:.1f} px"
        return replace(found, accepted=False, reason=reason)
    return found


def refine_pnp(T_camera_object: Array, X: Array, uv: Array, K: Array, variance: Array) -> PnpSolution:
    """The pose near a given one (4, 4) that fits best: X (N, 3) metres, object frame; uv, variance (N, 2) pixels and
    their squares. Its covariance is that of measurements of these variances, or what the residuals show beyond."""
    T, residual, J = fit(T_camera_object, X, uv, K, variance)
    rms = float(np.sqrt(residual @ residual / len(X)))
    freedom = residual.size - 6
    excess = max(0.0, float(residual @ residual) / freedom - float(variance.mean()))
    covariance = inverse_spd(J.T @ (J / (variance + excess).reshape(-1, 1)))
    if covariance is None:
        return _refused("the corners do not determine a pose")
    return PnpSolution(T, rms, covariance, True)


def fit(T_camera_object: Array, X: Array, uv: Array, K: Array, variance: Array) -> tuple[Array, Array, Array]:
    """Levenberg-Marquardt on the weighted reprojection error, of what `refine_pnp` is given. Points stay in front.

    Returns T (4, 4), the residuals (2N,) in pixels and their Jacobian (2N, 6) with respect to (d, w), at the solution.
    """
    import cv2

    R, t = T_camera_object[:3, :3], T_camera_object[:3, 3]
    weight, damping = 1.0 / variance.reshape(-1), 1e-4
    pixels, J = projected(R, t, X, K)
    residual = (pixels - uv).reshape(-1)
    cost = residual @ (weight * residual)
    for _ in range(ITERATIONS):
        JtW = J.T * weight
        H, g = JtW @ J, JtW @ residual
        H.flat[::7] *= 1.0 + damping  # the diagonal
        solved, step = cv2.solve(H, -g, flags=cv2.DECOMP_CHOLESKY)  # numpy's solvers cost more than the rest
        step = step.reshape(6)
        if not solved or not np.isfinite(step).all() or -(g @ step) <= 1e-8 * cost + 1e-20:  # the cost cannot fall
            break
        new_R, new_t = exp_so3(step[3:]) @ R, t + step[:3]
        if (X @ new_R[2] + new_t[2]).min() > NEAR:
            new_pixels, new_J = projected(new_R, new_t, X, K)
            new_residual = (new_pixels - uv).reshape(-1)
            new_cost = new_residual @ (weight * new_residual)
            if new_cost < cost:
                R, t, residual, J, cost = new_R, new_t, new_residual, new_J, new_cost
                damping = max(damping * 0.1, 1e-12)
                continue
        damping *= 10.0
        if damping > 1e8:
            break
    return transform(R, t), residual, J


def with_distance(found: PnpSolution, center: Array, distance: float, sigma: float) -> PnpSolution:
    """The pose after another measurement: the distance (metres) of the object's point `center` (3,) from the camera,
    whose logarithm has the standard deviation `sigma`. A Kalman update; it moves what the corners leave open, which is
    next to the line of sight alone."""
    start, P = found.T_camera_object, found.covariance
    T, step = start, np.zeros(6)
    for _ in range(2):  # the second time from nearby, where it is linear enough
        turned = T[:3, :3] @ center
        p = turned + T[:3, 3]
        J = np.concatenate([p, skew(turned) @ p]) / float(p @ p)  # of log |p| by (d, w)
        gain = P @ J / float(J @ P @ J + sigma**2)
        step = gain * (np.log(distance / np.linalg.norm(p)) + float(J @ step))
        T = transform(exp_so3(step[3:]) @ start[:3, :3], start[:3, 3] + step[:3])
    return replace(found, T_camera_object=T, covariance=P - np.outer(gain, J @ P))


def rotate_covariance(covariance: Array, R_a_b: Array) -> Array:
    """(6, 6) covariance of a pose in frame b -> in frame a that is turned against it by R_a_b (3, 3), same origin."""
    A = np.zeros((6, 6))
    A[:3, :3] = A[3:, 3:] = R_a_b
    return A @ covariance @ A.T


def expected_projection_error(T_camera_object: Array, covariance: Array, points: Array, K: Array) -> float:
    """Mean over `points` (N, 3; metres, object frame) of the RMS displacement in pixels that a pose error distributed
    as `covariance` (6, 6) causes in the image of a pinhole camera with K (3, 3), to first order."""
    _, J = projected(T_camera_object[:3, :3], T_camera_object[:3, 3], points, K)
    variance = ((J @ covariance) * J).sum(axis=1)  # diagonal of J C Jᵀ
    return float(np.sqrt(variance.reshape(-1, 2).sum(axis=1)).mean())


def score(projection_error: float) -> float:
    """In [0, 1], from the expected 2D projection error in pixels of the real image: 1 for none, 0.5 for 5 px, the
    metric's limit."""
    return 1.0 / (1.0 + (projection_error / GOOD_PROJECTION) ** 2)


def _refused(reason: str) -> PnpSolution:
    return PnpSolution(np.eye(4), np.inf, np.full((6, 6), np.nan), False, reason)


def _closed_form(X: Array, uv: Array, K: Array) -> tuple[Array, Array] | None:
    """(R, t) that minimises the algebraic error with every point in front of the camera, or None."""
    import cv2

    for method in (cv2.SOLVEPNP_SQPNP, cv2.SOLVEPNP_EPNP):
        try:
            found = cv2.solvePnPGeneric(X, uv, K, np.zeros(0), flags=method)
        except cv2.error:
            continue
        vectors = [
            (np.asarray(r, np.float64).reshape(3), np.asarray(t, np.float64).reshape(3))
            for r, t in zip(*found[1:3], strict=True)
        ]
        finite = (x for x in vectors if np.isfinite(x).all())
        poses = [(R, t) for R, t in ((exp_so3(r), t) for r, t in finite) if ((X @ R[2]) + t[2]).min() > NEAR]
        if len(poses) == 1:
            return poses[0]
        if poses:
            return min(poses, key=lambda pose: float(np.square(projected(pose[0], pose[1], X, K)[0] - uv).sum()))
    return None


def inverse_spd(information: Array) -> Array | None:
    """Inverse of a symmetric positive definite matrix, None if it is singular. By eigenvalues: OpenBLAS starts threads
    for the LU factorisation of even a 6x6 matrix, which can cost a millisecond on a busy machine."""
    scale = np.sqrt(np.diag(information))
    if not np.isfinite(scale).all() or scale.min() <= 0:
        return None
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    if values[0] <= 1e-12 * values[-1]:
        return None
    half = vectors / np.sqrt(values) / scale[:, None]
    return half @ half.T


def projected(R: Array, t: Array, X: Array, K: Array) -> tuple[Array, Array]:
    """Pixels (N, 2) of the points X (N, 3) and their Jacobian (2N, 6) with respect to the left perturbation (d, w)."""
    q = X @ R.T
    uvw = (q + t) @ K.T
    inverse_z = 1.0 / uvw[:, 2:]  # K[2] is (0, 0, 1)
    pixels = uvw[:, :2] * inverse_z
    J = np.empty((len(X), 2, 6))
    A = J[:, :, :3]  # d pixels / d p
    np.multiply(K[:2], inverse_z[:, :, None], out=A)
    A[:, :, 2] -= pixels * inverse_z
    J[:, :, 3:] = A @ (q @ MINUS_SKEW).reshape(-1, 3, 3)  # a · cross(w, q) = -a · skew(q) w
    return pixels, J.reshape(-1, 6)
