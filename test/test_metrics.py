"""Each metric against a truth made by hand, and the scores of published predictions on real data."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from fm_pose_core.errors import InputError
from fm_pose_core.geometry import box_corners, exp_so3, transform
from fm_pose_core.objects import metrics
from fm_pose_core.objects.bop import BopDataset, read_results
from fm_pose_core.objects.evaluation import evaluate_results
from fm_pose_core.types import Camera

CAMERA = Camera(np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]]), 640, 480)
BOX = box_corners(np.array([-0.05, -0.03, -0.02]), np.array([0.05, 0.03, 0.02]))
DIAMETER = float(np.linalg.norm(BOX[7] - BOX[0]))
TRUTH = transform(exp_so3(np.array([0.4, -0.2, 0.9])), np.array([0.1, -0.05, 0.8]))
HALF_TURN = transform(exp_so3(np.array([0, 0, np.pi])), np.zeros(3))


def turned(degrees: float, axis: tuple[float, float, float] = (0.6, 0.8, 0.0)) -> np.ndarray:
    return TRUTH @ transform(exp_so3(np.deg2rad(degrees) * np.array(axis)), np.zeros(3))


def moved(*offset: float) -> np.ndarray:
    return transform(TRUTH[:3, :3], TRUTH[:3, 3] + np.array(offset))


def errors(T_est: np.ndarray, symmetries: Sequence[np.ndarray] = ()) -> metrics.PoseErrors:
    return metrics.pose_errors(T_est, TRUTH, BOX, DIAMETER, CAMERA, symmetries)


def test_the_truth_has_no_error() -> None:
    e = errors(TRUTH)
    assert max(e.projection_2d, e.add, e.rotation, e.translation) < 1e-9
    assert e.projection_correct and e.add_correct and e.within_5cm_5deg


@pytest.mark.parametrize("degrees", [1e-6, 4.99, 5.01, 6.0, 90.0, 179.99])
def test_rotation_error_is_the_angle(degrees: float) -> None:
    e = errors(turned(degrees))
    assert e.rotation == pytest.approx(np.deg2rad(degrees), rel=1e-6) and e.within_5cm_5deg == (degrees < 5)


def test_six_degrees_are_not_below_five_in_a_rotation_that_is_not_orthonormal() -> None:
    """With the usual arccos of the trace, this rotation scaled by 0.2 % counts as 4.1°."""
    loose = turned(6.0)
    loose[:3, :3] *= 1.0014
    R = TRUTH[:3, :3].T @ loose[:3, :3]
    assert np.rad2deg(np.arccos((np.trace(R) - 1) / 2)) < 5
    e = errors(loose)
    assert np.rad2deg(e.rotation) == pytest.approx(6.0, abs=1e-6) and not e.within_5cm_5deg


def test_translation_alone() -> None:
    e = errors(moved(0.03, 0.0, 0.0))
    assert (e.add, e.translation, e.rotation) == (pytest.approx(0.03), pytest.approx(0.03), pytest.approx(0, abs=1e-9))
    assert e.within_5cm_5deg and not e.add_correct  # 3 cm is above a tenth of 12.3 cm
    assert not errors(moved(0.0, 0.0501, 0.0)).within_5cm_5deg
    assert errors(moved(0.0, 0.0499, 0.0)).within_5cm_5deg


def test_projection_error_of_a_plane_at_one_depth() -> None:
    """Points at depth z, moved sideways by d: f d / z pixels."""
    T = transform(np.eye(3), np.array([0.0, 0.0, 2.0]))
    plane = BOX * [1, 1, 0]
    e = metrics.projection_error_2d(transform(np.eye(3), np.array([0.01, 0.0, 2.0])), T, plane, CAMERA)
    assert e == pytest.approx(500 * 0.01 / 2)


def test_a_pose_behind_the_camera_has_an_infinite_projection_error() -> None:
    assert metrics.projection_error_2d(transform(np.eye(3), np.array([0, 0, -1.0])), TRUTH, BOX, CAMERA) == np.inf
    assert metrics.projection_error_2d(np.eye(4), TRUTH, BOX, CAMERA) == np.inf


def test_symmetric_object_swapped() -> None:
    swapped = TRUTH @ HALF_TURN
    plain = errors(swapped)
    assert not (plain.projection_correct or plain.add_correct or plain.within_5cm_5deg)
    assert np.rad2deg(plain.rotation) == pytest.approx(180)
    e = errors(swapped, [HALF_TURN])
    assert max(e.projection_2d, e.add, e.rotation, e.translation) < 1e-9
    assert e.within_5cm_5deg


def test_a_symmetry_about_an_axis_beside_the_origin_moves_the_origin() -> None:
    """Half a turn about x = 4 cm puts the origin 8 cm away; under the symmetry, the pose is right."""
    S = transform(HALF_TURN[:3, :3], np.array([0.08, 0, 0]))
    assert errors(TRUTH @ S).translation == pytest.approx(0.08)
    assert errors(TRUTH @ S, [S]).translation == pytest.approx(0, abs=1e-12)


def test_adds_is_the_distance_to_the_nearest_vertex() -> None:
    rng = np.random.default_rng(0)
    vertices, T_est = rng.normal(0, 0.03, (700, 3)), turned(20.0)
    a, b = vertices @ TRUTH[:3, :3].T + TRUTH[:3, 3], vertices @ T_est[:3, :3].T + T_est[:3, 3]
    expected = np.linalg.norm(a[:, None] - b[None], axis=-1).min(1).mean()
    assert metrics.adds_error(T_est, TRUTH, vertices) == pytest.approx(expected, rel=1e-9)
    assert metrics.adds_error(T_est, TRUTH, vertices) <= metrics.add_error(T_est, TRUTH, vertices)


def test_rank_correlation() -> None:
    x = np.array([0.1, 0.5, 0.7, 0.9])
    assert metrics.rank_correlation(x, np.exp(-x)) == pytest.approx(-1)
    assert metrics.rank_correlation(x, np.array([1.0, 2, 3, np.inf])) == pytest.approx(1)
    assert metrics.rank_correlation(np.array([1.0, 1, 2, 2]), np.array([1.0, 2, 3, 4])) == pytest.approx(
        0.894427, abs=1e-6
    )
    assert np.isnan(metrics.rank_correlation(x, np.ones(4)))


@pytest.mark.parametrize(
    ("T", "vertices", "message"),
    [
        (np.eye(3), BOX, "T_est"),
        (np.full((4, 4), np.nan), BOX, "finite"),
        (np.eye(4), BOX[:, :2], "vertices"),
        (np.eye(4), BOX[:0], "vertices"),
    ],
)
def test_bad_input_is_named(T: np.ndarray, vertices: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metrics.pose_errors(T, TRUTH, vertices, DIAMETER, CAMERA)


LMO = Path(os.environ.get("FM_POSE_DATA", Path(__file__).parents[2] / "shared" / "data")) / "lmo"


@pytest.mark.skipif(
    not LMO.is_dir(), reason=f"needs Occlusion-LINEMOD in {LMO} (FM_POSE_DATA names another data folder)"
)
@pytest.mark.parametrize(
    ("name", "projection", "add", "cm_deg"),
    [("pvnet_style_yufu-wang_lmo-test", 68.5, 43.0, 41.8), ("cnos-megapose_lmo-test", 51.4, 44.2, 35.7)],
)
def test_scores_of_published_predictions(name: str, projection: float, add: float, cm_deg: float) -> None:
    """As another program scored them, to a tenth of a percent. With all vertices of models_eval/, the PVNet-style file
    gets
    68.64 and 43.16: one or two of 1100 instances (0.09 % each) lie on the other side of a threshold. Taking other
    vertices (models/, or a part of them) moves the scores by as much. 5 cm 5° uses no vertices and agrees."""
    results = read_results(LMO / "published_predictions" / f"{name}.csv")
    e = evaluate_results(BopDataset(LMO), "test", results).mean
    assert e.count == 1100
    assert 100 * e.projection == pytest.approx(projection, abs=0.25)
    assert 100 * e.add == pytest.approx(add, abs=0.25)
    assert 100 * e.cm_deg == pytest.approx(cm_deg, abs=0.05)
