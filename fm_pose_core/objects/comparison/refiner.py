"""A learned refiner: the model is drawn at the pose over the photograph, and h_Δ(g(f(photograph)), f(rendering)) says
how it must move. Needs no OpenGL (rendering.raycaster)."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fm_pose_core.geometry import Array
from fm_pose_core.objects.comparison.update import compared, motion, seen_at, update_between, updated
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.pnp import expected_projection_error, inverse_spd, rotate_covariance
from fm_pose_core.objects.refine import Look, Solution
from fm_pose_core.objects.solver import Infer
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.rendering.raycaster import Raycaster

SUREST, UNSUREST = 1e-3, 1e3  # units: the least and the most of a deviation
FARTHEST = 4.0  # units of an update: beyond, there is nothing like the object


@dataclass(frozen=True)
class Told:
    """What h_Δ says at a pose: update and its deviation (6,), in the window `crop` of a camera with T_window_camera
    (4, 4), a rotation."""

    update: Array
    deviation: Array
    T_window_camera: Array
    crop: Crop


@dataclass(frozen=True)
class FeatureRefiner:
    """Of one object. What h_Δ says is one measurement of the pose, with the deviation that it expects; the network's
    pose, with its covariance, is another one, which holds where h_Δ is not sure.

    infer: runs the network of `update_contract`. box_corners (8, 3), metres. crop, fill: of the object's windows, see
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
        return Raycaster(self.mesh, self.crop.K, self.crop.size, self.crop.size)

    @property
    def center(self) -> Array:
        """(3,) of the box, object frame, metres."""
        return np.asarray(self.box_corners.mean(0))

    def refine(self, look: Look, solution: Solution) -> Solution:
        """The likeliest pose after so many looks, each at the pose that the last one led to; the network's own where
        one leads far away."""
        T, center = solution.T_camera_object, self.center
        for _ in range(self.times):
            told = self.measure(look, T)
            if told is None:
                return solution
            R, crop = told.T_window_camera[:3, :3], told.crop
            T_window, T_network = (told.T_window_camera @ x for x in (T, solution.T_camera_object))
            A = motion(T_window, center, crop)
            known = inverse_spd(rotate_covariance(solution.covariance, R))
            known = known if np.isfinite(known).all() else np.zeros((6, 6))
            prior = A.T @ known @ A  # information, per unit of an update
            new = np.diag(1.0 / np.square(self.spread_scale * told.deviation))
            back = update_between(T_window, T_network, center, crop)
            among = np.linalg.inv(prior + new)
            update = np.linalg.solve(prior + new, prior @ back + new @ told.update)
            T = told.T_window_camera.T @ updated(T_window, update, center, crop)
        covariance = rotate_covariance(A @ among @ A.T, R.T)
        expected = expected_projection_error(T, covariance, self.box_corners, look.camera)
        # The reprojection error stays that of the network: it tells how well its corners agree with each other.
        return replace(solution, T_camera_object=T, covariance=covariance, expected_error=expected)

    def measure(self, look: Look, T_camera_object: Array) -> Told | None:
        """At a pose (4, 4). None where the camera does not see the object, or where the answer leads far away."""
        seen = seen_at(look, T_camera_object, self.center, self.crop, self.fill)
        if seen is None:
            return None
        crop, T_window_camera = seen.crop, seen.T_window_camera
        self._raycaster.K = crop.K
        rgba, _ = self._raycaster.render(T_window_camera @ T_camera_object)
        outputs = self.infer(compared(seen.window, rgba)[None])
        update, spread = (outputs[k][0].astype(np.float64) for k in ("update", "spread"))
        if not np.abs(update).max() <= FARTHEST or np.isnan(spread).any():  # nor NaN
            return None
        return Told(update, np.clip(spread, SUREST, UNSUREST), T_window_camera, crop)

    def squared_error(self, look: Look, T_camera_object: Array, truth: Array) -> float | None:
        """How far h_Δ is off at a pose, in its own deviations, squared and summed over the six numbers; None where it
        says nothing. truth (4, 4)."""
        told = self.measure(look, T_camera_object)
        if told is None:
            return None
        T, T_true = (told.T_window_camera @ x for x in (T_camera_object, truth))
        wanted = update_between(T, T_true, self.center, told.crop)
        return float(np.square((told.update - wanted) / told.deviation).sum())
