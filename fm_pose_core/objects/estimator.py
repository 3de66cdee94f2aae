"""From an image, a camera and a window to the pose of the object."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.bundle import ObjectBundle
from fm_pose_core.config import EstimatorConfig
from fm_pose_core.errors import expect
from fm_pose_core.geometry import Array, apply, transform
from fm_pose_core.objects.pnp import expected_projection_error, rotate_covariance, score, solve_pnp
from fm_pose_core.runtime import Backend, load_backend
from fm_pose_core.types import Camera, ObjectPose, Window


class PoseEstimator:
    """bundle: the object and its network. backend: the engine that runs it. config: gates and engine settings.

    For one thread at a time: a backend keeps its buffers between calls.
    """

    def __init__(self, bundle: ObjectBundle, backend: Backend, config: EstimatorConfig | None = None) -> None:
        self.bundle = bundle
        self.backend = backend
        self.config = config or EstimatorConfig()
        self._crop = bundle.crop
        self._box_corners = bundle.box_corners

    @classmethod
    def load(cls, bundle_dir: str | Path, config: EstimatorConfig | None = None) -> "PoseEstimator":
        """Validate the bundle and load its network. Raises InputError for a bad bundle or a missing backend."""
        config = config or EstimatorConfig()
        bundle = ObjectBundle.load(bundle_dir)
        return cls(bundle, load_backend(bundle, config), config)

    def estimate(self, image: NDArray[np.uint8], camera: Camera, window: Window) -> ObjectPose:
        """Pose of the object that `window` centres on.

        image: (H, W, 3) uint8 RGB, of the size that `camera` says, distorted as it says. Raises InputError for an image
        or a window that does not fit; a prediction that is no good comes back with accepted=False and a reason.
        """
        return self.estimate_many(image, camera, [window])[0]

    def estimate_many(self, image: NDArray[np.uint8], camera: Camera, windows: Sequence[Window]) -> list[ObjectPose]:
        """One pose for each window of one image, through the network in one batch. Otherwise as `estimate`."""
        _check_image(image, camera)
        if not windows:
            return []
        n = self.config.views
        views = self._crop.views(n)
        cuts = [self._crop.cut(image, camera, window, view)[0] for window in windows for view in views]
        corners, spread = self.backend.infer(np.stack(cuts))  # h(g(f(x)))
        poses = []
        for k, window in enumerate(windows):
            one = slice(n * k, n * (k + 1))
            answers = np.array([self._crop.view_to_window(c, R) for c, R in zip(corners[one], views, strict=True)])
            # How far the views disagree says no more about the error (measured).
            deviation = np.sqrt(np.square(spread[one]).mean(0))
            poses.append(self._pose(answers.mean(0), deviation, self._crop.rotation(camera, window), camera))  # PnP
        return poses

    def window_of(self, T_camera_object: Array, camera: Camera) -> Window:
        """The window that centres on an object at this pose: where to look in the next frame.

        Raises InputError if the centre of the box is not in front of the camera.
        """
        center = apply(T_camera_object, self.bundle.center[None])
        expect(bool(center[0, 2] > 0), "T_camera_object", "a pose in front of the camera", f"z = {center[0, 2]:g} m")
        u, v = camera.pixels(center)[0]
        return Window(float(u), float(v))

    def _pose(self, corners: Array, spread: Array, R_camera_window: Array, camera: Camera) -> ObjectPose:
        """From the network's (8, 2) corners and spread in window pixels to the pose in the camera frame."""
        solution = solve_pnp(
            self._box_corners, corners, self._crop.K, spread, spread_scale=self.bundle.manifest.calibration.spread_scale
        )
        image_corners = self._crop.to_image(corners, camera, R_camera_window)
        if not solution.accepted:
            return ObjectPose(np.eye(4), image_corners, np.inf, solution.covariance, 0.0, False, solution.reason)

        R_camera_camera = transform(R_camera_window, np.zeros(3))
        T_camera_object = R_camera_camera @ solution.T_camera_object
        covariance = rotate_covariance(solution.covariance, R_camera_window)
        image_error = image_corners - camera.pixels(apply(T_camera_object, self._box_corners))
        reprojection_error = float(np.sqrt(np.square(image_error).sum(axis=1).mean()))
        expected_error = expected_projection_error(T_camera_object, covariance, self._box_corners, camera.K)
        confidence = score(expected_error)

        reason = ""
        if not reprojection_error <= self.config.max_reprojection_error:
            reason = (
                f"reprojection error {reprojection_error:.1f} px is above {self.config.max_reprojection_error:g} px"
            )
        elif confidence < self.config.min_score:
            reason = f"score {confidence:.2f} is below {self.config.min_score:g}"
        return ObjectPose(
            T_camera_object, image_corners, reprojection_error, covariance, confidence, not reason, reason
        )


def _check_image(image: NDArray[np.uint8], camera: Camera) -> None:
    expect(isinstance(image, np.ndarray), "image", "a numpy array", type(image).__name__)
    expected = (camera.height, camera.width, 3)
    fits = image.shape == expected and image.dtype == np.uint8
    expect(fits, "image", f"uint8 {expected} as the camera says", f"{image.dtype} {image.shape}")
