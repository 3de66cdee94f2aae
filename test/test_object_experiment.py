"""An experiment with objects: several in one network, its real images, and the calibration of what it exports."""

import json
import logging
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")
pytest.importorskip("pyrender", reason="training needs pyrender (pip install '.[train]')")

from rendered_bop import BRICK, HALF_TURN, write_rendered_bop

from fm_pose_core.config import EstimatorConfig, to_dict
from fm_pose_core.contract import object_contract
from fm_pose_core.errors import InputError
from fm_pose_core.files import read_image
from fm_pose_core.geometry import apply
from fm_pose_core.learning.experiment import Export
from fm_pose_core.learning.export import export, fused_of
from fm_pose_core.learning.networks import FeatureMapping, Fused, NetworkConfig
from fm_pose_core.learning.sheet import draw_batch
from fm_pose_core.learning.trainer import train
from fm_pose_core.objects.calibration import Asked, calibrate
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.objects.experiment import ObjectData, ObjectExperiment
from fm_pose_core.objects.pnp import FLOOR, widened
from fm_pose_core.objects.solver import Answer, Sight, solve_all
from fm_pose_core.objects.validation import KnownObject, _errors, cases_of
from fm_pose_core.tasks import experiment_from
from fm_pose_core.types import Window

pytestmark = pytest.mark.usefixtures("one_thread")
BOTH = [{"id": 1}, {"id": 2, "name": "brick"}]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with two objects in each photograph."""
    return write_rendered_bop(tmp_path_factory.mktemp("bop") / "pair", frames=8, objects=2)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with two scenes of three photographs each."""
    return write_rendered_bop(tmp_path_factory.mktemp("bop") / "scenes", frames=3, scenes=2)


def experiment_of(dataset: Path, objects: list[dict[str, Any]] | None = None, **data: str) -> ObjectExperiment:
    values = {
        "data": {"dataset": str(dataset), **data},
        "objects": objects or [{"id": 1}],
        "crop": {"size": 64},
        "synthetic": {"viewpoints": {"distance": [0.3, 0.5]}},
        "network": {"width": 8, "features": 32},
        "loss": {"points": 1.0},
        "schedule": {
            "pretrain_images": 120,
            "images": 480,
            "learning_rate": 1e-2,
            "batch_synthetic": 4,
            "batch_pairs": 4,
            "workers": 0,
            "precision": "fp32",
        },
    }
    return experiment_from(values)  # type: ignore[return-value]


# Several objects


def test_a_batch_has_as_many_of_each_object_with_labels_of_its_own(pair: Path) -> None:
    """The box has no symmetry, the brick has one: its second label is where the turned brick's corners are."""
    data = experiment_of(pair, BOTH).read_data()
    T_S, T_M = data.source.open(True, True, np.random.default_rng(0))
    assert T_S is not None and T_M is not None
    for samples, suffix in ((T_S, "s"), (T_M, "r")):
        drawn = [dict(zip(samples.names, samples.draw(), strict=True)) for _ in range(6)]
        assert [int(x[f"k_{suffix}"]) for x in drawn] == [0, 1, 0, 1, 0, 1]
        for x in drawn:
            y, frames = x[f"y_{suffix}"], x[f"e_{suffix}"]
            assert y.shape == (2, 8, 2) and frames.shape == (2, 3, 4) and x[f"p_{suffix}"].shape == (16, 3)
            if x[f"k_{suffix}"] == 0:
                np.testing.assert_array_equal(y[0], y[1])
            else:  # (x, y) -> (−x, −y) takes corner (i, j, k) to (1 − i, 1 − j, k)
                np.testing.assert_allclose(y[1], y[0].reshape(2, 2, 2, 2)[::-1, ::-1].reshape(8, 2), atol=1e-3)
                np.testing.assert_allclose(frames[1], HALF_TURN[:3], atol=1e-6)
                shown = x[f"p_{suffix}"][~np.isnan(x[f"p_{suffix}"][:, 0])]
                assert len(shown) and (np.abs(shown) < BRICK + 2e-3).all()
    pictures = {k: np.stack([d[k] for d in drawn]) for k in ("x_r", "x_m", "y_r")}
    assert draw_batch(pictures, experiment_of(pair, BOTH).contract(), count=2).shape == (2 * 192, 2 * 192, 3)
    T_S.close()
    T_M.close()


@pytest.fixture(scope="module")
def trained(pair: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ObjectExperiment, Path]:
    """A short run with both objects."""
    experiment = experiment_of(pair, BOTH, validation_frames="6-7")
    run = tmp_path_factory.mktemp("runs") / "pair"
    train(experiment, run)
    return experiment, run


def test_photographs_that_no_rendering_is_like_are_named(pair: Path, caplog: pytest.LogCaptureFixture) -> None:
    seen = {"distance": [0.3, 0.5], "sphere": "upper", "lowest_elevation": 60.0}
    for synthetic in ({"viewpoints": seen}, {"viewpoints": seen, "photographed": 0.3}):
        caplog.clear()
        experiment = experiment_from({**to_dict(experiment_of(pair, BOTH)), "synthetic": synthetic})
        experiment.read_data()
        assert ("photographs show it tilted, or from below" in caplog.text) == ("photographed" not in synthetic)


def test_two_objects_train_and_are_validated_by_their_names(trained: tuple[ObjectExperiment, Path]) -> None:
    _, run = trained
    log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    losses = [line for line in log if "L" in line]
    assert {"L_hS", "L_hR", "L_g", "L_u", "L_p"} <= losses[-1].keys()
    assert losses[-1]["L_hS"] < losses[0]["L_hS"] and np.isfinite([x["L"] for x in losses]).all()
    for group in ("validation", "validation/obj_000001", "validation/brick", "training/brick"):
        assert {f"{group}/corner_px", f"{group}/proj_5px", f"{group}/add_10pct"} <= log[-1].keys()
    parts = [log[-1][f"validation/{name}/proj_5px"] for name in ("obj_000001", "brick")]
    assert log[-1]["validation/proj_5px"] == pytest.approx(np.mean(parts))  # as many of each


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the TorchScript exporter
def test_two_objects_in_one_bundle(trained: tuple[ObjectExperiment, Path], tmp_path: Path) -> None:
    """Windows of both go through the network together; each gets its own corners, crop and pose."""
    experiment, run = trained
    export(experiment, run, tmp_path / "pair", precision="fp32")
    config = EstimatorConfig(backend="onnxruntime", views=2, threads=1)
    estimator = PoseEstimator.load(tmp_path / "pair", config)
    chosen = export(experiment, run, tmp_path / "chosen", refine="edges")
    assert [x.entry.refined_by for x in chosen.objects] == ["edges", "edges"]
    windows = estimator.bundle.sample()
    assert windows is not None and windows.shape == (4, *estimator.bundle.contract.image_shape)
    assert min(np.abs(a.astype(int) - b).mean() for a, b in combinations(windows, 2)) > 5  # different views
    box, brick = estimator.bundle.objects
    assert (box.name, brick.name, box.object_id, brick.object_id) == ("obj_000001", "brick", 1, 2)
    assert not box.symmetries and np.allclose(brick.symmetries, HALF_TURN[None])
    assert box.mesh_path != brick.mesh_path and box.crop.focal != brick.crop.focal

    data = experiment.read_data()
    instances = [x for x in data.validation if x.im_id == 6]
    camera, image = instances[0].camera, read_image(instances[0].image_path)
    places = {x.object_id: camera.pixels(apply(x.T_camera_object, np.zeros((1, 3))))[0] for x in instances}
    windows = [Window(*places[2], "brick"), Window(*places[1], "obj_000001"), Window(*places[1], "brick")]
    together = estimator.estimate_many(image, camera, windows)
    for window, pose in zip(windows, together, strict=True):
        np.testing.assert_allclose(pose.corners, estimator.estimate(image, camera, window).corners, atol=1e-2)

    network = fused_of(run, experiment)
    for window, pose in zip(windows, together, strict=True):
        x = estimator.bundle.object(window.object)
        views = x.crop.views(2)
        answers = network.infer(np.stack([x.crop.cut(image, camera, window, view)[0] for view in views]))
        each = [x.crop.view_to_window(c, R) for c, R in zip(answers["corners"][:, x.index], views, strict=True)]
        deviation = np.sqrt(np.square(answers["spread"][:, x.index]).mean(0)) * estimator.bundle.spread_scale
        corners = np.mean(each, 0)
        corners = widened(corners, deviation) if estimator.bundle.manifest.widened else corners
        want = x.crop.to_image(corners, camera, x.crop.rotation(camera, window))
        np.testing.assert_allclose(pose.corners, want, atol=0.02)

    for name, got in (("", "no name"), ("duck", "'duck'")):
        with pytest.raises(InputError, match=f"object: expected one of obj_000001, brick, got {got}"):
            estimator.estimate_many(image, camera, [windows[0], Window(10.0, 10.0, name)])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objects": []}, "objects: expected at least one"),
        ({"objects": [{"id": 1}, {"id": 1, "name": "again"}]}, "objects: expected a different id each"),
        ({"objects": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}, "objects: expected a different name each"),
        ({"objects": [{"id": 1, "name": "my duck"}]}, r"objects: expected names of letters.*'my duck'"),
        ({"objects": [{"id": 1}, {"id": 3}]}, r"objects\[1\]\.id: expected one of \[1, 2\] in .*, got 3"),
        ({"data": {"dataset": "nowhere"}}, "data.dataset: expected the folder of a BOP dataset, got nowhere"),
        ({"crop": {"size": 72}}, "crop.size: expected a multiple of 16, got 72"),
        ({"synthetic": {"viewpoints": {"distance": [0.5, 0.3]}}}, "distance: expected the nearest first"),
        ({"real": {"appearance": {"light": 0.5}}}, "real.appearance: expected no light"),
    ],
)
def test_objects_that_cannot_be_trained_are_refused(pair: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        experiment_from({**to_dict(experiment_of(pair, BOTH)), **changes}).read_data()


# The real images


def named(instances: list[Any]) -> set[tuple[int, int]]:
    return {(x.scene_id, x.im_id) for x in instances}


@pytest.mark.parametrize(
    ("data", "training", "validation"),
    [
        ({"validation_frames": "2/1-2"}, {(1, 0), (1, 1), (1, 2), (2, 0)}, {(2, 1), (2, 2)}),
        ({"validation_frames": "2/*", "training_frames": "1/0,1/2"}, {(1, 0), (1, 2)}, {(2, 0), (2, 1), (2, 2)}),
        ({"training_frames": "1/*"}, {(1, 0), (1, 1), (1, 2)}, set()),
        ({"validation_frames": "2/*", "report_frames": "1/0"}, {(1, 1), (1, 2)}, {(2, 0), (2, 1), (2, 2)}),
        ({}, {(s, i) for s in (1, 2) for i in range(3)}, set()),
    ],
)
def test_images_are_chosen_by_scene_and_number(
    scenes: Path, data: dict[str, str], training: set[tuple[int, int]], validation: set[tuple[int, int]]
) -> None:
    read = experiment_of(scenes, **data).read_data()
    assert (named(read.training), named(read.validation)) == (training, validation)
    assert len(read.source.objects[0].views) == len(training)  # patches of no other image


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"validation_frames": "1-2"}, r"data\.validation_frames: frames: expected SCENE/IDS such as 1/3-248"),
        ({"training_frames": "0"}, r"data\.training_frames: frames: expected SCENE/IDS"),
        ({"validation_frames": "3/1"}, r"data\.validation_frames: .*scenes 1, 2, got '3/1'"),
        ({"validation_frames": "2/*", "training_frames": "1/*,2/1"}, "training and validation, got SCENE/IMAGE 2/1"),
        (
            {"validation_frames": "2/*", "report_frames": "2/0"},
            "no reported image in training or validation, got .* 2/0",
        ),
    ],
)
def test_images_that_cannot_be_meant_are_refused(scenes: Path, data: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        experiment_of(scenes, **data).read_data()


# Calibration


class Oracle(Fused):
    """A network that knows the corners of the given cases, up to a normal error, and its own spread. It sees the views
    of each window one after the other. twins: it answers every second case by the object's last symmetry."""

    def __init__(
        self, objects: list[KnownObject], data: ObjectData, error: float, spread: float, twins: bool = False
    ) -> None:
        super().__init__(FeatureMapping(NetworkConfig(width=8, features=32), object_contract(64)))
        self.data, self.objects, self.error, self.spread, self.twins = data, objects, error, spread, twins
        self.asked: list[int] = []
        self.rng = np.random.default_rng(0)

    def infer(self, images: np.ndarray, chunk: int = 64) -> dict[str, np.ndarray]:
        """See Fused."""
        self.asked.append(len(images))
        views = EstimatorConfig().views
        corners = []
        for i, case in enumerate(cases_of(self.objects, self.data.validation)):
            solver = case.known.solver
            points = apply(case.truths[-1 if self.twins and i % 2 else 0], solver.box_corners)
            wrong = self.rng.normal(scale=self.error, size=(8, 2))  # the same in all views
            for view in solver.crop.views(views):
                corners.append(solver.crop.to_window(points, case.look.R_camera_window @ view) + wrong)
        assert len(corners) == len(images)
        answer = np.array(corners, np.float32)[:, None]
        return {"corners": answer, "spread": np.full(answer.shape, self.spread, np.float32)}


@pytest.mark.parametrize(("error", "spread"), [(1.5, 4.0), (2.5, 4.0)])
def test_the_calibration_finds_the_factor_and_looks_as_the_estimator_does(
    pair: Path, error: float, spread: float
) -> None:
    """The factor makes floor² + (factor · spread)² the variance of the error."""
    data = experiment_of(pair, validation_frames="1-7").read_data()
    many = replace(data, validation=data.validation * 12)
    network = Oracle(many.known(), many, error, spread)
    found = Asked.about(many.validation, network, many.known()).spread_scale()
    assert network.asked == [len(many.validation) * EstimatorConfig().views]
    assert found == pytest.approx(np.sqrt(error**2 - FLOOR**2) / spread, rel=0.25)


def test_a_network_without_poses_is_not_calibrated(pair: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = experiment_of(pair, validation_frames="1-7").read_data()
    network = Oracle(data.known(), data, np.nan, 1.0)
    assert Asked.about(data.validation, network, data.known()).spread_scale() == 1.0
    assert "no pose for any validation frame" in caplog.text


def test_the_calibration_of_distances_finds_how_wrong_they_are(pair: Path) -> None:
    """A network that is off by 6 % where it says 2 %. One that tells no distance has no such factor."""
    data = experiment_of(pair, validation_frames="1-7").read_data()
    many = replace(data, validation=data.validation * 12)

    class Distances(Oracle):
        def infer(self, images: np.ndarray, chunk: int = 64) -> dict[str, np.ndarray]:
            logs = []
            for case in cases_of(self.objects, self.data.validation):
                box = case.known.solver.box_corners
                distance = np.linalg.norm(apply(case.instance.T_camera_object, box.mean(0)[None]))
                log = np.log(distance / case.known.solver.crop.unit_distance(box)) + self.rng.normal(scale=0.06)
                logs += [log] * EstimatorConfig().views
            told = np.array(logs, np.float32)[:, None]
            return super().infer(images, chunk) | {"distance": told, "distance_spread": np.full_like(told, 0.02)}

    arguments = many.known(), many, 1.0, 1.0
    asked = [Asked.about(many.validation, x(*arguments), many.known()) for x in (Distances, Oracle)]
    assert [x.distance_scale() for x in asked] == [pytest.approx(3.0, rel=0.3), 0.0]


@pytest.mark.parametrize("shrinks", [False, True])
def test_corners_are_taken_apart_if_that_brings_distances_nearer_to_the_truth(pair: Path, shrinks: bool) -> None:
    """Of a network whose boxes are as much too small as it says, and of one whose boxes are right."""
    data = experiment_of(pair, validation_frames="1-7").read_data()

    class Small(Oracle):
        def infer(self, images: np.ndarray, chunk: int = 64) -> dict[str, np.ndarray]:
            corners = super().infer(images, chunk)["corners"]
            middle = corners.mean(2, keepdims=True)
            squared = np.square(corners - middle).sum((2, 3), keepdims=True)
            spread = np.broadcast_to(np.sqrt((1 / 0.9**2 - 1) * 0.81 * squared / 16), corners.shape)
            return {"corners": middle + (0.9 if shrinks else 1.0) * (corners - middle), "spread": spread}

    network = Small(data.known(), data, 0.1, 1.0)
    found = calibrate(Asked.about(data.validation, network, data.known()))
    assert found.widen == shrinks and 0.1 <= found.spread_scale <= 30.0
    assert all(x.solver.widen == shrinks for own in found.asked.sights for x in own)
    assert len(network.asked) == 1  # a network is slow on a CPU


def test_an_answer_by_a_symmetry_is_no_error(pair: Path) -> None:
    """For the calibration and for the validation: the brick looks the same after half a turn."""
    data = experiment_of(pair, [{"id": 2, "name": "brick"}], validation_frames="1-7").read_data()
    many = replace(data, validation=data.validation * 12)
    plain, twins = (Oracle(many.known(), many, 2.5, 4.0, twins=t) for t in (False, True))
    scales = [Asked.about(many.validation, x, many.known()).spread_scale() for x in (plain, twins)]
    assert scales[1] == pytest.approx(scales[0], rel=0.3)
    for case in cases_of(data.known(), data.validation):
        for truth, corners in zip(case.truths, case.corners, strict=True):
            rays = apply(truth, case.known.solver.box_corners)
            np.testing.assert_allclose(case.known.solver.crop.to_window(rays, case.look.R_camera_window), corners)
            sight = Sight(case.known.solver, case.look, Answer(corners, np.ones((8, 2))))
            corner, projection, add = _errors(case, sight, *solve_all([sight]))
            assert (corner, projection, add) == (pytest.approx(0.0, abs=1e-9), 1.0, 1.0)


def test_without_validation_images_there_is_no_calibration(
    pair: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Errors on training images say nothing: the factor is 1, and that is said."""
    experiment = experiment_of(pair)
    data = experiment.read_data()
    assert data.training and not data.validation and data.validator() is None
    network = Fused(experiment.model())
    with caplog.at_level(logging.WARNING):
        bundle = data.write_bundle(
            tmp_path / "bundle",
            Export(network, b"onnx", {}, {}, np.zeros((1, *network.contract.image_shape), np.uint8)),
        )
    assert bundle.spread_scale == 1.0 and "no validation frames" in caplog.text
