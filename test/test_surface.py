"""PnP over the surface points that a window shows, beside the corners."""

import numpy as np
import pytest

from fm_pose_core.geometry import Array, apply, box_corners, exp_so3, log_so3, project, transform
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.pnp import FLOOR, PnpSolution, PnpSolutions, solve_corners, solve_pnp
from fm_pose_core.objects.reprojection import Points
from fm_pose_core.objects.solver import ObjectSolver
from fm_pose_core.objects.surface import Measured, solve_surface

BOX = box_corners(np.array([-0.04, -0.03, -0.02]), np.array([0.05, 0.04, 0.06]))
CROP = Crop(128, 320.0)


def random_pose(rng: np.random.Generator) -> Array:
    return transform(exp_so3(rng.normal(size=3) * 2), np.array([*rng.uniform(-0.03, 0.03, 2), rng.uniform(0.4, 0.8)]))


def measured(rng: np.random.Generator, T: Array, noise: float, outliers: float, count: int = 60) -> Measured:
    """Points of the box's inside at the pixels where they are seen, moved by `noise` metres; a share of them wrong."""
    points = rng.uniform(BOX.min(0), BOX.max(0), (count, 3))
    pixels = project(CROP.K, apply(T, points))
    points = points + rng.normal(scale=noise, size=points.shape) if noise else points
    wrong = rng.uniform(size=count) < outliers
    points[wrong] = rng.uniform(BOX.min(0), BOX.max(0), (int(wrong.sum()), 3))
    return Measured(points, pixels, np.full(count, max(noise, 1e-4)))


def errors(solution: PnpSolution, truth: Array) -> tuple[float, float]:
    """Degrees, millimetres."""
    T = solution.T_camera_object
    assert solution.accepted, solution.reason
    angle = np.degrees(np.linalg.norm(log_so3(T[:3, :3] @ truth[:3, :3].T)))
    return float(angle), float(1000 * np.linalg.norm(T[:3, 3] - truth[:3, 3]))


def with_surface(asked: list, refused: str = "") -> list[PnpSolution]:
    """All of them at once: true poses, corners, deviations, measured points. refused: why the corners have no pose."""
    _, corners, deviation, seen = zip(*asked, strict=True)
    points = Points(np.stack([BOX.T] * len(asked)), np.stack(corners).swapaxes(1, 2), np.stack([CROP.K] * len(asked)))
    s = np.stack(deviation).swapaxes(1, 2)
    first = PnpSolutions.refused([refused] * len(asked)) if refused else solve_corners(points, FLOOR**2 + s**2)
    found = solve_surface(first, points, s, seen, 1.0)
    return [found[i] for i in range(len(asked))]


def both(seed: int, corner_noise: float, noise: float, outliers: float) -> tuple[list[float], list[float]]:
    """Rotation errors of the corners alone, and with the surface."""
    rng = np.random.default_rng(seed)
    alone, asked = [], []
    for _ in range(40):
        T = random_pose(rng)
        corners = project(CROP.K, apply(T, BOX)) + rng.normal(scale=corner_noise, size=(8, 2))
        deviation = np.full((8, 2), corner_noise)
        first = solve_pnp(BOX, corners, CROP.K, deviation)
        alone.append(errors(first, T)[0])
        asked.append((T, corners, deviation, measured(rng, T, noise, outliers, int(rng.integers(20, 80)))))
    return alone, [errors(x, T)[0] for x, (T, *_) in zip(with_surface(asked), asked, strict=True)]


def test_exact_points_give_the_pose_back_whatever_the_corners() -> None:
    _, together = both(0, 0.01, 0.0, 0.0)
    assert max(together) < 0.05


@pytest.mark.parametrize("outliers", [0.0, 0.3])
def test_the_surface_makes_a_pose_better(outliers: float) -> None:
    alone, together = both(1, 3.0, 0.002, outliers)
    assert np.median(together) < 0.6 * np.median(alone)


def test_points_that_are_all_wrong_do_little_harm() -> None:
    """They know nothing of each other, and so find no pose; the corners' is kept, near enough."""
    alone, together = both(2, 1.0, 0.002, 1.0)
    assert np.median(together) < np.median(alone) + 2.0


def test_without_a_pose_from_the_corners_the_points_give_one() -> None:
    rng = np.random.default_rng(3)
    asked = []
    for _ in range(20):
        T = random_pose(rng)
        corners = project(CROP.K, apply(T, BOX))
        asked.append((T, corners, np.full((8, 2), 30.0), measured(rng, T, 0.001, 0.2)))
    for found, (T, *_) in zip(with_surface(asked, refused="no"), asked, strict=True):
        assert errors(found, T)[0] < 3.0


def test_windows_know_nothing_of_each_other() -> None:
    """Many are solved at once: each pose is the one that its window has alone."""
    rng = np.random.default_rng(4)
    asked = []
    for count in (6, 60, 25):
        T = random_pose(rng)
        corners = project(CROP.K, apply(T, BOX)) + rng.normal(scale=2.0, size=(8, 2))
        asked.append((T, corners, np.full((8, 2), 2.0), measured(rng, T, 0.002, 0.2, count)))
    asked.insert(1, (T, np.full((8, 2), np.nan), np.full((8, 2), 2.0), measured(rng, T, 0.0, 1.0)))  # no pose
    for alone, together in zip([with_surface([x])[0] for x in asked], with_surface(asked), strict=True):
        assert alone.accepted == together.accepted and alone.reason == together.reason
        np.testing.assert_allclose(together.T_camera_object, alone.T_camera_object, atol=1e-9)
        np.testing.assert_allclose(together.covariance, alone.covariance, rtol=1e-6, atol=1e-15)
        np.testing.assert_allclose(together.reprojection_error, alone.reprojection_error, rtol=1e-9)


def test_the_solver_reads_the_cells_of_all_views_that_show_its_object() -> None:
    """Two objects, two views, 16 cells. A cell's pixel is its centre, seen from the window."""
    solver = ObjectSolver(BOX, CROP, index=1, views=2)
    cells = 16
    points = 1e-4 * np.arange(2 * 2 * cells * 3, dtype=np.float32).reshape(2, 2, cells, 3)
    presence = np.zeros((2, 2, cells), np.float32)
    presence[0, 1, 5], presence[1, 1, 3], presence[:, 0] = 0.9, 0.6, 1.0
    presence[1, 1, 7:10] = 1.0  # a point far from the box, perhaps behind the camera, is none
    points[1, 1, 7], points[1, 1, 8], points[1, 1, 9] = [0.0, 0.0, -0.5], np.inf, np.nan
    outputs = {
        "corners": np.zeros((2, 2, 8, 2), np.float32),
        "spread": np.ones((2, 2, 8, 2), np.float32),
        "points": points,
        "doubt": points[..., 0],
        "presence": presence,
    }
    surface = solver.decode(outputs).surface
    assert surface is not None
    np.testing.assert_array_equal(surface.points, [points[0, 1, 5], points[1, 1, 3]])
    np.testing.assert_array_equal(surface.deviation, [points[0, 1, 5, 0], points[1, 1, 3, 0]])
    own = np.array([[47.5, 47.5], [111.5, 15.5]])  # of cells of 32 pixels: row 1, column 1; row 0, column 3
    first, second = CROP.views(2)
    np.testing.assert_allclose(surface.pixels[0], CROP.view_to_window(own[:1], first)[0])
    np.testing.assert_allclose(surface.pixels[1], CROP.view_to_window(own[1:], second)[0])


def test_points_that_are_said_to_be_exact_count() -> None:
    """A deviation of 0, as half precision rounds a small one: they contradict corners that are far off and too sure of
    themselves, so the pose is theirs."""
    rng = np.random.default_rng(5)
    for _ in range(10):
        T = random_pose(rng)
        seen = measured(rng, T, 0.0, 0.0)._replace(deviation=np.zeros(60))
        corners = project(CROP.K, apply(T, BOX)) + rng.normal(scale=40.0, size=(8, 2))
        found = with_surface([(T, corners, np.full((8, 2), 2.0), seen)])[0]
        assert errors(found, T)[0] < 2.0
