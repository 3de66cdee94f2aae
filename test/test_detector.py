"""From a whole image to windows: peaks, cameras, bundles, the estimator, the command line."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import toy_bundle as toy
from tiny_bop import write_tiny_bop

from fm_pose_core import Camera, EstimatorConfig, PoseEstimator
from fm_pose_core.cli import main
from fm_pose_core.errors import InputError
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.objects.detection.detector import peaks, whole_image
from fm_pose_core.objects.evaluation import OfObject, evaluate_bop

SIZE, SIDE = 320, 40
K = np.array([[600.0, 0.0, 325.0], [0.0, 610.0, 236.0], [0.0, 0.0, 1.0]])
LEAST = 0.3
CAMERAS = {
    "ideal": Camera(K, 640, 480),
    "small": Camera(K * [[0.5], [0.5], [1.0]], 320, 240),
    "large": Camera(K * [[3.0], [3.0], [1.0]], 1920, 1440),
    "upright": Camera(K[[1, 0, 2]][:, [1, 0, 2]], 480, 640),
    "wide": Camera(K * [[0.6], [0.6], [1.0]], 640, 480, np.array([-0.3, 0.08, 0.0, 0.0, 0.0])),
    "fisheye": Camera(K * [[0.5], [0.5], [1.0]], 640, 480, np.array([0.02, -0.01, 0.003, 0.0]), "equidistant"),
    "plumb_bob": Camera(K, 640, 480, np.array([-0.25, 0.08, 0.001, -0.0005, 0.0])),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy.write_toy_bundle(tmp_path_factory.mktemp("bundles") / "finder", ("left_box", "right_box"), detector=True)


@pytest.fixture(scope="module")
def estimator(bundle: Path) -> PoseEstimator:
    return PoseEstimator.load(bundle, EstimatorConfig(threads=1, views=1))


def field(*found: tuple[int, int, int, float]) -> tuple[np.ndarray, np.ndarray]:
    """heat (2, L) and centres (2, L, 2) with (object, row, column, score) each."""
    heat = np.full((2, SIDE, SIDE), 0.01, np.float32)
    for k, row, column, score in found:
        heat[k, row, column] = score
    middles = (np.arange(SIDE) + 0.5) * SIZE / SIDE - 0.5
    return heat.reshape(2, -1), np.tile(np.stack(np.meshgrid(middles, middles), -1).reshape(-1, 2), (2, 1, 1))


def test_peaks_are_the_highest_cells_around_them_best_first() -> None:
    heat, centre = field((0, 5, 7, 0.6), (0, 5, 8, 0.5), (0, 30, 20, 0.9), (1, 5, 7, 0.4), (1, 9, 9, 0.2))
    found = peaks(heat, centre, SIZE, 0.3)
    assert [(x.object, x.score) for x in found] == [
        (0, pytest.approx(0.9)),
        (0, pytest.approx(0.6)),
        (1, pytest.approx(0.4)),
    ]
    assert [x.cell for x in found] == [30 * SIDE + 20, 5 * SIDE + 7, 5 * SIDE + 7]
    np.testing.assert_allclose([x.centre for x in found], [(163.5, 243.5), (59.5, 43.5), (59.5, 43.5)])


def test_two_cells_that_mean_one_centre_are_one() -> None:
    heat, centre = field((0, 5, 7, 0.6), (0, 5, 9, 0.5), (1, 5, 9, 0.5))
    centre[0, 5 * SIDE + 9] = centre[0, 5 * SIDE + 7] + 3.0  # both cells of object 0 say so
    found = peaks(heat, centre, SIZE, 0.3)
    assert [x.object for x in found] == [0, 1]
    np.testing.assert_allclose(found[1].centre, (75.5, 43.5))  # of object 1 the cell says something else


def test_a_field_of_nonsense_gives_no_window() -> None:
    heat, centre = field((0, 5, 7, 0.6), (1, 8, 8, np.nan))
    centre[0, 5 * SIDE + 7] = np.nan
    assert peaks(heat, centre, SIZE, 0.3) == []
    assert peaks(np.full_like(heat, np.nan), centre, SIZE, 0.3) == []


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_an_object_is_found_wherever_the_camera_shows_it(estimator: PoseEstimator, camera: Camera) -> None:
    cell = 8 * camera.K[0, 0] / whole_image(camera, SIZE)[0].focal  # image pixels, in the middle
    for x, y in ((0.5, 0.5), (0.15, 0.8), (0.9, 0.2), (0.97, 0.5)):
        u, v = round(x * camera.width), round(y * camera.height)
        if np.abs(camera.rays(np.array([[u, v]]))[0, :2]).max() > 1.2:
            continue  # at the border of a very wide view, see WIDEST
        image = np.zeros((camera.height, camera.width, 3), np.uint8)
        cv2.circle(image, (u, v), round(1.2 * cell), (255, 0, 0), -1)
        found = estimator.detector.detect(image, camera, LEAST)
        assert {f.window.object for f in found} == {"left_box", "right_box"}
        assert all(np.hypot(f.window.u - u, f.window.v - v) < 1.5 * cell and f.score > 0.3 for f in found)
    assert estimator.detector.detect(np.zeros((camera.height, camera.width, 3), np.uint8), camera, LEAST) == []


@pytest.mark.parametrize("camera", CAMERAS.values(), ids=CAMERAS)
def test_windows_tell_the_distance_if_the_detector_does(
    tmp_path: Path, estimator: PoseEstimator, camera: Camera
) -> None:
    """Along the ray, of an object that looks so large in the detector's image."""
    bundle = toy.write_toy_bundle(tmp_path / "teller", detector=True, depth=True)
    teller = PoseEstimator.load(bundle, EstimatorConfig(threads=1, views=1))
    crop, R_camera_view = whole_image(camera, SIZE)
    depth = np.exp(toy.LOG_DEPTH) * crop.focal / SIZE * np.linalg.norm(toy.MAXIMUM - toy.MINIMUM)
    image = np.zeros((camera.height, camera.width, 3), np.uint8)
    for x, y in ((0.5, 0.5), (0.3, 0.7)):
        place = round(x * camera.width), round(y * camera.height)
        cv2.circle(image, place, round(10 * camera.K[0, 0] / crop.focal), (255, 0, 0), -1)
    windows = [found.window for found in teller.detector.detect(image, camera, LEAST)]
    assert len(windows) >= 2
    for window in windows:
        ray = camera.rays(np.array([[window.u, window.v]]))[0] @ R_camera_view
        assert window.distance == pytest.approx(depth * np.linalg.norm(ray) / ray[2], rel=1e-4)
    assert {found.window.distance for found in estimator.detector.detect(image, camera, LEAST)} == {0.0}


def test_a_depth_of_nonsense_is_not_told(estimator: PoseEstimator) -> None:
    heat, centre = field((0, 5, 7, 0.9), (1, 20, 20, 0.8), (0, 30, 9, 0.7))
    depth = np.full((1, 2, SIDE * SIDE), 1.0, np.float32)
    depth[0, [0, 1], [5 * SIDE + 7, 20 * SIDE + 20]] = np.nan, 1e9
    answers = {"heat": heat[None], "centre": centre[None].astype(np.float32), "depth": depth}
    detector = replace(estimator.detector, infer=lambda _: answers)
    found = detector.detect(np.zeros((480, 640, 3), np.uint8), CAMERAS["ideal"], LEAST)
    assert [bool(x.window.distance) for x in found] == [False, False, True]


def test_all_instances_get_a_pose(estimator: PoseEstimator) -> None:
    camera = CAMERAS["ideal"]
    where = [(120.0, 90.0), (500.0, 400.0)]
    image = np.maximum(*(toy.toy_image(camera, u, v) for u, v in where))
    found = estimator.find(image, camera)
    assert sorted(window.object for window, _ in found) == ["left_box"] * 2 + ["right_box"] * 2
    for window, pose in found:
        assert pose.accepted, pose.reason
        t = pose.T_camera_object[:3, 3]
        assert min(np.linalg.norm(t - toy.toy_pose(camera, u, v)[:3, 3]) for u, v in where) < 0.01, window


def test_the_smallest_score_can_be_chosen(bundle: Path) -> None:
    camera = CAMERAS["ideal"]
    image = toy.toy_image(camera, 300.0, 200.0, color=(90, 40, 40))  # a faint one, score 0.78
    counts = {}
    for least in (0.7, 0.9):
        config = EstimatorConfig(threads=1, views=1, min_detection=least)
        counts[least] = len(PoseEstimator.load(bundle, config).find(image, camera))
    assert counts == {0.7: 2, 0.9: 0}


def test_what_it_finds_is_scored_however_unsure_the_pose(tmp_path: Path) -> None:
    """As in BOP's task it is known what an image shows."""
    dataset = BopDataset(write_tiny_bop(tmp_path / "bop"))
    bundle = toy.write_toy_bundle(tmp_path / "finder", detector=True)
    estimator = PoseEstimator.load(bundle, EstimatorConfig(threads=1, views=1, min_score=1.0))
    evaluations = (
        evaluate_bop(dataset, "test", {1: OfObject(estimator, "toy_box")}, window=window) for window in ("gt", "detect")
    )
    assert [[c.status for c in x.cases] for x in evaluations] == [
        ["rejected", "rejected", "rejected"],
        ["scored", "scored", "absent"],
    ]


def test_a_bundle_without_a_detector_says_so(toy_bundle: Path) -> None:
    estimator = PoseEstimator.load(toy_bundle, EstimatorConfig(threads=1, views=1))
    assert not estimator.can_detect
    with pytest.raises(InputError, match="expected a bundle with a detector, got one without"):
        estimator.find(np.zeros((480, 640, 3), np.uint8), CAMERAS["ideal"])


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda d: d.update(sha256="0" * 64), "detector.onnx: expected sha256"),
        (lambda d: d["contract"].update(head="corners"), r"detector\.contract\.head: expected centres"),
        (
            lambda d: d["contract"]["outputs"][1].update(shape=[3, 1600]),
            r"detector\.contract\.outputs: expected centre",
        ),
        (
            lambda d: d["contract"]["outputs"][0].update(shape=[1600, 2]),
            r"detector\.contract\.outputs: expected centre \(2, cells, 2\)",
        ),
        (lambda d: d["contract"]["outputs"][0].update(shape=[2]), r"detector\.contract\.outputs: expected centre"),
        (lambda d: d["contract"]["outputs"][1].update(shape=[]), r"detector\.contract\.outputs, heat"),
        (lambda d: d["contract"]["outputs"].clear(), r"detector\.contract\.outputs"),
        (
            lambda d: d["contract"]["outputs"].append({"name": "depth", "shape": [1599], "scale": 1.0, "shift": 0.0}),
            r"detector\.contract\.outputs: .* and perhaps depth \(2, cells\)",
        ),
        (lambda d: d["contract"].update(channels=1), r"detector\.contract\.channels"),
        (lambda d: d.update(file="../network.onnx"), "a file name without folders"),
    ],
    ids=[
        "damaged",
        "head",
        "objects",
        "shared",
        "flat",
        "no_shape",
        "no_outputs",
        "depth_of_others",
        "depth",
        "elsewhere",
    ],
)
def test_a_detector_that_does_not_fit_is_refused(tmp_path: Path, change, told: str) -> None:
    path = toy.write_toy_bundle(tmp_path / "finder", ("a", "b"), detector=True)
    manifest = json.loads((path / "manifest.json").read_text())
    change(manifest["detector"])
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=told):
        ObjectBundle.load(path)


def test_infer_finds_the_objects_by_itself(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    camera = CAMERAS["ideal"]
    cv2.imwrite(str(tmp_path / "image.png"), toy.toy_image(camera, 200.0, 300.0)[..., ::-1])
    intrinsics = ",".join(str(x) for x in (K[0, 0], K[1, 1], K[0, 2], K[1, 2]))
    call = ["infer", "--bundle", str(bundle), "--image", str(tmp_path / "image.png"), "--camera", intrinsics]
    assert main([*call, "--output", str(tmp_path / "overlay.png")]) == 0
    told = capsys.readouterr().out
    assert "left_box" in told and "right_box" in told and told.count("accepted     yes") == 2
    assert cv2.imread(str(tmp_path / "overlay.png")).shape == (480, 640, 3)
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((480, 640, 3), np.uint8))
    assert main(call) == 0
    assert "no object" in capsys.readouterr().out


def test_infer_without_window_and_detector_asks_for_one(toy_bundle: Path, tmp_path: Path, capsys) -> None:
    cv2.imwrite(str(tmp_path / "image.png"), np.zeros((480, 640, 3), np.uint8))
    call = ["infer", "--bundle", str(toy_bundle), "--image", str(tmp_path / "image.png"), "--camera", "600,600,320,240"]
    assert main(call) == 2
    assert "--window: expected U,V, since the bundle has no detector" in capsys.readouterr().err
