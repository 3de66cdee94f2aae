import numpy as np
import pytest

from fm_pose_core import geometry as g
from fm_pose_core.errors import InputError
from fm_pose_core.types import Camera, Window

rng = np.random.default_rng(0)
VECTORS = [
    axis / np.linalg.norm(axis) * angle for axis in rng.normal(size=(4, 3)) for angle in (1e-9, 1e-4, 0.5, 2.0, 3.14159)
]


@pytest.mark.parametrize("w", VECTORS, ids=lambda w: f"{np.linalg.norm(w):.3g}rad")
def test_rotation_vector_quaternion_and_angle_agree(w: np.ndarray) -> None:
    R = g.exp_so3(w)
    np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(R) > 0
    np.testing.assert_allclose(g.log_so3(R), w, atol=1e-7)
    np.testing.assert_allclose(g.rotation_from_quaternion(g.quaternion_from_rotation(R)), R, atol=1e-12)
    assert np.linalg.norm(g.log_so3(R)) == pytest.approx(np.linalg.norm(w), abs=1e-9)


def test_quaternion_is_in_ros_order() -> None:
    quarter_turn_about_z = np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(
        g.quaternion_from_rotation(quarter_turn_about_z), [0, 0, np.sqrt(0.5), np.sqrt(0.5)], atol=1e-12
    )


def test_half_turn_has_an_angle_of_pi() -> None:
    assert np.linalg.norm(g.log_so3(np.diag([1.0, -1.0, -1.0]))) == pytest.approx(np.pi)
    np.testing.assert_allclose(np.abs(g.log_so3(np.diag([1.0, -1.0, -1.0]))), [np.pi, 0, 0], atol=1e-12)


def test_transforms() -> None:
    T_a_b = g.transform(g.exp_so3(np.array([0.3, -0.2, 1.0])), np.array([1.0, 2.0, 3.0]))
    points = rng.normal(size=(5, 3))
    expected = (T_a_b @ np.column_stack([points, np.ones(5)]).T).T[:, :3]
    np.testing.assert_allclose(g.apply(T_a_b, points), expected, atol=1e-12)
    np.testing.assert_allclose(g.inverse(T_a_b) @ T_a_b, np.eye(4), atol=1e-12)


def test_project_to_so3_finds_the_rotation_again() -> None:
    R = g.exp_so3(np.array([1.0, -2.0, 0.5]))
    np.testing.assert_allclose(g.project_to_so3(2.0 * R), R, atol=1e-12)
    assert np.linalg.det(g.project_to_so3(-R)) > 0


def test_skew_is_the_cross_product() -> None:
    a, b = rng.normal(size=(2, 3))
    np.testing.assert_allclose(g.skew(a) @ b, np.cross(a, b), atol=1e-12)


def test_smallest_rotation_along_a_ray() -> None:
    for ray in rng.normal(size=(20, 3)) + np.array([0, 0, 2]):
        R = g.rotation_looking_along(ray)
        np.testing.assert_allclose(R @ [0, 0, 1], ray / np.linalg.norm(ray), atol=1e-12)
        np.testing.assert_allclose(R @ R.T, np.eye(3), atol=1e-12)
        assert abs(g.log_so3(R)[2]) < 1e-9  # no turn about the viewing axis
    with pytest.raises(InputError, match="opposite"):
        g.rotation_looking_along(np.array([0.0, 0.0, -1.0]))


def test_box_corners_and_edges() -> None:
    corners = g.box_corners(np.array([-1.0, -2.0, -3.0]), np.array([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(
        corners[[0, 1, 2, 4, 7]], [[-1, -2, -3], [-1, -2, 3], [-1, 2, -3], [1, -2, -3], [1, 2, 3]]
    )
    assert len(set(g.BOX_EDGES)) == 12
    for a, b in g.BOX_EDGES:
        assert np.count_nonzero(corners[a] - corners[b]) == 1


def test_pinhole_projection() -> None:
    K = np.array([[500.0, 0.0, 320.0], [0.0, 400.0, 240.0], [0.0, 0.0, 1.0]])
    np.testing.assert_allclose(g.project(K, np.array([[0.1, -0.2, 2.0]])), [[320 + 25.0, 240 - 40.0]])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"K": np.zeros((3, 3))}, "K"),
        ({"K": np.full((3, 3), np.nan)}, "K"),
        ({"K": np.eye(4)}, "K"),
        ({"width": 0}, "image size"),
        ({"distortion": np.ones(3)}, "distortion"),
        ({"distortion": np.array([np.nan] * 5)}, "distortion"),
        ({"distortion": np.ones(5), "distortion_model": "fov"}, "distortion_model"),
    ],
)
def test_camera_refuses(change: dict, message: str) -> None:
    values = {"K": np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), "width": 640, "height": 480}
    with pytest.raises(InputError, match=message):
        Camera(**(values | change))


def test_window_refuses_nan() -> None:
    with pytest.raises(InputError, match="window"):
        Window(float("nan"), 1.0)


def test_camera_of_a_region_and_of_binned_pixels() -> None:
    camera = Camera(np.array([[600.0, 0, 320], [0, 610, 240], [0, 0, 1]]), 640, 480)
    point = np.array([[0.03, -0.05, 0.7]])
    part = camera.restricted(100, 50, 400, 300, 1, 1)
    np.testing.assert_allclose(part.pixels(point), camera.pixels(point) - [100, 50])
    assert (part.width, part.height) == (400, 300)
    binned = camera.restricted(100, 50, 400, 300, 2, 2)
    np.testing.assert_allclose(binned.pixels(point), (camera.pixels(point) - [100, 50]) / 2)
    assert (binned.width, binned.height) == (200, 150)


@pytest.mark.parametrize("w", [[np.inf, 0, 0], [0, np.nan, 0], [1e200, 1e200, 0]])
def test_a_rotation_vector_that_is_not_finite_or_huge_raises_nothing(w: list) -> None:
    R = g.exp_so3(np.array(w, dtype=float))
    assert R.shape == (3, 3) and np.isnan(R).all()
