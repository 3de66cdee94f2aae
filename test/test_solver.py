"""The way from a window to a pose, which the estimator, the validation and the calibration share; and the place for a
refiner in it."""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import toy_bundle as toy

from fm_pose_core.config import EstimatorConfig
from fm_pose_core.errors import InputError
from fm_pose_core.files import read_image
from fm_pose_core.geometry import apply, box_corners, exp_so3, transform
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.objects.pnp import score
from fm_pose_core.objects.refine import Refiner
from fm_pose_core.objects.solver import (
    Answer,
    Look,
    ObjectSolver,
    Sight,
    Solution,
    see,
    see_again,
    solve_all,
    solve_best,
    split,
)
from fm_pose_core.types import Camera, Window

CAMERA = Camera(np.array([[600.0, 0.0, 325.0], [0.0, 610.0, 236.0], [0.0, 0.0, 1.0]]), 640, 480)
CONFIG = EstimatorConfig(backend="onnxruntime", threads=1, views=2)
WINDOW = Window(300.0, 200.0)


@dataclass
class Nearer:
    """Brings each pose a centimetre nearer, halves its covariance, and keeps what it was called with."""

    error: float = 0.25
    calls: list[tuple[Look, Solution]] = field(default_factory=list)

    def refine(self, look: Look, solution: Solution) -> Solution:
        """See Refiner."""
        self.calls.append((look, solution))
        T = solution.T_camera_object.copy()
        T[2, 3] -= 0.01
        return replace(
            solution,
            T_camera_object=T,
            covariance=solution.covariance / 2,
            reprojection_error=self.error,
            expected_error=3.0,
        )


def test_a_refiner_sees_the_look_and_the_solution_and_its_answer_is_the_estimate(toy_bundle: Path) -> None:
    image = toy.toy_image(CAMERA, WINDOW.u, WINDOW.v)
    plain = PoseEstimator.load(toy_bundle, CONFIG)
    refiner: Refiner = Nearer()
    refined = PoseEstimator(plain.bundle, plain.backend, CONFIG, refiner)
    before, after = (x.estimate(image, CAMERA, WINDOW) for x in (plain, refined))
    moved = after.T_camera_object - before.T_camera_object
    np.testing.assert_allclose(moved[:3, 3], [0.0, 0.0, -0.01], atol=1e-12)
    assert not moved[:, :3].any()
    np.testing.assert_allclose(after.covariance, before.covariance / 2)
    assert (after.reprojection_error, after.score, after.accepted) == (0.25, score(3.0), True)

    assert isinstance(refiner, Nearer)
    ((look, solution),) = refiner.calls
    assert solution.accepted and np.array_equal(solution.T_camera_object, before.T_camera_object)
    assert solution.reprojection_error == before.reprojection_error
    np.testing.assert_array_equal(solution.corners, before.corners)
    crop = plain.bundle.object().crop
    views = [crop.cut(image, CAMERA, WINDOW, view)[0] for view in crop.views(2)]
    np.testing.assert_array_equal(look.pixels, np.stack(views))
    assert look.camera is CAMERA and np.array_equal(look.image(), image)
    np.testing.assert_allclose(look.R_camera_window, crop.rotation(CAMERA, WINDOW))


def test_a_refiner_is_asked_before_the_score_counts_and_not_where_corners_contradict_each_other(
    toy_bundle: Path,
) -> None:
    image, refiner = toy.toy_image(CAMERA, WINDOW.u, WINDOW.v), Nearer()
    for config, asked, reason in (
        (replace(CONFIG, min_score=0.99), 1, f"score {score(3.0):.2f} is below 0.99"),
        (replace(CONFIG, max_reprojection_error=1e-6), 0, "reprojection error 0.1 px is above 1e-06 px"),
    ):
        plain, refiner = PoseEstimator.load(toy_bundle, config), Nearer()
        pose = PoseEstimator(plain.bundle, plain.backend, config, refiner).estimate(image, CAMERA, WINDOW)
        assert (pose.accepted, pose.reason, len(refiner.calls)) == (False, reason, asked)
        assert 0.3 < pose.T_camera_object[2, 3] < 3.0  # what was refused is told, too


def test_a_refiner_is_not_asked_where_there_is_no_pose(toy_bundle: Path) -> None:
    class Nan:
        name, device, precision = "nan", "none", "fp32"

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            shape = (len(images), 1, 8, 2)
            return {"corners": np.full(shape, np.nan, np.float32), "spread": np.ones(shape, np.float32)}

    refiner = Nearer()
    bundle = PoseEstimator.load(toy_bundle, CONFIG).bundle
    pose = PoseEstimator(bundle, Nan(), CONFIG, refiner).estimate(np.zeros((480, 640, 3), np.uint8), CAMERA, WINDOW)
    assert not pose.accepted and not refiner.calls


def test_each_look_gets_its_own_answers_of_its_own_object() -> None:
    """Two looks of three views each through a network of two objects."""
    crop = toy.CROP
    solvers = [ObjectSolver(np.zeros((8, 3)), crop, index, views=3) for index in (1, 0)]
    image = np.zeros((480, 640, 3), np.uint8)
    looks = [solver.look(image, CAMERA, WINDOW) for solver in solvers]
    # The network says: view v of look w has all corners of object k where the window's (40 + 20 w + 5 k, 60) is.
    where = [[np.array([[40.0 + 20 * w + 5 * k, 60.0]]) for k in range(2)] for w in range(2)]
    corners = [
        [np.tile(crop.to_window(_ray(crop.K, p) @ R, np.eye(3)), (8, 1)) for p in where[w]]
        for w in range(2)
        for R in crop.views(3)
    ]
    spread = np.array([[[[1.0 + w + 10 * k]] * 8 for k in range(2)] for w in range(2) for _ in range(3)])
    outputs = {"corners": np.array(corners, np.float32), "spread": np.repeat(spread, 2, -1).astype(np.float32)}
    for w, (solver, part) in enumerate(zip(solvers, split(outputs, looks), strict=True)):
        found, deviation, *_ = solver.decode(part)
        np.testing.assert_allclose(found, np.tile(where[w][solver.index], (8, 1)), atol=1e-3)
        np.testing.assert_allclose(deviation, np.full((8, 2), 1.0 + w + 10 * solver.index))


def test_a_second_look_is_centred_and_zoomed_and_its_answer_counts() -> None:
    """A network that sees every corner right, but in the window of the second look 3 pixels further right."""
    box = box_corners(np.array([-0.04, -0.03, -0.02]), np.array([0.05, 0.04, 0.06]))
    T = transform(exp_so3(np.array([0.3, -0.7, 0.2])), np.array([0.05, -0.04, 0.9]))
    solver, image = ObjectSolver(box, toy.CROP, fill=0.45), np.zeros((480, 640, 3), np.uint8)
    look = solver.look(image, CAMERA, Window(*(CAMERA.pixels(T[None, :3, 3])[0] + [8.0, -5.0])))
    asked: list[tuple[Look, ObjectSolver]] = [(look, solver)]

    def infer(pixels: np.ndarray) -> dict[str, np.ndarray]:
        of, own = asked[-1]
        corners = own.crop.to_window(apply(T, box), of.R_camera_window)
        corners[:, 0] += 3.0 * (len(asked) - 1)
        again = own.second_look(of, Answer(corners, np.full((8, 2), 1e-3)))
        asked.extend([(again[1], again[0])] if again else [])
        assert len(pixels) == 1
        return {"corners": corners[None, None].astype(np.float32), "spread": np.full((1, 1, 8, 2), 1e-3, np.float32)}

    sights = see(infer, [(solver, look)])
    ((second, first),) = see_again(infer, sights)
    assert first is sights[0] and len(asked) == 2
    np.testing.assert_allclose(solve_all([first])[0].T_camera_object, T, atol=1e-4)
    distance = np.linalg.norm(apply(T, box.mean(0)[None]))
    assert second.solver.crop.focal == pytest.approx(toy.CROP.focal * distance / 0.45, rel=1e-3)
    middle = second.solver.crop.to_window(apply(T, box.mean(0)[None]), second.look.R_camera_window)
    np.testing.assert_allclose(middle, [[(toy.CROP.size - 1) / 2] * 2], atol=0.05)
    found = solve_best([(second, first)])[0].T_camera_object
    right = second.look.R_camera_window[:, 0] * 3.0 * distance / second.solver.crop.focal  # of 3 pixels there
    np.testing.assert_allclose(found[:3, 3] - T[:3, 3], right, atol=3e-4)
    assert solver.second_look(look, first.answer._replace(corners=np.full((8, 2), np.nan))) is None
    assert replace(solver, fill=0.0).second_look(look, first.answer) is None


def test_a_network_that_says_the_distance_needs_no_pose_to_look_again() -> None:
    """In the middle of the corners, zoomed by the distance; nowhere if either makes no sense."""
    box = box_corners(np.array([-0.04, -0.03, -0.02]), np.array([0.05, 0.04, 0.06]))
    T = transform(exp_so3(np.array([0.3, -0.7, 0.2])), np.array([0.05, -0.04, 0.9]))
    center = apply(T, box.mean(0)[None])[0]
    solver, image = ObjectSolver(box, toy.CROP, fill=0.45), np.zeros((480, 640, 3), np.uint8)
    look = solver.look(image, CAMERA, Window(*(CAMERA.pixels(center[None])[0] + [8.0, -5.0])))
    answer = Answer(solver.crop.to_window(apply(T, box), look.R_camera_window), np.ones((8, 2)), None, (0.9, 0.1))
    own, again = solver.second_look(look, answer) or (solver, look)
    assert own.crop.focal == pytest.approx(toy.CROP.focal * 2, rel=1e-9)
    middle = own.crop.to_window(center[None], again.R_camera_window)
    np.testing.assert_allclose(middle, [[(toy.CROP.size - 1) / 2] * 2], atol=1.5)
    for wrong in ({"corners": answer.corners + 500.0}, {"corners": answer.corners * np.nan}, {"distance": (np.nan, 1)}):
        assert solver.second_look(look, answer._replace(**wrong)) is None, wrong


def test_an_object_whose_distance_is_known_is_looked_at_once(toy_bundle: Path) -> None:
    """In the window of the second look. A network that was not made for one sees the same window as ever."""
    bundle = PoseEstimator.load(toy_bundle, CONFIG).bundle
    entry = bundle.manifest.objects[0]
    zooming = ObjectBundle(bundle.path, replace(bundle.manifest, objects=(replace(entry, fill=0.4),)))
    image, seen = toy.toy_image(CAMERA, WINDOW.u, WINDOW.v), []

    class Network:
        name, device, precision = "toy", "none", "fp32"

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            seen.append(images)
            box = bundle.object().box_corners
            ahead = (box - box.mean(0)) @ exp_so3(np.array([0.3, 0.4, 0.1])).T + np.array([0.0, 0.0, 0.8])
            corners = toy.CROP.zoomed(0.8 / 0.4).to_window(ahead, np.eye(3)).astype(np.float32)
            return {"corners": np.tile(corners, (len(images), 1, 1, 1)), "spread": np.ones((len(images), 1, 8, 2))}

    for known, distance, looks in ((zooming, 0.0, 2), (zooming, 0.8, 1), (bundle, 0.8, 1)):
        seen.clear()
        PoseEstimator(known, Network(), CONFIG).estimate(image, CAMERA, replace(WINDOW, distance=distance))
        crop = toy.CROP.zoomed(0.8 / 0.4) if (known, looks) == (zooming, 1) else toy.CROP
        assert [len(x) for x in seen] == [1, CONFIG.views][2 - looks :], (known, distance)  # of two, the first has one
        np.testing.assert_array_equal(seen[0][0], crop.cut(image, CAMERA, WINDOW, crop.views(len(seen[0]))[0])[0])


@pytest.mark.parametrize(
    ("told", "moved", "looks"),
    [(0.9, 0.0, 1), (1.05, 6.0, 1), (1.2, 0.0, 2), (0.7, 0.0, 2), (0.9, 20.0, 2), (0.0, 0.0, 2)],
    ids=["right", "nearly", "too_far", "too_near", "beside", "unknown"],
)
def test_a_zoomed_window_that_was_far_off_is_looked_at_again(told: float, moved: float, looks: int) -> None:
    """Of a network that sees every corner and the distance right, whose windows were told another distance, and
    displaced by `moved` of their pixels. The last look is right in any case, and has as many views as there are to
    be."""
    box = box_corners(np.array([-0.04, -0.03, -0.02]), np.array([0.05, 0.04, 0.06]))
    T = transform(exp_so3(np.array([0.3, -0.7, 0.2])), np.array([0.05, -0.04, 0.9]))
    center = apply(T, box.mean(0)[None])[0]
    solver = ObjectSolver(box, toy.CROP, views=2, fill=0.45).for_distance(told and told * np.linalg.norm(center) / 0.9)
    pixel = CAMERA.pixels(center[None])[0] + [moved * CAMERA.K[0, 0] / solver.crop.focal, 0.0]
    asked = [(solver, solver.look(np.zeros((480, 640, 3), np.uint8), CAMERA, Window(*pixel)))]

    def infer(pixels: np.ndarray) -> dict[str, np.ndarray]:
        own, look = asked[-1]
        corners = np.stack([own.crop.to_window(apply(T, box), look.R_camera_window @ R) for R in own._views])
        log = np.log(np.linalg.norm(center) / own.crop.unit_distance(box))
        answers = {
            "corners": corners[:, None].astype(np.float32),
            "spread": np.ones((len(pixels), 1, 8, 2), np.float32),
        }
        answers["distance"] = np.full((len(pixels), 1), log, np.float32)
        answers["distance_spread"] = np.full((len(pixels), 1), 0.01, np.float32)
        again = own.second_look(look, own.decode(answers))
        asked.extend([again] if again else [])
        return answers

    ((last, *_),) = see_again(infer, see(infer, asked[:1]))
    assert len(asked) == looks
    middle = last.solver.crop.to_window(center[None], last.look.R_camera_window)
    assert np.abs(middle - (toy.CROP.size - 1) / 2).max() < 10.0
    assert last.solver.crop.focal / toy.CROP.focal == pytest.approx(np.linalg.norm(center) / 0.45, rel=0.25)
    assert len(last.look.pixels) == 2
    np.testing.assert_allclose(solve_all([last])[0].T_camera_object, T, atol=1e-3)


def test_where_a_zoomed_window_shows_nothing_the_place_is_looked_at_anew() -> None:
    """As if no distance had been told."""
    box = box_corners(np.array([-0.04, -0.03, -0.02]), np.array([0.05, 0.04, 0.06]))
    solver, image = ObjectSolver(box, toy.CROP, views=2, fill=0.45), np.zeros((480, 640, 3), np.uint8)
    zoomed = solver.for_distance(9.0)
    nothing = Answer(np.full((8, 2), np.nan), np.ones((8, 2)), None, (np.nan, 1.0))
    own, look = zoomed.second_look(zoomed.look(image, CAMERA, WINDOW), nothing) or (zoomed, None)
    first = solver.look(image, CAMERA, WINDOW)
    assert look is not None and own.told == 0.0 and own.crop.focal == pytest.approx(solver.crop.focal)
    np.testing.assert_allclose(look.R_camera_window, first.R_camera_window, atol=1e-12)
    assert look.pixels.shape == first.pixels.shape


@pytest.mark.parametrize("distance", [-1.0, np.nan, np.inf])
def test_a_distance_that_is_none_is_refused(distance: float) -> None:
    with pytest.raises(InputError, match="window: expected a distance in metres, or 0"):
        Window(1.0, 2.0, distance=distance)


def test_where_the_second_look_finds_nothing_the_first_one_counts() -> None:
    box = box_corners(np.array([-0.04, -0.03, -0.02]), np.array([0.05, 0.04, 0.06]))
    T = transform(np.eye(3), np.array([0.0, 0.0, 0.9]))
    solver = ObjectSolver(box, toy.CROP)
    look = solver.look(np.zeros((480, 640, 3), np.uint8), CAMERA, WINDOW)
    good = Answer(toy.CROP.to_window(apply(T, box), look.R_camera_window), np.full((8, 2), 1e-3))
    bad = Answer(np.full((8, 2), np.nan), np.ones((8, 2)))
    sights = [Sight(solver, look, x) for x in (bad, good)]
    np.testing.assert_allclose(solve_best([sights])[0].T_camera_object, T, atol=1e-4)
    assert not solve_best([sights[:1]])[0].accepted


def _ray(K: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    return np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(K).T


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the TorchScript exporter
@pytest.mark.parametrize("views", [1, EstimatorConfig().views])
def test_validation_calibration_and_estimator_see_the_same_corners(views: int, tmp_path: Path) -> None:
    """Of the same network, as it is trained and from the exported bundle: one view as in the validation, several as in
    the calibration."""
    torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")
    pytest.importorskip("pyrender", reason="training needs pyrender (pip install '.[train]')")
    from rendered_bop import write_rendered_bop

    from fm_pose_core.config import to_dict
    from fm_pose_core.learning.experiment import Export
    from fm_pose_core.learning.export import to_onnx
    from fm_pose_core.learning.networks import Fused
    from fm_pose_core.objects.validation import KnownObject, cases_of, seen
    from fm_pose_core.tasks import experiment_from

    dataset = write_rendered_bop(tmp_path / "pair", frames=3, objects=2)
    values = {"dataset": str(dataset), "validation_frames": "1-2"}
    network_values = {"width": 8, "features": 32}
    objects = [{"id": 1}, {"id": 2}]
    experiment = experiment_from({"data": values, "objects": objects, "network": network_values, "crop": {"size": 64}})
    torch.manual_seed(0)
    network, data = Fused(experiment.model()).eval(), experiment.read_data()
    sample = np.zeros((1, *network.contract.image_shape), np.uint8)
    export = Export(network, to_onnx(network, "fp32"), to_dict(experiment.network), {}, sample)
    bundle = data.write_bundle(tmp_path / "bundle", export)
    config = EstimatorConfig(backend="torch", precision="fp32", views=views, min_score=0.0)
    estimator = PoseEstimator.load(bundle.path, config)

    as_exported = {"views": views, "widen": bundle.manifest.widened}
    known = [KnownObject(x.model, replace(x.solver, **as_exported)) for x in data.known()]
    cases = cases_of(known, data.validation)
    assert len(cases) == 4
    for case, (sight,) in zip(cases, seen(network, cases), strict=True):
        x, solver = case.instance, case.known.solver
        camera, image = x.camera, read_image(x.image_path)
        center = apply(x.T_camera_object, solver.box_corners.mean(0)[None])
        window = Window(*camera.pixels(center)[0], case.known.model.name)
        pose = estimator.estimate(image, camera, window)
        solution = solve_all([sight], bundle.spread_scale)[0]
        np.testing.assert_allclose(pose.corners, solution.corners, atol=1e-3)
        np.testing.assert_allclose(pose.T_camera_object, solution.T_camera_object, atol=1e-3)
        assert np.array_equal(case.look.image(), image) and len(case.look.pixels) == views
        # The labels are where the truth is seen.
        truth = camera.pixels(apply(x.T_camera_object, solver.box_corners))
        np.testing.assert_allclose(solver.crop.to_image(case.corners[0], camera, case.look.R_camera_window), truth)
