"""The classical refiner: edges in an image against a prior, on pictures whose truth the test makes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip("embreex", reason="needs embreex (pip install '.[refine]')")

from rendered_bop import CAMERA, HALF, box_mesh

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array, apply, box_corners, exp_so3, inverse, log_so3, transform
from fm_pose_core.objects import settle
from fm_pose_core.objects.bop import Instance
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.edges import UNTOLD, EdgeNoise, EdgeRefiner, _to_center, _to_origin, about, measure_edges
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.objects.outlines import Found
from fm_pose_core.objects.pnp import expected_projection_error, moved_origin
from fm_pose_core.objects.refine import Look, Solution
from fm_pose_core.rendering.mesh import Mesh
from fm_pose_core.rendering.raycaster import Raycaster
from fm_pose_core.types import Visible, Window

MESH = box_mesh()
CORNERS = box_corners(*MESH.box)
DIAMETER = float(2 * np.linalg.norm(HALF))
TRUTH = transform(exp_so3(np.array([0.7, -0.6, 0.4])), np.array([0.02, -0.01, 0.45]))
SIGMA = np.array([0.004, 0.004, 0.015, 0.05, 0.05, 0.05])  # metres, radians


def photograph(T: Array = TRUTH, size: float = 1.0, seed: int = 0) -> np.ndarray:
    """The box, `size` times as large as its model, before a smooth background, blurred and with noise."""
    rng = np.random.default_rng(seed)
    rgba, _ = Raycaster(MESH, CAMERA.K, CAMERA.width, CAMERA.height).render(T @ np.diag([size, size, size, 1.0]))
    coarse = rng.integers(60, 200, (6, 8, 3)).astype(np.uint8)
    back = cv2.resize(coarse, (CAMERA.width, CAMERA.height), interpolation=cv2.INTER_CUBIC)
    image = back * (1.0 - rgba[..., 3:] / 255.0) + 0.85 * rgba[..., :3]
    image = cv2.GaussianBlur(image, (0, 0), 0.6) + rng.normal(scale=4.0, size=image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def solution(T: Array) -> Solution:
    """As if a network had said it."""
    covariance = np.diag(SIGMA**2)
    corners = CAMERA.pixels(apply(T, CORNERS))
    return Solution(T, corners, 0.5, covariance, expected_projection_error(T, covariance, CORNERS, CAMERA))


def disturbed(seed: int) -> Array:
    e = np.random.default_rng(seed).normal(size=6) * SIGMA
    return transform(exp_so3(e[3:]) @ TRUTH[:3, :3], TRUTH[:3, 3] + e[:3])


def look(image: np.ndarray) -> Look:
    return Look(np.zeros((1, 8, 8, 3), np.uint8), CAMERA, np.eye(3), lambda: image)


def errors(T: Array) -> tuple[float, float]:
    """Degrees and millimetres."""
    return float(np.degrees(np.linalg.norm(log_so3(T[:3, :3] @ TRUTH[:3, :3].T)))), 1e3 * float(
        np.linalg.norm(T[:3, 3] - TRUTH[:3, 3])
    )


def test_edges_correct_the_pose_and_say_how_well() -> None:
    refiner, image = EdgeRefiner(MESH, CORNERS, DIAMETER, EdgeNoise(1.0, 0.002)), photograph()
    before, after, deviations = [], [], []
    for seed in range(12):
        start = solution(disturbed(seed))
        found = refiner.refine(look(image), start)
        before.append(errors(start.T_camera_object))
        after.append(errors(found.T_camera_object))
        e = np.concatenate(
            [TRUTH[:3, 3] - found.T_camera_object[:3, 3], log_so3(TRUTH[:3, :3] @ found.T_camera_object[:3, :3].T)]
        )
        # These pictures have nothing of what edges do not tell.
        told = found.covariance - about(found.T_camera_object, refiner.mesh_center, *UNTOLD)
        deviations.append(e @ np.linalg.solve(told, e))
        assert found.expected_error < start.expected_error
    assert np.median(np.array(before), 0)[0] > 3.0 and np.median(np.array(before), 0)[1] > 8.0
    assert np.median(np.array(after), 0)[0] < 0.7 and np.median(np.array(after), 0)[1] < 2.5
    assert 0.3 < np.median(deviations) < 20.0  # of chi square with 6 degrees of freedom: not sure of something wrong


def test_edges_are_found_from_a_pose_seven_pixels_off() -> None:
    """As far off as a network's pose often is."""
    refiner, image = EdgeRefiner(MESH, CORNERS, DIAMETER, EdgeNoise(1.0, 0.002)), photograph()
    for side in ([1.0, 0.0], [0.0, 1.0], [-0.7, 0.7]):
        shift = 7.0 * TRUTH[2, 3] / CAMERA.K[0, 0] * np.array([*side, 0.0])
        start = transform(TRUTH[:3, :3], TRUTH[:3, 3] + shift)
        wide = replace(solution(start), covariance=np.diag(np.square([0.012, 0.012, 0.015, 0.05, 0.05, 0.05])))
        assert errors(refiner.refine(look(image), wide).T_camera_object)[1] < 2.5


def test_an_object_smaller_than_its_model_is_not_too_far_away() -> None:
    """With the model's size the edges would put it 4 % too far; with its own they do not."""
    image, start = photograph(size=0.96), solution(disturbed(1))
    distances = {}
    for size in (1.0, 0.96):
        T = EdgeRefiner(MESH, CORNERS, DIAMETER, EdgeNoise(size, 0.002)).refine(look(image), start).T_camera_object
        distances[size] = T[2, 3]
    assert distances[0.96] == pytest.approx(0.45, abs=0.003)
    assert distances[1.0] == pytest.approx(0.45 / 0.96, abs=0.006)


def test_what_the_network_does_not_see_says_nothing() -> None:
    """Another box, just like this one, hides its right half: its edges and colours are as good, five pixels away."""
    image, other = photograph(), transform(TRUTH[:3, :3], TRUTH[:3, 3] + [0.0, 5 * 0.45 / CAMERA.K[0, 0], 0.0])
    rgba, _ = Raycaster(MESH, CAMERA.K, CAMERA.width, CAMERA.height).render(TRUTH)
    middle = CAMERA.pixels(TRUTH[None, :3, 3])[0]
    hidden = np.arange(CAMERA.width) > middle[0]
    image[:, hidden] = photograph(other)[:, hidden]
    window = Crop.around(DIAMETER, 0.45, 1.2)
    R = window.rotation(CAMERA, Window(*middle))
    (seen,) = window.cut_all(np.where(hidden, 0, rgba[..., 3]).astype(np.uint8), CAMERA, [R])
    cells = cv2.resize(seen, (16, 16), interpolation=cv2.INTER_AREA)[None] / np.float32(255.0)
    visible = Visible(cells, window.K, window.size, R[None])
    refiner, ends = EdgeRefiner(MESH, CORNERS, DIAMETER, EdgeNoise(1.0, 0.002)), {}
    for told in (None, visible):
        starts = [replace(solution(disturbed(seed)), visible=told) for seed in range(8)]
        ends[told is None] = np.median([errors(refiner.refine(look(image), x).T_camera_object) for x in starts], 0)
    assert (ends[False] < 0.6 * ends[True]).all(), ends


def test_without_edges_the_networks_pose_stays() -> None:
    start = solution(disturbed(2))
    empty = np.full((CAMERA.height, CAMERA.width, 3), 128, np.uint8)
    assert EdgeRefiner(MESH, CORNERS, DIAMETER).refine(look(empty), start) is start


def test_colours_find_an_object_among_stronger_edges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A grey box, blurred, before stripes: its own edges are the weakest of all."""
    grey = replace(MESH, colours=np.full_like(MESH.colours, 150))
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    stripes = ((u + 2 * v) // 7 % 2)[..., None] * np.array([130.0, 10.0, 90.0]) + np.array([60.0, 120.0, 60.0])
    rgba, _ = Raycaster(grey, CAMERA.K, CAMERA.width, CAMERA.height).render(TRUTH)
    image = cv2.GaussianBlur(stripes * (1.0 - rgba[..., 3:] / 255.0) + rgba[..., :3], (0, 0), 1.2)
    image = np.clip(image + np.random.default_rng(0).normal(scale=4.0, size=image.shape), 0, 255).astype(np.uint8)

    def ends() -> list[float]:
        refiner = EdgeRefiner(grey, CORNERS, DIAMETER, EdgeNoise(1.0, 0.002))
        found = [refiner.refine(look(image), solution(disturbed(seed))).T_camera_object for seed in range(8)]
        return [float(np.linalg.norm(apply(T, CORNERS) - apply(TRUTH, CORNERS), axis=1).mean()) for T in found]

    with_colours = np.median(ends())
    monkeypatch.setattr(settle, "find_outline", lambda _r, _e, p, _n: Found(0 * p[:, 0], 0 * p[:, 0] + 1, p[:, 0] < 0))
    assert with_colours < 0.003 < np.median(ends())


def test_of_poses_that_a_symmetry_makes_the_one_that_the_image_shows_is_found() -> None:
    """A box with a knob at one end, of which the labels say that it looks alike from both."""
    knob = box_mesh(half=HALF / 3)
    both = Mesh(
        np.concatenate([MESH.vertices, knob.vertices + np.array([1.25 * HALF[0], 0.0, 0.0])]),
        np.concatenate([MESH.normals, knob.normals]),
        np.concatenate([np.full_like(MESH.colours, 190), np.full_like(knob.colours, (200, 60, 50))]),
        np.concatenate([MESH.faces, knob.faces + len(MESH.vertices)]),
    )
    S = transform(exp_so3(np.array([0.0, 0.0, np.pi])), np.array([2 * both.box[1][0] - 2 * HALF[0], 0.0, 0.0]))
    refiner = EdgeRefiner(both, CORNERS, DIAMETER, EdgeNoise(1.0, 0.002), [S])
    rgba, _ = Raycaster(both, CAMERA.K, CAMERA.width, CAMERA.height).render(TRUTH)
    coarse = np.random.default_rng(0).integers(60, 200, (6, 8, 3)).astype(np.uint8)
    back = cv2.resize(coarse, (CAMERA.width, CAMERA.height), interpolation=cv2.INTER_CUBIC)
    image = (back * (1.0 - rgba[..., 3:] / 255.0) + rgba[..., :3]).astype(np.uint8)
    for start in (disturbed(3), *(disturbed(seed) @ inverse(S) for seed in range(4))):
        found = refiner.refine(look(image), solution(start))
        degrees, millimetres = errors(found.T_camera_object)
        assert degrees < 3.0 and millimetres < 8.0, (degrees, millimetres)


def test_a_covariance_moves_with_the_origin() -> None:
    """By Monte Carlo."""
    S, rng = transform(exp_so3(np.array([0.0, 0.4, np.pi])), np.array([0.2, -0.1, 0.05])), np.random.default_rng(0)
    covariance, moved = np.diag(SIGMA**2), []
    for e in rng.multivariate_normal(np.zeros(6), covariance, 20000):
        T = transform(exp_so3(e[3:]) @ TRUTH[:3, :3], TRUTH[:3, 3] + e[:3]) @ S
        D = T[:3, :3] @ (TRUTH @ S)[:3, :3].T
        moved.append(np.concatenate([T[:3, 3] - (TRUTH @ S)[:3, 3], log_so3(D)]))
    got = moved_origin(covariance, TRUTH[:3, :3] @ S[:3, 3])
    spread = np.sqrt(np.diag(got))
    unit = np.outer(spread, spread)
    np.testing.assert_allclose(np.cov(np.array(moved).T) / unit, got / unit, atol=0.06)


def test_the_covariance_of_the_centre_is_that_of_the_origin_moved() -> None:
    """By Monte Carlo; and back."""
    center = np.array([0.1, -0.05, 0.02])
    rng = np.random.default_rng(0)
    A = rng.normal(size=(6, 6)) * np.repeat([1e-3, 1e-2], 3)[:, None]
    covariance = A @ A.T
    samples = rng.multivariate_normal(np.zeros(6), covariance, 20000)
    inverse_center = np.linalg.inv(TRUTH @ transform(np.eye(3), center))
    moved = []
    for e in samples:
        T = transform(exp_so3(e[3:]) @ TRUTH[:3, :3], TRUTH[:3, 3] + e[:3]) @ transform(np.eye(3), center)
        D = inverse_center @ T
        moved.append(np.concatenate([D[:3, 3], log_so3(D[:3, :3])]))
    got = _to_center(covariance, TRUTH, center)
    spread = np.sqrt(np.diag(got))
    np.testing.assert_allclose(
        np.cov(np.array(moved).T) / np.outer(spread, spread), got / np.outer(spread, spread), atol=0.06
    )
    np.testing.assert_allclose(_to_origin(got, TRUTH, center), covariance, rtol=1e-9, atol=1e-15)


def test_what_edges_are_worth_is_measured_in_labelled_images(tmp_path: Path) -> None:
    instances, rng = [], np.random.default_rng(5)
    for i in range(12):
        w = rng.normal(size=3)
        T = transform(exp_so3(w), np.array([*rng.uniform(-0.03, 0.03, 2), rng.uniform(0.35, 0.5)]))
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), photograph(T, 0.97, i)[..., ::-1])
        instances.append(Instance(1, i, 1, T, 1.0, CAMERA, path))
    noise = measure_edges(MESH, CORNERS, DIAMETER, instances)
    assert noise.size == pytest.approx(0.97, abs=0.006) and 0.003 < noise.size_sigma < 0.01
    assert noise.scale <= 2.0  # the model is right: its edges are worth much
    assert measure_edges(MESH, CORNERS, DIAMETER, instances[:3]) == EdgeNoise()  # too few
    assert measure_edges(MESH, CORNERS, DIAMETER, []) == EdgeNoise()


def test_edges_that_mislead_are_worth_little(tmp_path: Path) -> None:
    """The labels are those of a box that is turned against the one in the pictures: edges lead away from them."""
    instances, rng = [], np.random.default_rng(5)
    for i in range(12):
        T = transform(exp_so3(rng.normal(size=3)), np.array([*rng.uniform(-0.03, 0.03, 2), rng.uniform(0.35, 0.5)]))
        path = tmp_path / f"{i}.png"
        cv2.imwrite(str(path), photograph(T, 1.0, i)[..., ::-1])
        wrong = T @ transform(exp_so3(np.array([0.0, 0.12, 0.0])), np.zeros(3))
        instances.append(Instance(1, i, 1, wrong, 1.0, CAMERA, path))
    worth = EdgeRefiner(MESH, CORNERS, DIAMETER, measure_edges(MESH, CORNERS, DIAMETER, instances))
    assert worth.noise.scale > 1.0 or worth.noise == EdgeNoise()


def test_the_estimator_refines_as_it_is_told(toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from toy_bundle import toy_image

    from fm_pose_core import Window

    K = np.array([[600.0, 0.0, 325.0], [0.0, 610.0, 236.0], [0.0, 0.0, 1.0]])
    camera = type(CAMERA)(K, 640, 480)
    calls: list[str] = []
    monkeypatch.setattr(EdgeRefiner, "refine", lambda self, look, solution: calls.append("edges") or solution)
    helped = tmp_path / "helped"
    shutil.copytree(toy_bundle, helped)
    manifest = json.loads((helped / "manifest.json").read_text())
    manifest["objects"][0]["refined_by"] = "edges"
    (helped / "manifest.json").write_text(json.dumps(manifest))
    for bundle, refine, asked in (
        (toy_bundle, "none", 0),
        (toy_bundle, "auto", 0),  # the bundle does not say that it helps
        (toy_bundle, "edges", 1),
        (helped, "none", 0),
        (helped, "auto", 1),
    ):
        calls.clear()
        estimator = PoseEstimator.load(bundle, EstimatorConfig(threads=1, views=1, refine=refine))
        assert estimator.estimate(toy_image(camera, 320.0, 240.0), camera, Window(320.0, 240.0)).accepted
        assert len(calls) == asked, (bundle, refine)


def test_edges_without_embreex_are_refused_by_name(toy_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import fm_pose_core.objects.estimator as module

    monkeypatch.setattr(module, "raycaster_installed", lambda: False)
    with pytest.raises(InputError, match="edges without them; try: pip install embreex"):
        PoseEstimator.load(toy_bundle, EstimatorConfig(threads=1, views=1, refine="edges"))
    assert PoseEstimator.load(toy_bundle, EstimatorConfig(threads=1, views=1, refine="auto")).config.refine == "auto"


def test_what_edges_would_mend_is_said_once_without_embreex(
    toy_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import fm_pose_core.objects.estimator as module

    monkeypatch.setattr(module, "raycaster_installed", lambda: False)
    shutil.copytree(toy_bundle, tmp_path / "helped")
    manifest = json.loads((toy_bundle / "manifest.json").read_text())
    manifest["objects"][0]["refined_by"] = "edges"
    (tmp_path / "helped" / "manifest.json").write_text(json.dumps(manifest))
    for bundle, told in ((toy_bundle, 0), (tmp_path / "helped", 1)):
        caplog.clear()
        estimator = PoseEstimator.load(bundle, EstimatorConfig(threads=1, views=1, refine="auto"))
        for views in (1, 2):
            estimator.config = replace(estimator.config, views=views)
            assert estimator._refiner(estimator.bundle.objects[0].name) is None
        assert [("pip install embreex" in x.message) for x in caplog.records] == [True] * told
