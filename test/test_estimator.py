import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_bundle as toy

from fm_pose_core import Camera, EstimatorConfig, PoseEstimator, Window
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import apply, exp_so3, log_so3
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.objects.locate import Tracked

K = np.array([[600.0, 0.0, 325.0], [0.0, 610.0, 236.0], [0.0, 0.0, 1.0]])
CAMERAS = {
    "ideal": Camera(K, 640, 480),
    "plumb_bob": Camera(K, 640, 480, np.array([-0.25, 0.08, 0.001, -0.0005, 0.0])),
    "equidistant": Camera(K, 640, 480, np.array([0.02, -0.01, 0.003, 0.0]), "equidistant"),
}


@pytest.fixture(scope="module")
def estimator(toy_bundle: Path) -> PoseEstimator:
    return PoseEstimator.load(toy_bundle, EstimatorConfig(threads=1, views=1))


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_the_pose_in_the_image_is_found(toy_bundle: Path, camera: Camera, backend: str) -> None:
    estimator = PoseEstimator.load(toy_bundle, EstimatorConfig(backend=backend, threads=1, views=1))
    for u, v in ((325.0, 236.0), (120.4, 90.8), (520.0, 400.0)):
        truth = toy.toy_pose(camera, u, v)
        pose = estimator.estimate(toy.toy_image(camera, u, v), camera, Window(u, v))
        assert pose.accepted, pose.reason
        np.testing.assert_allclose(pose.T_camera_object[:3, 3], truth[:3, 3], atol=2e-4)
        assert np.linalg.norm(log_so3(pose.T_camera_object[:3, :3] @ truth[:3, :3].T)) < 1e-3
        np.testing.assert_allclose(
            pose.corners, camera.pixels(apply(truth, estimator.bundle.object().box_corners)), atol=0.2
        )
        assert pose.reprojection_error < 0.1
        assert 0.8 < pose.score <= 1.0


def test_a_refinement_is_loaded_with_the_bundle(toy_bundle: Path) -> None:
    """The first image need not wait for it, and one that cannot be had is known before."""
    pytest.importorskip("embreex", reason="drawing edges needs embreex")
    estimator = PoseEstimator.load(toy_bundle, EstimatorConfig(backend="onnxruntime", refine="edges"))
    assert list(estimator._refiners) == [(estimator.bundle.name, "edges")]


def test_a_displaced_window_shows_the_object_where_it_is(estimator: PoseEstimator) -> None:
    """The window off by 15 px: the network sees the blob off its middle, and the position stays the same."""
    camera = CAMERAS["ideal"]
    image = toy.toy_image(camera, 300.0, 200.0)
    straight = estimator.estimate(image, camera, Window(300.0, 200.0))
    displaced = estimator.estimate(image, camera, Window(312.0, 191.0))
    assert displaced.accepted
    center = apply(straight.T_camera_object, estimator.bundle.object().center[None])[0]
    center_displaced = apply(displaced.T_camera_object, estimator.bundle.object().center[None])[0]
    assert np.linalg.norm(center - center_displaced) < 1e-3
    assert not np.allclose(straight.T_camera_object[:3, 3], displaced.T_camera_object[:3, 3] + 0.01, atol=5e-3)


def test_tracking_returns_to_the_window(estimator: PoseEstimator) -> None:
    known = estimator.bundle.object()
    for camera in CAMERAS.values():
        tracked = Tracked(known.name, known.center, [toy.toy_pose(camera, 410.0, 150.0)])
        (window,) = tracked.locate(toy.toy_image(camera, 410.0, 150.0), camera)
        assert (window.u, window.v, window.object) == (
            pytest.approx(410, abs=0.05),
            pytest.approx(150, abs=0.05),
            "toy_box",
        )


def test_many_windows_are_one_window_many_times(estimator: PoseEstimator) -> None:
    camera = CAMERAS["plumb_bob"]
    image = np.maximum(toy.toy_image(camera, 200.0, 150.0), toy.toy_image(camera, 450.0, 300.0))
    windows = [Window(200.0, 150.0), Window(450.0, 300.0), Window(30.0, 400.0)]
    poses = estimator.estimate_many(image, camera, windows)
    assert [p.accepted for p in poses] == [True, True, False]
    for window, pose in zip(windows, poses, strict=True):
        np.testing.assert_allclose(pose.corners, estimator.estimate(image, camera, window).corners, atol=0.01)
    assert estimator.estimate_many(image, camera, []) == []


def test_views_of_a_window_answer_for_the_window(toy_bundle: Path) -> None:
    """A network that says where the spot is: every view sees it elsewhere and turned, and all say the same of the
    image."""
    seen = []

    class Spot:
        name, device, precision = "spot", "none", "fp32"

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            v, u = np.mgrid[: images.shape[1], : images.shape[2]]
            light = images.astype(np.float64).sum(-1)
            at = np.stack([(light * x).sum((1, 2)) / light.sum((1, 2)) for x in (u, v)], -1)
            seen.append(at)
            corners = np.repeat(at[:, None, None], 8, 2)  # (N, 1, 8, 2)
            return {"corners": corners, "spread": np.ones(corners.shape)}

    for camera in CAMERAS.values():
        rows, columns = np.mgrid[:480, :640]
        image = np.repeat(
            np.rint(255 * np.exp(-((columns - 318.0) ** 2 + (rows - 183.0) ** 2) / 50.0))[..., None], 3, -1
        ).astype(np.uint8)
        for views in (1, 2, 4, 7):
            estimator = PoseEstimator(PoseEstimator.load(toy_bundle).bundle, Spot(), EstimatorConfig(views=views))
            first, second = estimator.estimate_many(image, camera, [Window(300.0, 190.0), Window(330.0, 170.0)])
            assert seen[-1].shape == (2 * views, 2) and (views == 1 or np.ptp(seen[-1][:views], 0).min() > 4)
            for pose in (first, second):
                np.testing.assert_allclose(pose.corners, np.tile([318.0, 183.0], (8, 1)), atol=0.1)


def test_gates_refuse_with_a_reason(toy_bundle: Path, estimator: PoseEstimator) -> None:
    camera = CAMERAS["ideal"]
    nothing = estimator.estimate(np.zeros((480, 640, 3), np.uint8), camera, Window(320.0, 240.0))
    assert not nothing.accepted and "reprojection error" in nothing.reason
    swapped = toy.toy_image(camera, 320.0, 240.0)[..., ::-1]
    assert not estimator.estimate(swapped, camera, Window(320.0, 240.0)).accepted
    strict = PoseEstimator.load(toy_bundle, EstimatorConfig(min_score=0.99, views=1))
    pose = strict.estimate(toy.toy_image(camera, 320.0, 240.0), camera, Window(320.0, 240.0))
    assert not pose.accepted and "score" in pose.reason


def test_a_network_that_answers_with_nan_is_refused(estimator: PoseEstimator) -> None:
    class Nan:
        name, device, precision = "nan", "none", "fp32"

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            shape = (len(images), 1, 8, 2)
            return {"corners": np.full(shape, np.nan, np.float32), "spread": np.ones(shape, np.float32)}

    for camera in CAMERAS.values():
        pose = PoseEstimator(estimator.bundle, Nan()).estimate(
            np.zeros((480, 640, 3), np.uint8), camera, Window(320.0, 240.0)
        )
        assert not pose.accepted and "finite" in pose.reason and pose.score == 0.0


def test_covariance_predicts_the_scatter_in_the_camera_frame(estimator: PoseEstimator) -> None:
    """Corners with noise, seen through a window far off the axis: the pose scatters as the covariance says."""
    camera, (u, v) = CAMERAS["ideal"], (590.0, 430.0)
    image, window, truth = toy.toy_image(camera, u, v), Window(u, v), toy.toy_pose(camera, u, v)
    rng = np.random.default_rng(0)
    exact = estimator.backend.infer(estimator.bundle.object().crop.cut(image, camera, window)[0][None])["corners"]

    class Noisy:
        name, device, precision = "noisy", "none", "fp32"

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            # 0.5² + 0.75 = 1.
            corners = exact + rng.normal(scale=1.0, size=exact.shape)
            return {"corners": corners, "spread": np.full(exact.shape, np.sqrt(0.75))}

    noisy = PoseEstimator(estimator.bundle, Noisy(), EstimatorConfig(views=1))
    normalised, scores = [], []
    for _ in range(200):
        pose = noisy.estimate(image, camera, window)
        e = np.concatenate(
            [pose.T_camera_object[:3, 3] - truth[:3, 3], log_so3(pose.T_camera_object[:3, :3] @ truth[:3, :3].T)]
        )
        normalised.append(e @ np.linalg.solve(pose.covariance, e))
        scores.append(pose.score)
    assert 4.0 < np.mean(normalised) < 7.0
    assert np.std(scores) > 0


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (
            np.zeros((240, 320, 3), np.uint8),
            r"image: expected uint8 \(480, 640, 3\) as the camera says, got uint8 \(240, 320, 3\)",
        ),
        (np.zeros((480, 640), np.uint8), "image: expected uint8"),
        (np.zeros((480, 640, 4), np.uint8), "image: expected uint8"),
        (np.zeros((480, 640, 3), np.float32), "got float32"),
        ([[0]], "image: expected a numpy array, got list"),
    ],
)
def test_images_that_do_not_fit_are_refused(estimator: PoseEstimator, image: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        estimator.estimate(image, CAMERAS["ideal"], Window(10.0, 10.0))


def test_a_window_outside_of_the_image_is_no_error(estimator: PoseEstimator) -> None:
    image = toy.toy_image(CAMERAS["ideal"], 320.0, 240.0)
    assert not estimator.estimate(image, CAMERAS["ideal"], Window(-500.0, 2000.0)).accepted


def test_score_uses_the_bundles_calibration(estimator: PoseEstimator) -> None:
    camera, image = CAMERAS["ideal"], toy.toy_image(CAMERAS["ideal"], 320.0, 240.0)
    manifest = estimator.bundle.manifest
    calibration = replace(manifest.calibration, spread_scale=10.0)
    strict = ObjectBundle(estimator.bundle.path, replace(manifest, calibration=calibration))
    window = Window(320.0, 240.0)
    a = estimator.estimate(image, camera, window).score
    b = PoseEstimator(strict, estimator.backend, estimator.config).estimate(image, camera, window).score
    variance = [0.5**2 + (scale * toy.SPREAD) ** 2 for scale in (1.0, 10.0)]  # with pnp.FLOOR
    assert (1 / b - 1) == pytest.approx(variance[1] / variance[0] * (1 / a - 1), rel=1e-3)


def test_the_camera_turns_the_result_along(estimator: PoseEstimator) -> None:
    """The same window seen by a camera turned about its own centre: pose and covariance turn with it."""
    R = exp_so3(np.array([0.05, -0.1, 0.0]))
    camera = CAMERAS["ideal"]
    u, v = camera.pixels((R @ [0.0, 0.0, 1.0])[None])[0]
    a = estimator.estimate(toy.toy_image(camera, K[0, 2], K[1, 2]), camera, Window(K[0, 2], K[1, 2]))
    b = estimator.estimate(toy.toy_image(camera, u, v), camera, Window(u, v))
    R_b_a = estimator.bundle.object().crop.rotation(camera, Window(u, v))
    np.testing.assert_allclose(b.T_camera_object[:3, 3], R_b_a @ a.T_camera_object[:3, 3], atol=1e-4)
    A = np.kron(np.eye(2), R_b_a)
    np.testing.assert_allclose(b.covariance, A @ a.covariance @ A.T, atol=0.02 * a.covariance.max())


def test_importing_the_package_is_cheap() -> None:
    heavy = ["cv2", "openvino", "onnxruntime", "torch", "onnx", "yaml", "trimesh", "plyfile"]
    code = f"import fm_pose_core, sys; fm_pose_core.PoseEstimator; print([m for m in {heavy} if m in sys.modules])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1]
    )
    assert result.stdout.strip() == "[]"


def test_an_estimate_needs_neither_torch_nor_a_renderer(toy_bundle: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'pyrender', 'trimesh', 'onnx', 'matplotlib'): sys.modules[name] = None\n"
        "import numpy as np\n"
        "from fm_pose_core import Camera, PoseEstimator, Window\n"
        "camera = Camera(np.diag([500.0, 500.0, 1.0]), 64, 48)\n"
        "PoseEstimator.load(sys.argv[1]).estimate(np.zeros((48, 64, 3), np.uint8), camera, Window(32.0, 24.0))\n"
    )
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run([sys.executable, "-c", code, str(toy_bundle)], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
