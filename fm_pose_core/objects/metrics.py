"""Errors of one estimated pose, in SI units and float64.

- 2D projection: Brachmann et al., "Uncertainty-driven 6D pose estimation", CVPR 2016; correct below 5 px.
- ADD and ADD-S ("6D pose"): Hinterstoisser et al., ACCV 2012; correct below 10 % of the object's diameter; ADD-S for
  symmetric objects.
- 5 cm 5°: Shotton et al., "Scene coordinate regression forests", CVPR 2013.

A symmetry S (4, 4) maps the object onto itself, so T_camera_object and T_camera_object S look alike. Where an error
takes symmetries, they are without the identity, and the smallest error over the identity and all of them counts.
Rotations are projected to SO(3) first: published ones are not exactly orthonormal, and arccos((trace - 1) / 2) then
calls true 6° errors "below 5°".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, apply, project_to_so3, transform
from fm_pose_core.types import Camera

PROJECTION_THRESHOLD = 5.0  # pixels
ADD_THRESHOLD = 0.1  # of the diameter
CM = 0.05  # metres of "5 cm"
DEGREE = np.deg2rad(5.0)  # radians of "5°"


@dataclass(frozen=True)
class PoseErrors:
    """projection_2d: pixels, infinite if a vertex lies behind the camera. add: metres, ADD-S if the object has
    symmetries. rotation: radians, translation: metres, both under the symmetry with the smallest rotation error.
    within_5cm_5deg: one symmetry satisfies both (Shotton et al., CVPR 2013). diameter: metres."""

    projection_2d: float
    add: float
    rotation: float
    translation: float
    within_5cm_5deg: bool
    diameter: float

    @property
    def projection_correct(self) -> bool:
        return self.projection_2d < PROJECTION_THRESHOLD

    @property
    def add_correct(self) -> bool:
        return self.add < ADD_THRESHOLD * self.diameter


def pose_errors(
    T_est: Array, T_gt: Array, vertices: Array, diameter: float, camera: Camera, symmetries: Sequence[Array] = ()
) -> PoseErrors:
    """All errors of `T_est` (4, 4) against `T_gt` (4, 4), both T_camera_object in metres.

    vertices: (N, 3) of the model, metres. symmetries: (4, 4) each, without the identity. Raises InputError for
    arrays of another shape or with numbers that are not finite.
    """
    T_est, T_gt = _pose("T_est", T_est), _pose("T_gt", T_gt)
    vertices = _vertices(vertices)
    angles, distances = _rotation_translation_errors(T_est, T_gt, symmetries)
    best = int(np.argmin(angles))
    return PoseErrors(
        projection_2d=projection_error_2d(T_est, T_gt, vertices, camera, symmetries),
        add=(adds_error if len(symmetries) else add_error)(T_est, T_gt, vertices),
        rotation=float(angles[best]),
        translation=float(distances[best]),
        within_5cm_5deg=bool(((angles < DEGREE) & (distances < CM)).any()),
        diameter=float(diameter),
    )


def projection_error_2d(
    T_est: Array, T_gt: Array, vertices: Array, camera: Camera, symmetries: Sequence[Array] = ()
) -> float:
    """Mean distance in pixels between the projections of the (N, 3) vertices under both poses, smallest over the
    symmetries; infinite if the estimate puts a vertex behind the camera (Brachmann et al., CVPR 2016)."""
    T_est, T_gt, vertices = _pose("T_est", T_est), _pose("T_gt", T_gt), _vertices(vertices)
    points = apply(T_est, vertices)
    if (points[:, 2] <= 0).any():
        return float("inf")
    pixels = camera.pixels(points)  # (N, 2)
    return float(
        min(
            np.linalg.norm(pixels - camera.pixels(apply(T, vertices)), axis=1).mean()
            for T in _equivalent(T_gt, symmetries)
        )
    )


def add_error(T_est: Array, T_gt: Array, vertices: Array) -> float:
    """ADD: mean distance in metres between corresponding (N, 3) vertices (Hinterstoisser et al., ACCV 2012)."""
    T_est, T_gt, vertices = _pose("T_est", T_est), _pose("T_gt", T_gt), _vertices(vertices)
    return float(np.linalg.norm(apply(T_est, vertices) - apply(T_gt, vertices), axis=1).mean())


def adds_error(T_est: Array, T_gt: Array, vertices: Array) -> float:
    """ADD-S: mean distance in metres from each vertex under the true pose to the nearest vertex under the estimate
    (Hinterstoisser et al., ACCV 2012, Eq. 8)."""
    T_est, T_gt, vertices = _pose("T_est", T_est), _pose("T_gt", T_gt), _vertices(vertices)
    return float(_nearest(apply(T_gt, vertices), apply(T_est, vertices)).mean())


def rank_correlation(a: Array, b: Array) -> float:
    """Spearman's rank correlation of two (N,) arrays, ties given their mean rank; NaN if one of them is constant."""
    from scipy.stats import spearmanr  # takes long to import

    if len(np.unique(a)) < 2 or len(np.unique(b)) < 2:
        return float("nan")
    return float(spearmanr(a, b).statistic)


def _equivalent(T: Array, symmetries: Sequence[Array]) -> list[Array]:
    return [T, *(T @ S for S in symmetries)]


def _rotation_translation_errors(T_est: Array, T_gt: Array, symmetries: Sequence[Array]) -> tuple[Array, Array]:
    """Angles in radians and distances in metres, (1 + number of symmetries,) each."""
    truths = np.stack(_equivalent(T_gt, symmetries))  # (S, 4, 4)
    angles = Rotation.from_matrix(truths[:, :3, :3].transpose(0, 2, 1) @ T_est[:3, :3]).magnitude()
    return angles, np.linalg.norm(truths[:, :3, 3] - T_est[:3, 3], axis=1)


def _nearest(queries: Array, points: Array) -> Array:
    """Distance from each of (N, 3) queries to the nearest of (M, 3) points."""
    return np.asarray(cKDTree(points).query(queries)[0])


def _pose(name: str, T: Array) -> Array:
    """A finite (4, 4) pose, its rotation projected to SO(3)."""
    T = np.asarray(T, dtype=np.float64)
    expect(T.shape == (4, 4), name, "a (4, 4) pose", f"shape {T.shape}")
    expect(bool(np.isfinite(T).all()), name, "finite numbers", T.tolist())
    return transform(project_to_so3(T[:3, :3]), T[:3, 3])


def _vertices(vertices: Array) -> Array:
    vertices = np.asarray(vertices, dtype=np.float64)
    expect(
        vertices.ndim == 2 and vertices.shape[1] == 3 and len(vertices) > 0, "vertices", "shape (N, 3)", vertices.shape
    )
    return vertices
