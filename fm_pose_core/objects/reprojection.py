"""Levenberg-Marquardt on the weighted reprojection error, for all windows of an image at once.

It works on the pose with a left perturbation, p = exp(w) R X + t + d, so that its information matrix is at once that of
(d, w): metres along, and radians about, the fixed axes of the camera. Arrays have a row for each of B windows, and the
points last. The points are few, so numpy's calls take most of the time: those for eight windows not much more than
those for one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.geometry import Array, exp_so3

NEAR = 1e-3  # metres: a point nearer to the camera's plane than this counts as behind it
ITERATIONS, LARGEST_DAMPING = 20, 1e8
TWO, SIX = np.arange(2), np.arange(6)  # indices of diagonals
# Share of the cost: a step that promises less is not worth it. COARSE_GAIN: where another fit goes on from the result.
LEAST_GAIN, COARSE_GAIN = 1e-6, 1e-4

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
    q0, q1, q2, z = q[:, 0], q[:, 1], q[:, 2], p[:, 2]
    focal = K[:, TWO, TWO][:, :, None]
    a = focal / z[:, None]  # d u / d p is (a, 0, b), d v / d p is (0, a, b), each with its own a and b
    b = p[:, :2] / -z[:, None]
    pixels = K[:, :2, 2:] - focal * b
    b *= a
    a0, a1, J = a[:, 0], a[:, 1], np.zeros((len(X), 6, 2, X.shape[2]))
    J[:, 0, 0], J[:, 1, 1], J[:, 2] = a0, a1, b
    np.multiply(q[:, 1:2], b, out=J[:, 3])  # d u / d w = q × d u / d p
    np.multiply(-q[:, :1], b, out=J[:, 4])
    J[:, 3, 1] -= q2 * a1
    J[:, 4, 0] += q2 * a0
    J[:, 5, 0], J[:, 5, 1] = -q1 * a0, q0 * a1
    return pixels, J, z


class _State(NamedTuple):
    """Where the fit is: a row for each of some windows."""

    row: NDArray[Any]
    X: NDArray[Any]
    uv: NDArray[Any]
    K: NDArray[Any]
    weight: NDArray[Any]
    R: NDArray[Any]
    t: NDArray[Any]
    residual: NDArray[Any]
    J: NDArray[Any]
    cost: NDArray[Any]
    damping: NDArray[Any]

    @classmethod
    def at(cls, R: Array, t: Array, damping: Array, fixed: Sequence[NDArray[Any]]) -> tuple["_State", Array]:
        """fixed: the fields before R. Returns the depths (B, N), too."""
        row, X, uv, K, weight = fixed
        residual, J, depth = projected(R, t, X, K)
        residual -= uv
        flat = residual.reshape(len(X), -1)
        cost = np.einsum("bn,bn,bn->b", flat, flat, weight.reshape(len(X), -1))
        return cls(row, X, uv, K, weight, R, t, residual, J, cost, damping), depth

    def of(self, rows: NDArray[np.bool_]) -> "_State":
        return _State(*(x[rows] for x in self))

    def merged(self, rows: NDArray[np.bool_], other: "_State") -> "_State":
        """These rows, and the others of another one."""
        merged = _State(*(x.copy() for x in other))
        for own, to in zip(self, merged, strict=True):
            to[rows] = own[rows]
        return merged


def fit(
    T_camera_object: Array, points: Points, weight: Array, least_gain: float | Array = LEAST_GAIN
) -> tuple[Array, Array, Array]:
    """The poses near the given ones (B, 4, 4) that fit best. weight (B, 2, N): inverse variance of each pixel, 0 for
    what is not there. Points stay in front of the camera. least_gain: share of the cost, of all or of each (B,); a
    step that promises less is not taken.

    Returns T (B, 4, 4), the residuals (B, 2, N) in pixels and their Jacobian (B, 6, 2, N), see `projected`, at the
    solution.
    """
    count, R, t = len(T_camera_object), T_camera_object[:, :3, :3], T_camera_object[:, :3, 3]
    now, _ = _State.at(R, t, np.full(count, 1e-4), (np.arange(count), *points, weight))
    done: list[_State] = []
    least = np.broadcast_to(least_gain, count)
    for _ in range(ITERATIONS):
        step, falls = _steps(now, least[now.row])
        falls &= now.damping <= LARGEST_DAMPING
        going = np.count_nonzero(falls)
        if not going:
            break
        if going < len(falls):
            done.append(now.of(~falls))
            now, step = now.of(falls), step[falls]
        R = np.array([exp_so3(w) for w in step[:, 3:]]) @ now.R
        new, depth = _State.at(R, now.t + step[:, :3], now.damping, now[:5])
        better = (depth.min(1) > NEAR) & (new.cost < now.cost)
        damping = now.damping * np.where(better, 0.1, 10.0)
        every = np.count_nonzero(better) == len(better)
        now = (new if every else new.merged(better, now))._replace(damping=damping)
    return _in_order([*done, now], count)


def _in_order(done: Sequence[_State], count: int) -> tuple[Array, Array, Array]:
    """See fit, of the final states of all windows."""
    T = np.zeros((count, 4, 4))
    T[:, 3, 3] = 1.0
    residual, J = np.empty((count, *done[0].residual.shape[1:])), np.empty((count, *done[0].J.shape[1:]))
    for x in done:
        T[x.row, :3, :3], T[x.row, :3, 3], residual[x.row], J[x.row] = x.R, x.t, x.residual, x.J
    return T, residual, J


def _steps(now: _State, least_gain: Array) -> tuple[Array, NDArray[np.bool_]]:
    """The steps (B, 6), and where (B,) there is one that lets the cost fall."""
    J = now.J.reshape(len(now.J), 6, -1)
    JtW = J * now.weight.reshape(len(J), 1, -1)
    H, g = JtW @ J.swapaxes(1, 2), JtW @ now.residual.reshape(len(J), -1, 1)
    H[:, SIX, SIX] *= (1.0 + now.damping)[:, None]
    try:
        steps = -np.linalg.solve(H, g)[:, :, 0]
    except np.linalg.LinAlgError:  # of one of them
        steps = np.stack([_step(*x) for x in zip(H, g[:, :, 0], strict=True)])
    gain = -np.einsum("bi,bi->b", g[:, :, 0], steps)
    return steps, np.isfinite(gain) & (gain > least_gain * now.cost + 1e-20)


def _step(H: Array, g: Array) -> Array:
    try:
        return np.asarray(-np.linalg.solve(H, g))
    except np.linalg.LinAlgError:
        return np.full(6, np.nan)
