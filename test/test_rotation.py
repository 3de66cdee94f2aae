"""L_r: to first order, what PnP makes of corners and surface points that are off."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")

from torch import Tensor

from fm_pose_core.contract import SURFACE_SCALE, object_contract
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array, apply, box_corners, exp_so3, inverse, log_so3, project, transform
from fm_pose_core.learning.heads import HeadLoss, Prediction, Surface
from fm_pose_core.learning.losses import Answers, LossConfig, PoseRotation, Seen
from fm_pose_core.learning.networks import FeatureMapping, NetworkConfig
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.pnp import FLOOR, solve_corners
from fm_pose_core.objects.reprojection import Points
from fm_pose_core.objects.samples import Labeller, ObjectAssets
from fm_pose_core.objects.surface import Measured, solve_surface
from fm_pose_core.rendering.mesh import Mesh

SIZE, CELLS = 64, 64
BOX = box_corners(np.array([-0.04, -0.03, -0.02]), np.array([0.05, 0.04, 0.06]))
CROP = Crop(SIZE, 300.0)
NOTHING = Mesh(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.int64))
HALF_TURN = transform(np.diag([-1.0, -1.0, 1.0]), np.array([0.01, 0.02, 0.0]))  # about an axis beside the origin
SHOWN = 40  # cells
SPREAD, DOUBT = 1.5, 0.004  # pixels, metres


def term() -> PoseRotation:
    contract = object_contract(SIZE, 1, CELLS)
    model = FeatureMapping(NetworkConfig(extractor="fine", width=8, features=8, surface=True), contract)
    return PoseRotation(model, LossConfig(rotation=1.0))


def seen_object(rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """T_camera_object, and what the cells show: points (SHOWN, 3), object frame, with their pixels."""
    T = transform(exp_so3(rng.normal(size=3)), np.array([0.0, 0.0, 0.5])) @ transform(np.eye(3), -BOX.mean(0))
    points = rng.uniform(BOX[0], BOX[-1], (SHOWN, 3))
    return T, points, project(CROP.K, apply(T, points))


def answers(T: Array, points: Array, corners: Array, told: Array, choice: int = 0) -> Answers:
    """Of one image: labels of the truth, and answers of `corners` (8, 2) pixels and `told` (SHOWN, 3), in the frame of
    the equivalent pose that counts."""
    labeller = Labeller(ObjectAssets(NOTHING, BOX, CROP, symmetries=(HALF_TURN,)), 2)
    y, _, k, e, m, b = (torch.from_numpy(np.array(x))[None] for x in labeller.labels(CROP.K, T))
    p = torch.full((1, CELLS, 3), torch.nan)
    p[0, :SHOWN] = torch.from_numpy(points)
    answered = torch.zeros(1, CELLS, 1, 3)
    answered[0, :SHOWN, 0] = torch.from_numpy(told) / SURFACE_SCALE
    doubt = torch.full((1, CELLS, 1), float(np.log(DOUBT / SURFACE_SCALE)))
    votes = (torch.from_numpy(corners).float() - (SIZE - 1) / 2) / (SIZE / 2)
    prediction = Prediction(
        votes[None, None, None],
        torch.ones(1, 1, 1),
        torch.full((1, 1), float(np.log(SPREAD / (SIZE / 2)))),
        Surface(answered.requires_grad_(), doubt, torch.zeros(1, CELLS, 1)),
    )
    loss = HeadLoss(torch.zeros(1), torch.zeros(1), torch.tensor([choice]))
    return Answers(torch.zeros(1, CELLS, 8), {"y": y, "k": k, "e": e, "m": m, "b": b, "p": p}, loss, prediction)


@pytest.mark.parametrize("choice", [0, 1])
def test_it_is_how_far_pnp_turns_the_pose(choice: int) -> None:
    """Corners and points with errors of a pixel and a millimetre, against the solver that the estimator has."""
    rng, turned = np.random.default_rng(3), term()
    S = (np.eye(4), HALF_TURN)[choice]
    for _ in range(5):
        T, points, pixels = seen_object(rng)
        T_seen = T @ S  # the pose that the network means: the object looks the same
        corners = project(CROP.K, apply(T_seen, BOX)) + 0.3 * rng.normal(size=(8, 2))
        told = apply(inverse(S), points) + np.array([4e-4, -6e-4, 2e-4]) + 4e-4 * rng.normal(size=(SHOWN, 3))
        deviation = np.full((8, 2), SPREAD)
        seen = Measured(told, pixels, np.full(SHOWN, DOUBT))
        uv = Points(BOX.T[None], corners.T[None], CROP.K[None])
        first = solve_corners(uv, FLOOR**2 + deviation.T[None] ** 2)
        found = solve_surface(first, uv, deviation.T[None], [seen], 1.0)[0].T_camera_object
        wanted = log_so3(T_seen[:3, :3].T @ found[:3, :3])  # about the axes of the object as it is meant
        got = turned.turned(answers(T, points, corners, told, choice))[0].detach().numpy()
        assert np.linalg.norm(wanted) > 1e-3
        np.testing.assert_allclose(S[:3, :3].T @ got, wanted, atol=0.05 * float(np.linalg.norm(wanted)))


def test_errors_that_turn_alike_cost_more_than_those_that_do_not() -> None:
    """Points turned by a tenth of a radian, and the same displacements in another order; both as large by L_p."""
    rng, turned = np.random.default_rng(0), term()
    T, points, _ = seen_object(rng)
    corners = project(CROP.K, apply(T, BOX))
    off = (points - BOX.mean(0)) @ exp_so3(np.array([0.0, 0.0, 0.1])).T - (points - BOX.mean(0))

    def cost(displacements: Array) -> Tensor:
        value = turned(Seen({}, None, answers(T, points, corners, points + displacements), None, 0.0))
        assert value is not None
        return value

    assert cost(np.zeros_like(off)).item() == pytest.approx(0.0, abs=1e-4)
    assert cost(off).item() > 3 * cost(rng.permutation(off)).item()


def test_the_gradient_turns_the_points_back() -> None:
    rng, turned = np.random.default_rng(1), term()
    T, points, _ = seen_object(rng)
    R = exp_so3(np.array([0.05, 0.1, -0.05]))
    told = (points - BOX.mean(0)) @ R.T + BOX.mean(0)
    x = answers(T, points, project(CROP.K, apply(T, BOX)), told)
    value = turned(Seen({}, None, x, None, 0.0))
    assert value is not None
    value.backward()
    gradient = x.prediction.surface.points.grad[0, :, 0].numpy()
    assert not gradient[SHOWN:].any() and np.isfinite(gradient).all()
    moved = told - 1e-4 * gradient[:SHOWN] / np.abs(gradient).max()
    less = turned(Seen({}, None, answers(T, points, project(CROP.K, apply(T, BOX)), moved), None, 0.0))
    assert less is not None and less.item() < value.item()


def test_an_image_that_shows_nothing_of_the_object_has_its_corners() -> None:
    T, points, _ = seen_object(np.random.default_rng(2))
    x = answers(T, points, project(CROP.K, apply(T, BOX)), points)
    x.labels["p"][:] = torch.nan
    value = term()(Seen({}, None, x, None, 0.0))
    assert value is not None and value.item() == pytest.approx(0.0, abs=1e-4)


def test_it_needs_the_surface() -> None:
    model = FeatureMapping(NetworkConfig(width=8, features=8), object_contract(SIZE))
    with pytest.raises(InputError, match=r"loss.rotation: expected 0 without network.surface \(L_r\), got 0.5"):
        PoseRotation(model, LossConfig(rotation=0.5))
