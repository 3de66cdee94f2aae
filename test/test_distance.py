"""The distance as an output of its own: label, loss, answer, and what it does to the pose."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")

from fm_pose_core.contract import object_contract
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import apply, box_corners, exp_so3, project, transform
from fm_pose_core.learning.heads import HEADS
from fm_pose_core.learning.losses import POSE_TERMS, LossConfig, ObjectDistance, Objective
from fm_pose_core.learning.networks import FeatureMapping, Fused, NetworkConfig
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.pnp import PnpSolution, PnpSolutions, solve_corners, with_distance
from fm_pose_core.objects.reprojection import Points
from fm_pose_core.objects.samples import Labeller, ObjectAssets
from fm_pose_core.objects.solver import ObjectSolver
from fm_pose_core.rendering.mesh import Mesh

BOX = box_corners(np.array([-0.04, -0.03, -0.02]), np.array([0.05, 0.04, 0.06]))
CENTER = BOX.mean(0)
CROP = Crop(128, 300.0)
NOTHING = Mesh(np.zeros((0, 3)), np.zeros((0, 3)), np.zeros((0, 3), np.uint8), np.zeros((0, 3), np.int64))


def test_the_label_is_zero_where_the_box_covers_the_window_and_grows_with_the_distance() -> None:
    labeller = Labeller(ObjectAssets(NOTHING, BOX, CROP), 1)
    unit = CROP.unit_distance(BOX)
    diagonal = np.linalg.norm(BOX[0] - BOX[-1])
    assert CROP.focal * diagonal / unit == pytest.approx(CROP.size)
    for distance in (unit, 2 * unit):
        T = transform(np.eye(3), np.array([0.0, 0.0, distance]) - CENTER)
        assert labeller.distance(CROP.K, T) == pytest.approx(np.log(distance / unit), abs=1e-6)
        turned = CROP.K @ exp_so3(np.array([0.1, -0.2, 0.7]))  # a camera that is turned about its own centre
        assert labeller.distance(turned, T) == pytest.approx(np.log(distance / unit), abs=1e-6)
        zoomed = CROP.zoomed(1.5).K
        assert labeller.distance(zoomed, T) == pytest.approx(np.log(distance / unit / 1.5), abs=1e-6)


def batch(d: torch.Tensor, cells: int) -> dict[str, torch.Tensor]:
    n = len(d)
    return {
        "x_s": torch.zeros(n, 64, 64, 3, dtype=torch.uint8),
        "y_s": torch.full((n, 1, 8, 2), 31.5),
        "d_s": d,
        "k_s": torch.arange(n) % 2,
    }


@pytest.mark.parametrize("surface", [False, True])
def test_the_distance_of_the_images_object_is_learned(surface: bool) -> None:
    cells = 64 if surface else 0
    contract = object_contract(64, 2, cells, distance=True)
    torch.manual_seed(0)
    config = NetworkConfig(extractor="fine", width=8, features=16, surface=surface, distance=True)
    model = FeatureMapping(config, contract)
    terms = [t for t in POSE_TERMS if t.name != "L_p"]
    objective = Objective(model, LossConfig(), terms)
    optimizer = torch.optim.Adam(objective.parameters(), 1e-2)
    d = torch.tensor([0.2, 0.7, 0.2, 0.7])  # of objects 0 and 1
    for _ in range(150):
        losses = objective(batch(d, cells))
        optimizer.zero_grad()
        losses["L"].backward()
        optimizer.step()
    answers = Fused(model).infer(np.zeros((1, 64, 64, 3), np.uint8))
    assert {"distance", "distance_spread"} <= set(answers)
    np.testing.assert_allclose(answers["distance"][0], [0.2, 0.7], atol=0.02)
    assert (answers["distance_spread"] < 0.2).all()  # it always is: so it may be quite sure


def test_without_the_output_there_is_no_such_loss() -> None:
    model = FeatureMapping(NetworkConfig(width=8), object_contract(64, 2))
    assert "L_z" not in Objective(model, LossConfig(), [ObjectDistance])(batch(torch.zeros(2), 0))
    assert set(HEADS) == {"corners", "surface", "joints", "centres", "update"}


def pose_and_corners(noise: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    T = transform(exp_so3(np.array([0.4, -0.5, 0.3])), np.array([0.02, -0.03, 0.5]))
    uv = project(CROP.K, apply(T, BOX))
    return T, uv + np.random.default_rng(1).normal(scale=noise, size=uv.shape) if noise else uv


def solved(uv: np.ndarray, deviation: float) -> PnpSolutions:
    """uv (8, 2) pixels of the corners."""
    return solve_corners(Points(BOX.T[None], uv.T[None], CROP.K[None]), np.full((1, 2, 8), deviation**2))


def moved_by(found: PnpSolutions, distance: float, sigma: float) -> PnpSolution:
    return with_distance(found, CENTER[None], np.array([distance]), np.array([sigma]))[0]


def test_a_sure_distance_moves_the_pose_along_the_sight_alone() -> None:
    _, uv = pose_and_corners()
    at_first = solved(uv, 2.0)
    found = at_first[0]
    before = apply(found.T_camera_object, CENTER[None])[0]
    moved = moved_by(at_first, 1.03 * float(np.linalg.norm(before)), 1e-4)
    after = apply(moved.T_camera_object, CENTER[None])[0]
    assert np.linalg.norm(after) == pytest.approx(1.03 * np.linalg.norm(before), rel=1e-4)
    sideways = after / np.linalg.norm(after) - before / np.linalg.norm(before)
    assert np.linalg.norm(sideways) < 2e-3  # radians
    sight = before / np.linalg.norm(before)
    spread_before, spread_after = (float(np.sqrt(sight @ x.covariance[:3, :3] @ sight)) for x in (found, moved))
    assert spread_after < 0.2 * spread_before


def test_a_doubtful_distance_changes_nothing() -> None:
    _, uv = pose_and_corners()
    found = solved(uv, 1.0)
    moved = moved_by(found, 0.8, 50.0)
    np.testing.assert_allclose(moved.T_camera_object, found[0].T_camera_object, atol=1e-4)
    np.testing.assert_allclose(moved.covariance, found[0].covariance, rtol=0.02, atol=1e-9)


def test_the_mean_of_both_is_better_than_either() -> None:
    """Monte Carlo: the distance's error after the update is as large as its covariance says."""
    rng, T, sigma, noise = np.random.default_rng(0), pose_and_corners()[0], 0.02, 1.5
    truth = np.linalg.norm(apply(T, CENTER[None])[0])
    alone, both, said = [], [], []
    for _ in range(200):
        uv = project(CROP.K, apply(T, BOX)) + rng.normal(scale=noise, size=(8, 2))
        found = solved(uv, noise)
        moved = moved_by(found, truth * np.exp(rng.normal(scale=sigma)), sigma)
        for T_found, errors in ((found[0].T_camera_object, alone), (moved.T_camera_object, both)):
            errors.append(np.log(np.linalg.norm(apply(T_found, CENTER[None])[0]) / truth))
        p = apply(moved.T_camera_object, CENTER[None])[0]
        q = p - moved.T_camera_object[:3, 3]
        J = np.concatenate([p, np.cross(q, p)]) / (p @ p)
        said.append(np.sqrt(J @ moved.covariance @ J))
    assert np.std(both) < min(np.std(alone), sigma)
    assert np.std(both) == pytest.approx(np.mean(said), rel=0.2)


def test_the_solver_reads_the_distance_in_metres() -> None:
    solver = ObjectSolver(BOX, CROP, index=1, views=2)
    corners = np.zeros((2, 2, 8, 2), np.float32)
    log = np.log(0.5 / CROP.unit_distance(BOX))
    outputs = {
        "corners": corners,
        "spread": np.ones_like(corners),
        "distance": np.array([[9.0, log - 0.01], [9.0, log + 0.01]], np.float32),
        "distance_spread": np.full((2, 2), 0.03, np.float32),
    }
    metres, sigma = solver.decode(outputs).distance or (0.0, 0.0)
    assert metres == pytest.approx(0.5, rel=1e-5) and sigma == pytest.approx(0.03, rel=1e-5)


def test_a_bundle_begins_with_what_another_learned(tmp_path, toy_bundle) -> None:
    """All that fits is taken over: f of another network, whatever its head."""
    from pathlib import Path

    tugboat = Path(__file__).resolve().parents[1] / "models" / "tugboat"
    config = NetworkConfig(extractor="fine", width=24, features=128, weights=str(tugboat))
    models = [FeatureMapping(config, object_contract(128)) for _ in range(2)]
    first, second = (m.f.trunk[0].weight for m in models)
    assert torch.equal(first, second)  # no random numbers
    assert not torch.equal(models[0].f.project.weight, models[1].f.project.weight)  # which has another shape there
    with pytest.raises(InputError, match=r"weights to begin with, of an f like compact"):
        FeatureMapping(NetworkConfig(width=24, weights=str(toy_bundle)), object_contract(128))


def test_the_exported_network_answers_as_torch_does(tmp_path) -> None:
    """With all options: every engine knows the shapes of its outputs."""
    from toy_bundle import DIAMETER, MAXIMUM, MINIMUM, toy_mesh

    from fm_pose_core.bundle import NetworkFile
    from fm_pose_core.config import EngineConfig, to_dict
    from fm_pose_core.learning.export import to_onnx
    from fm_pose_core.objects.bundle import ObjectInBundle, write_object_bundle
    from fm_pose_core.runtime import load_backend

    torch.manual_seed(0)
    config = NetworkConfig(extractor="fine", width=8, features=16, surface=True, distance=True)
    network = Fused(FeatureMapping(config, object_contract(64, 2, 64, distance=True))).eval()
    objects = [
        ObjectInBundle(name, i, MINIMUM, MAXIMUM, DIAMETER, 150.0, mesh=toy_mesh()) for i, name in enumerate("ab", 1)
    ]
    file = NetworkFile(to_onnx(network, "fp32"), to_dict(config), network.contract)
    bundle = write_object_bundle(tmp_path / "bundle", file, objects)
    images = np.random.default_rng(0).integers(0, 255, (3, 64, 64, 3)).astype(np.uint8)
    wanted = network.infer(images)
    for backend in ("onnxruntime", "openvino", "torch"):
        got = load_backend(bundle, EngineConfig(backend=backend, threads=1)).infer(images)
        assert set(got) == set(wanted)
        for name, values in got.items():
            np.testing.assert_allclose(values, wanted[name], rtol=2e-3, atol=2e-3 * np.abs(wanted[name]).max())
