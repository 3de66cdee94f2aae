"""A learned refiner that finds the drawn model's points in the photograph: the network sees both together, and says for
each cell where what the rendering shows there is in the photograph. PnP makes the pose of it (as Hu et al., Perspective
Flow Aggregation, ECCV 2022). Needs no OpenGL (rendering.raycaster)."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fm_pose_core.geometry import Array, apply, exp_so3, inverse, inverse_intrinsics, log_so3, transform
from fm_pose_core.objects.comparison.update import compared, seen_at
from fm_pose_core.objects.crop import Crop, cell_middles
from fm_pose_core.objects.pnp import expected_projection_error, inverse_spd, projected, rotate_covariance
from fm_pose_core.objects.refine import Look, Solution
from fm_pose_core.objects.solver import Infer
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.rendering.raycaster import Raycaster

FEWEST = 6  # cells that show the model
FLOOR = 0.5  # window pixels: no cell is better
LIMIT = 3.0  # standard deviations from which on a cell loses weight
WORTH = 8.0  # all cells together count as so many: neighbours err alike
STEPS = 10
UNKNOWN = np.diag(np.square([0.3, 0.3, 0.3, 1.0, 1.0, 1.0]))  # metres, radians: a prior that says nothing


@dataclass(frozen=True)
class Found:
    """Points (M, 3) of the model, metres, object frame; where the photograph shows them (M, 2), pixels of the window
    `crop` of a camera with T_window_camera (4, 4), a rotation; and their deviations (M,), pixels."""

    points: Array
    pixels: Array
    deviation: Array
    T_window_camera: Array
    crop: Crop


@dataclass(frozen=True)
class FlowRefiner:
    """Of one object. Where the network finds the model's points, and the pose that is to be refined, with its
    covariance, together give the likeliest pose.

    infer: runs the network of `flow_contract`. box_corners (8, 3), metres. crop, fill: of the object's windows, see
    ObjectSolver. times: how often it looks. spread_scale: see CalibrationEntry. For one thread at a time. Raises
    InputError if embreex is not installed."""

    infer: Infer
    mesh: Mesh
    box_corners: Array
    crop: Crop
    fill: float
    times: int = 2
    spread_scale: float = 1.0

    @cached_property
    def _raycaster(self) -> Raycaster:
        return Raycaster(self.mesh, self.crop.K, self.crop.size, self.crop.size, lit=True)

    @property
    def center(self) -> Array:
        """(3,) of the box, object frame, metres."""
        return np.asarray(self.box_corners.mean(0))

    def refine(self, look: Look, solution: Solution) -> Solution:
        """The likeliest pose after so many looks, each at the pose that the last one led to; as it was where the model
        is not seen."""
        T, covariance = solution.T_camera_object, solution.covariance
        for _ in range(self.times):
            found = self.find(look, T)
            solved = None if found is None else self._solved(found, T, solution.T_camera_object, solution.covariance)
            if solved is None:
                return solution
            T, covariance = solved
        expected = expected_projection_error(T, covariance, self.box_corners, look.camera.K)
        # The reprojection error stays that of the network: it tells how well its corners agree with each other.
        return replace(solution, T_camera_object=T, covariance=covariance, expected_error=expected)

    def find(self, look: Look, T_camera_object: Array) -> Found | None:
        """At a pose (4, 4). None where the camera does not see the object."""
        seen = seen_at(look, T_camera_object, self.center, self.crop, self.fill)
        if seen is None:
            return None
        crop, T_window_camera = seen.crop, seen.T_window_camera
        self._raycaster.K = crop.K
        rgba, depth = self._raycaster.render(T_window_camera @ T_camera_object)
        outputs = self.infer(compared(seen.window, rgba)[None])
        flow, doubt = (outputs[k][0].astype(np.float64) for k in ("flow", "doubt"))
        middles = cell_middles(crop.size, math.isqrt(len(flow)))
        u, v = np.rint(middles).astype(int).T
        shown = (depth[v, u] > 0) & np.isfinite(flow).all(1) & np.isfinite(doubt)
        if shown.sum() < FEWEST:
            return None
        rays = np.column_stack([middles, np.ones(len(u))])[shown] @ inverse_intrinsics(crop.K).T
        points = apply(inverse(T_window_camera @ T_camera_object), rays * depth[v, u][shown, None])
        deviation = np.clip(doubt[shown], FLOOR, crop.size)
        return Found(points, middles[shown] + flow[shown], deviation, T_window_camera, crop)

    def _solved(self, found: Found, T: Array, T_prior: Array, covariance: Array) -> tuple[Array, Array] | None:
        """Pose and covariance (6, 6), camera's frame, from `T` on. None without a solution."""
        R_window_camera = found.T_window_camera[:3, :3]
        prior, T = found.T_window_camera @ T_prior, found.T_window_camera @ T
        known = inverse_spd(rotate_covariance(covariance, R_window_camera))
        among = np.zeros((6, 6)) if known is None else known
        sigma = self.spread_scale * found.deviation
        for _ in range(STEPS):
            pixels, J = projected(T[:3, :3], T[:3, 3], found.points, found.crop.K)
            off = pixels - found.pixels
            apart = np.linalg.norm(off, axis=1) / sigma
            share = np.minimum(1.0, LIMIT / np.maximum(apart, 1e-9)) ** 2 * (WORTH / len(sigma))
            JtW = J.T * np.repeat(share / sigma**2, 2)
            back = np.concatenate([T[:3, 3] - prior[:3, 3], log_so3(T[:3, :3] @ prior[:3, :3].T)])
            solved = inverse_spd(JtW @ J + (0.0 if known is None else known))
            if solved is None:
                return None
            among = solved
            step = -among @ (JtW @ off.reshape(-1) + (0.0 if known is None else known @ back))
            T = transform(exp_so3(step[3:]) @ T[:3, :3], T[:3, 3] + step[:3])
            if not np.isfinite(T).all() or apply(T, found.points)[:, 2].min() <= 0:
                return None
        return inverse(found.T_window_camera) @ T, rotate_covariance(among, R_window_camera.T)

    def squared_error(self, look: Look, T_camera_object: Array, truth: Array) -> float | None:
        """How far the pose of what is found at a pose, without a prior, is off the truth (4, 4), in its own deviations,
        squared and summed over the six numbers; None where it finds nothing."""
        found = self.find(look, T_camera_object)
        solved = None if found is None else self._solved(found, T_camera_object, T_camera_object, UNKNOWN)
        if solved is None:
            return None
        T, covariance = solved
        off = np.concatenate([truth[:3, 3] - T[:3, 3], log_so3(truth[:3, :3] @ T[:3, :3].T)])
        information = inverse_spd(covariance)
        return None if information is None else float(off @ information @ off)
