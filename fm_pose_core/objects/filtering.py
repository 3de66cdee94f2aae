"""A filter on the poses of one object that moves steadily: a Kalman filter with constant velocity on SO(3) x R^3, in
which each pose counts as much as its covariance says."""

from dataclasses import dataclass

import numpy as np

from fm_pose_core.geometry import Array, exp_so3, log_so3, transform

LONGEST = 1.0  # seconds without a pose after which it begins anew
SURPRISE = 22.5  # squared deviations of a pose, beyond which it is taken for an outlier: 1 in 1000 of chi square, 6
FASTEST = (0.5, 2.0)  # m/s, rad/s: standard deviations of the velocities, as long as nothing is known


@dataclass(frozen=True)
class Motion:
    """What is known of an object at a time. T_camera_object (4, 4), metres. velocity (6,): m/s along, and rad/s about,
    the fixed axes of the camera. covariance (12, 12): of the pose's six coordinates, as in ObjectPose, and of the
    velocity's. stamp: seconds."""

    T_camera_object: Array
    velocity: Array
    covariance: Array
    stamp: float


class PoseFilter:
    """acceleration, angular_acceleration: how quickly the motion may change, standard deviations in m/s² and rad/s².
    The smaller, the smoother are the poses, and the later do they follow a change."""

    def __init__(self, acceleration: float, angular_acceleration: float) -> None:
        self.accelerations = (acceleration, angular_acceleration)
        self._motion: Motion | None = None
        self._outliers = 0

    def update(self, T: Array, covariance: Array, stamp: float) -> Array:
        """The pose (4, 4) at `stamp` (seconds), from all up to T (4, 4) with its covariance (6, 6), see ObjectPose. Two
        outliers in a row, or a long time without a pose, and it begins anew."""
        last = self._motion
        if last is None or not 0 < stamp - last.stamp <= LONGEST:
            return self._begin(T, covariance, stamp)
        now = self._predicted(last, stamp)
        difference = _difference(now.T_camera_object, T)
        S = now.covariance[:6, :6] + covariance
        surprise = float(difference @ np.linalg.solve(S, difference))
        if surprise > SURPRISE:
            self._outliers += 1
            if self._outliers > 1:
                return self._begin(T, covariance, stamp)
            S = S + covariance * (surprise / SURPRISE)
        else:
            self._outliers = 0
        gain = now.covariance[:, :6] @ np.linalg.inv(S)  # (12, 6)
        step = gain @ difference
        P = now.covariance - gain @ now.covariance[:6]
        moved = _moved(now.T_camera_object, step[:6])
        self._motion = Motion(moved, now.velocity + step[6:], (P + P.T) / 2, stamp)
        return moved

    def _begin(self, T: Array, covariance: Array, stamp: float) -> Array:
        P = np.zeros((12, 12))
        P[:6, :6], P[6:, 6:] = covariance, np.diag(np.square(np.repeat(FASTEST, 3)))
        self._motion, self._outliers = Motion(T, np.zeros(6), P, stamp), 0
        return T

    def _predicted(self, x: Motion, stamp: float) -> Motion:
        """After white accelerations for the time that has passed."""
        dt = stamp - x.stamp
        F = np.eye(12)
        F[:6, 6:] = dt * np.eye(6)
        Q = np.kron([[dt**4 / 4, dt**3 / 2], [dt**3 / 2, dt**2]], np.diag(np.square(np.repeat(self.accelerations, 3))))
        return Motion(_moved(x.T_camera_object, dt * x.velocity), x.velocity, F @ x.covariance @ F.T + Q, stamp)


def _moved(T: Array, step: Array) -> Array:
    """By step (6,): metres along, and radians about, the fixed axes of the camera; it turns about its own origin."""
    return transform(exp_so3(step[3:]) @ T[:3, :3], T[:3, 3] + step[:3])


def _difference(T_from: Array, T_to: Array) -> Array:
    """(6,): the step that `_moved` takes from one to the other."""
    return np.concatenate([T_to[:3, 3] - T_from[:3, 3], log_so3(T_to[:3, :3] @ T_from[:3, :3].T)])
