import numpy as np
import pytest

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array, apply, box_corners, exp_so3, log_so3, project, transform
from fm_pose_core.objects.pnp import (
    expected_projection_error,
    inverse_spd,
    rotate_covariance,
    score,
    solve_pnp,
    widened,
)
from fm_pose_core.types import Camera

BOX = box_corners(np.array([-0.04, -0.03, -0.02]), np.array([0.05, 0.04, 0.06]))
K = np.array([[320.0, 0.0, 63.5], [0.0, 320.0, 63.5], [0.0, 0.0, 1.0]])


def random_pose(rng: np.random.Generator) -> Array:
    return transform(exp_so3(rng.normal(size=3) * 2), np.array([*rng.uniform(-0.05, 0.05, 2), rng.uniform(0.3, 1.0)]))


def corners_of(T: Array) -> Array:
    return project(K, apply(T, BOX))


def pose_error(T: Array, truth: Array) -> Array:
    """(x, y, z, rotX, rotY, rotZ) by which T is displaced from the truth, rotations about the camera's axes."""
    return np.concatenate([T[:3, 3] - truth[:3, 3], log_so3(T[:3, :3] @ truth[:3, :3].T)])


def test_the_mean_of_what_is_possible_is_not_taken_for_a_box_far_away() -> None:
    """What a perfect but unsure network answers: the mean and the deviation of the corners over all possible poses."""
    rng = np.random.default_rng(0)
    plain, wide = [], []
    for _ in range(40):
        truth = random_pose(rng)
        turns = [exp_so3(np.radians(35.0) * rng.normal(size=3) / np.sqrt(3)) for _ in range(200)]
        possible = np.stack([corners_of(truth @ transform(turn, np.zeros(3))) for turn in turns])
        corners, deviation = possible.mean(0), possible.std(0)
        for c, distances in ((corners, plain), (widened(corners, deviation), wide)):
            found = solve_pnp(BOX, c, K, deviation).T_camera_object
            distances.append(np.linalg.norm(apply(found, BOX).mean(0)) / np.linalg.norm(apply(truth, BOX).mean(0)))
    assert np.median(plain) > 1.05 and np.median(wide) == pytest.approx(1.0, abs=0.015)


def test_corners_that_are_known_or_no_good_are_not_widened() -> None:
    corners = corners_of(random_pose(np.random.default_rng(0)))
    np.testing.assert_allclose(widened(corners, np.zeros((8, 2))), corners)
    for bad in (np.ones((8, 2)), np.full((8, 2), np.nan)):
        np.testing.assert_array_equal(widened(bad, np.ones((8, 2))), bad)


def test_exact_corners_give_the_pose_back() -> None:
    rng = np.random.default_rng(0)
    for _ in range(100):
        truth = random_pose(rng)
        solution = solve_pnp(BOX, corners_of(truth), K)
        assert solution.accepted, solution.reason
        assert np.abs(pose_error(solution.T_camera_object, truth)).max() < 1e-6
        assert solution.reprojection_error < 1e-6


@pytest.mark.parametrize(
    "dimensions", [(0.3, 0.02, 0.02), (0.2, 0.2, 0.002), (0.1, 0.1, 0.1)], ids=["stick", "plate", "cube"]
)
def test_boxes_of_any_shape(dimensions: tuple) -> None:
    rng = np.random.default_rng(1)
    box = box_corners(np.zeros(3), np.array(dimensions))
    for _ in range(30):
        truth = random_pose(rng)
        truth[2, 3] += 0.4
        solution = solve_pnp(box, project(K, apply(truth, box)), K)
        assert solution.accepted, solution.reason
        assert np.abs(pose_error(solution.T_camera_object, truth)).max() < 1e-6


@pytest.mark.parametrize(
    ("told", "low", "high"), [(1.5, 4.3, 6.6), (0.0, 5.0, 8.5)], ids=["honest spread", "spread of zero"]
)
def test_covariance_is_consistent_with_the_errors(told: float, low: float, high: float) -> None:
    """The normalised squared error eᵀ C⁻¹ e has a mean of 6 when the covariance is right (7.5 with noise estimated from
    10 degrees of freedom; below 6 where the residuals only ever add to an honest spread)."""
    rng = np.random.default_rng(2)
    normalised = []
    for _ in range(400):
        truth = random_pose(rng)
        truth[2, 3] = rng.uniform(0.3, 0.6)
        solution = solve_pnp(
            BOX, corners_of(truth) + rng.normal(scale=1.5, size=(8, 2)), K, np.full((8, 2), told), floor=0.1
        )
        e = pose_error(solution.T_camera_object, truth)
        normalised.append(e @ np.linalg.solve(solution.covariance, e))
    assert low < np.mean(normalised) < high
    assert 3.5 < np.median(normalised) < 6.5  # 5.35 for chi-squared with 6 degrees of freedom


def test_uncertain_corners_weigh_less() -> None:
    rng = np.random.default_rng(3)
    truth = random_pose(rng)
    corners, spread = corners_of(truth), np.full((8, 2), 0.1)
    corners[2] += [12.0, -9.0]
    spread[2] = 30.0
    told = solve_pnp(BOX, corners, K, spread)
    untold = solve_pnp(BOX, corners, K)
    error, error_untold = (np.abs(pose_error(s.T_camera_object, truth)).max() for s in (told, untold))
    assert error < 0.01 < 0.05 < error_untold


def test_covariance_turns_with_the_camera() -> None:
    """Solve the same corners seen by a turned camera: the covariance must be the turned one."""
    rng = np.random.default_rng(4)
    R_b_a = exp_so3(np.array([0.05, -0.08, 0.3]))
    truth_a = random_pose(rng)
    a = solve_pnp(BOX, corners_of(truth_a), K)
    T_b_a = transform(R_b_a, np.zeros(3))
    b_points = apply(T_b_a @ truth_a, BOX)
    # In camera b the measurement is a's image: its Jacobian is found by differences of a's projection.
    steps = []
    for i in range(6):
        d = np.zeros(6)
        d[i] = 1e-6
        moved = transform(exp_so3(d[3:]), d[:3])  # left perturbation about the object's origin in b
        origin = (T_b_a @ truth_a)[:3, 3]
        shifted = (b_points - origin) @ moved[:3, :3].T + origin + moved[:3, 3]
        steps.append((project(K, shifted @ R_b_a) - project(K, b_points @ R_b_a)).reshape(-1) / 1e-6)
    J = np.array(steps).T
    expected = np.linalg.inv(J.T @ J) * 0.5**2
    np.testing.assert_allclose(
        rotate_covariance(a.covariance, R_b_a), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max()
    )


def test_corners_stay_in_front_of_the_camera() -> None:
    rng = np.random.default_rng(5)
    for _ in range(50):
        behind = random_pose(rng)
        behind[2, 3] = -rng.uniform(0.15, 0.3)  # near, so that perspective tells a mirror image from a box
        solution = solve_pnp(BOX, corners_of(behind), K, max_reprojection_error=1.0)
        assert not solution.accepted
        if np.isfinite(solution.reprojection_error):
            assert apply(solution.T_camera_object, BOX)[:, 2].min() > 0


@pytest.mark.parametrize("seed", range(10))
def test_random_corners_are_refused_without_an_exception(seed: int) -> None:
    corners = np.random.default_rng(seed).uniform(0, 127, (8, 2))
    solution = solve_pnp(BOX, corners, K, max_reprojection_error=5.0)
    assert not solution.accepted and solution.reason


@pytest.mark.parametrize(
    ("corners", "reason"),
    [
        (np.full((8, 2), np.nan), "not finite"),
        (np.full((8, 2), np.inf), "not finite"),
        (np.full((8, 2), 64.0), "one place"),
    ],
)
def test_degenerate_corners_are_refused_with_a_reason(corners: Array, reason: str) -> None:
    solution = solve_pnp(BOX, corners, K)
    assert not solution.accepted
    assert reason in solution.reason


def test_corners_on_a_line_do_not_raise() -> None:
    line = np.column_stack([np.linspace(0, 127, 8), np.full(8, 64.0)])
    assert not solve_pnp(BOX, line, K, max_reprojection_error=5.0).accepted


def test_gate_names_error_and_limit() -> None:
    rng = np.random.default_rng(6)
    corners = corners_of(random_pose(rng)) + rng.normal(scale=4, size=(8, 2))
    solution = solve_pnp(BOX, corners, K, max_reprojection_error=0.5)
    assert not solution.accepted and "above 0.5 px" in solution.reason
    assert solution.reprojection_error > 0.5


def test_wrong_shapes_raise() -> None:
    with pytest.raises(InputError, match=r"corners: expected shape \(8, 2\), got \(7, 2\)"):
        solve_pnp(BOX, np.zeros((7, 2)), K)
    with pytest.raises(InputError, match="spread"):
        solve_pnp(BOX, np.zeros((8, 2)), K, np.zeros((8, 1)))
    with pytest.raises(InputError, match="box_corners"):
        solve_pnp(np.zeros((4, 3)), np.zeros((4, 2)), K)


WIDE = np.array([-0.02, 0.01, -0.006, 0.001])


@pytest.mark.parametrize(
    ("camera", "aside"),
    [(Camera(K, 128, 128), 0.0), (Camera(K, 128, 128), 1.0), (Camera(K, 128, 128, WIDE, "equidistant"), 1.5)],
    ids=["pinhole", "pinhole, 45° off the axis", "fisheye, 56° off the axis"],
)
def test_expected_projection_error_matches_sampled_poses(camera: Camera, aside: float) -> None:
    rng = np.random.default_rng(7)
    truth = random_pose(rng)
    covariance = solve_pnp(BOX, corners_of(truth), K, np.full((8, 2), 0.5)).covariance
    truth[0, 3] = aside * truth[2, 3]
    reference = camera.pixels(apply(truth, BOX))
    squared = []
    for d in rng.multivariate_normal(np.zeros(6), covariance, 2000):
        moved = transform(exp_so3(d[3:]) @ truth[:3, :3], truth[:3, 3] + d[:3])
        squared.append(np.square(camera.pixels(apply(moved, BOX)) - reference).sum(axis=1))
    sampled = np.sqrt(np.mean(squared, axis=0)).mean()
    assert expected_projection_error(truth, covariance, BOX, camera) == pytest.approx(sampled, rel=0.05)


def test_score_falls_with_the_error() -> None:
    assert score(0.0) == 1.0 and score(5.0) == 0.5 and score(1e9) < 1e-6


def test_a_singular_matrix_has_no_inverse_and_warns_of_nothing() -> None:
    good, none = np.diag([1.0, 4.0]), np.ones((2, 2))
    with np.errstate(all="raise"):
        inverse = inverse_spd(np.stack([good, none, np.full((2, 2), np.nan), np.zeros((2, 2))]))
    np.testing.assert_allclose(inverse[0], np.diag([1.0, 0.25]))
    assert np.isnan(inverse[1:]).all()
