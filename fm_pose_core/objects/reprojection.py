"""Levenberg-Marquardt on the weighted reprojection error, for all windows of an image at once.

It works on the pose with a left perturbation, p = exp(w) R X + t + d, so that its information matrix is at once that of
(d, w): metres along, and radians about, the fixed axes of the camera. Arrays have a row for each of B windows, and the
points last: with so few of them, numpy's calls are what takes the time.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array, exp_so3

NEAR = 1e-3  # metres: a point nearer to the camera's plane than this counts as behind it
ITERATIONS = 20
LEAST_GAIN = 1e-8  # share of the cost: a step that promises less is not worth it

Rows = NDArray[np.int64] | NDArray[np.bool_]


class Points(NamedTuple):
    """X (B, 3, N) metres: points of each window's object, object frame. uv (B, 2, N) pixels: where the window shows
    them. K (B, 3, 3): its pinhole camera, without skew."""

    X: Array
    uv: Array
    K: Array

    def of(self, rows: Rows) -> "Points":
        """Those of some windows."""
        return Points(*(x[rows] for x in self))


def projected(R: Array, t: Array, X: Array, K: Array) -> tuple[Array, Array, Array]:
    """R (B, 3, 3), t (B, 3) metres; X and K as of Points. Returns the pixels (B, 2, N), their Jacobian (B, 6, 2, N)
    with respect to the left perturbation (d, w), and the depths (B, N)."""
    q = R @ X
    p = q + t[:, :, None]
    inverse_z = (1.0 / p[:, 2])[:, None]
    focal, middle = K[:, (0, 1), (0, 1)][:, :, None], K[:, :2, 2:]
    xy = p[:, :2] * inverse_z
    a = focal * inverse_z  # d u / d p is (a, 0, b), d v / d p is (0, a, b), each with its own a and b
    b = -a * xy
    J = np.zeros((len(X), 6, 2, X.shape[2]))
    J[:, 0, 0], J[:, 1, 1], J[:, 2] = a[:, 0], a[:, 1], b
    J[:, 3], J[:, 4] = q[:, 1:2] * b, -q[:, :1] * b  # d u / d w = q × d u / d p
    J[:, 3, 1] -= q[:, 2] * a[:, 1]
    J[:, 4, 0] += q[:, 2] * a[:, 0]
    J[:, 5, 0], J[:, 5, 1] = -q[:, 1] * a[:, 0], q[:, 0] * a[:, 1]
    return focal * xy + middle, J, p[:, 2]


class _State(NamedTuple):
    """Of the windows whose cost may still fall."""

    row: NDArray[Any]
    X: NDArray[Any]
    uv: NDArray[Any]
    K: NDArray[Any]
    weight: NDArray[Any]
    damping: NDArray[Any]
    R: NDArray[Any]
    t: NDArray[Any]
    residual: NDArray[Any]
    J: NDArray[Any]
    cost: NDArray[Any]

    def of(self, rows: NDArray[np.bool_]) -> "_State":
        return self if rows.all() else _State(*(x[rows] for x in self))


def fit(T_camera_object: Array, points: Points, weight: Array) -> tuple[Array, Array, Array]:
    """The poses near the given ones (B, 4, 4) that fit best. weight (B, 2, N): inverse variance of each pixel, 0 for
    what is not there. Points stay in front of the camera.

    Returns T (B, 4, 4), the residuals (B, 2, N) in pixels and their Jacobian (B, 6, 2, N), see `projected`, at the
    solution.
    """
    T, (X, uv, K) = T_camera_object.copy(), points
    R, t = T[:, :3, :3], T[:, :3, 3]
    pixels, J, _ = projected(R, t, X, K)
    residual = pixels - uv
    now = _State(np.arange(len(T)), X, uv, K, weight, np.full(len(T), 1e-4), R, t, residual, J, _cost(residual, weight))
    for _ in range(ITERATIONS):
        step, falls = _steps(now)
        now, step = now.of(falls), step[falls]
        if not len(step):
            break
        new_R, new_t = np.stack([exp_so3(w) for w in step[:, 3:]]) @ now.R, now.t + step[:, :3]
        pixels, new_J, depth = projected(new_R, new_t, now.X, now.K)
        new = pixels - now.uv
        cost = _cost(new, now.weight)
        better = (depth.min(1) > NEAR) & (cost < now.cost)
        damping = np.where(better, np.maximum(now.damping * 0.1, 1e-12), now.damping * 10.0)
        moved = now._replace(damping=damping, R=new_R, t=new_t, residual=new, J=new_J, cost=cost)
        if not better.all():
            kept = now._replace(damping=damping)
            moved = _State(*(_where(better, a, b) for a, b in zip(moved, kept, strict=True)))
        rows = moved.row[better]
        T[rows, :3, :3], T[rows, :3, 3] = moved.R[better], moved.t[better]
        residual[rows], J[rows] = moved.residual[better], moved.J[better]
        now = moved.of(damping <= 1e8)
    return T, residual, J


def _where(rows: NDArray[np.bool_], a: NDArray[Any], b: NDArray[Any]) -> NDArray[Any]:
    return a if a is b else np.where(rows.reshape(-1, *[1] * (a.ndim - 1)), a, b)


def _cost(residual: Array, weight: Array) -> Array:
    return np.asarray((weight * residual * residual).sum((1, 2)))


def _steps(now: _State) -> tuple[Array, NDArray[np.bool_]]:
    """The steps (B, 6), and where (B,) there is one that lets the cost fall."""
    J = now.J.reshape(len(now.J), 6, -1)
    JtW = J * now.weight.reshape(len(J), 1, -1)
    H, g = JtW @ J.swapaxes(1, 2), JtW @ now.residual.reshape(len(J), -1, 1)
    H[:, range(6), range(6)] *= (1.0 + now.damping)[:, None]
    try:
        steps = -np.linalg.solve(H, g)[:, :, 0]
    except np.linalg.LinAlgError:  # of one of them
        steps = np.stack([_step(*x) for x in zip(H, g[:, :, 0], strict=True)])
    with np.errstate(invalid="ignore"):
        gain = -(g[:, :, 0] * steps).sum(1)
        return steps, np.isfinite(steps).all(1) & (gain > LEAST_GAIN * now.cost + 1e-20)


def _step(H: Array, g: Array) -> Array:
    try:
        return np.asarray(-np.linalg.solve(H, g))
    except np.linalg.LinAlgError:
        return np.full(6, np.nan)
