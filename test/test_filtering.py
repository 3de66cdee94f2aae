"""The filter on poses: a steady motion is recovered from noisy poses; jumps are followed, outliers are not."""

import numpy as np
import pytest

from fm_pose_core.geometry import Array, exp_so3, log_so3, transform
from fm_pose_core.objects.filtering import PoseFilter

RATE = 30.0
SIGMA = np.array([0.002, 0.002, 0.01, 0.02, 0.02, 0.01])  # metres, radians: poses are least sure along the ray
COVARIANCE = np.diag(SIGMA**2)


def truth(t: float) -> Array:
    """Moves at 0.3 m/s and turns at 0.7 rad/s."""
    turn = exp_so3(np.array([0.3, -0.6, 0.2]) * t)
    return transform(turn @ exp_so3(np.array([1.0, 2.0, 0.5])), np.array([0.2 * t - 0.3, 0.1, 0.8 + 0.2 * t]))


def measured(t: float, rng: np.random.Generator) -> Array:
    e = rng.normal(size=6) * SIGMA
    T = truth(t)
    return transform(exp_so3(e[3:]) @ T[:3, :3], T[:3, 3] + e[:3])


def error(T: Array, t: float) -> Array:
    return np.array(
        [np.linalg.norm(T[:3, 3] - truth(t)[:3, 3]), np.linalg.norm(log_so3(T[:3, :3] @ truth(t)[:3, :3].T))]
    )


def test_a_steady_motion_is_recovered_without_delay() -> None:
    rng, filtering = np.random.default_rng(0), PoseFilter(0.5, 2.0)
    raw, filtered = [], []
    for k in range(120):
        T = measured(k / RATE, rng)
        raw.append(error(T, k / RATE))
        filtered.append(error(filtering.update(T, COVARIANCE, k / RATE), k / RATE))
    ratio = np.mean(filtered[30:], 0) / np.mean(raw[30:], 0)
    assert (ratio < 0.6).all(), ratio


def test_uncertain_poses_count_less() -> None:
    weights = []
    for scale in (1.0, 100.0):
        filtering = PoseFilter(0.01, 0.01)
        for k in range(30):
            filtering.update(np.eye(4), COVARIANCE, k / RATE)
        off = transform(np.eye(3), np.array([0.003, 0.0, 0.0]))
        weights.append(filtering.update(off, scale * COVARIANCE, 1.0)[0, 3] / 0.003)
    assert 0 < weights[1] < 0.1 * weights[0]


def test_one_outlier_is_ignored_and_a_jump_is_followed() -> None:
    filtering = PoseFilter(0.5, 2.0)
    for k in range(30):
        filtering.update(np.eye(4), COVARIANCE, k / RATE)
    far = transform(exp_so3(np.array([0.0, 0.0, 1.0])), np.array([0.3, 0.0, 0.0]))
    assert filtering.update(far, COVARIANCE, 30 / RATE)[0, 3] < 0.05
    assert abs(filtering.update(np.eye(4), COVARIANCE, 31 / RATE)[0, 3]) < 0.05
    filtering.update(far, COVARIANCE, 32 / RATE)
    np.testing.assert_array_equal(filtering.update(far, COVARIANCE, 33 / RATE), far)


@pytest.mark.parametrize("stamp", [0.5, 1.0, 3.0])
def test_it_begins_anew_after_a_pause_or_where_time_goes_back(stamp: float) -> None:
    filtering = PoseFilter(0.5, 2.0)
    filtering.update(np.eye(4), COVARIANCE, 1.0)
    off = transform(np.eye(3), np.array([0.003, 0.0, 0.0]))
    np.testing.assert_array_equal(filtering.update(off, COVARIANCE, stamp), off)
