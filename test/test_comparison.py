"""The learned refiner: updates of a pose, samples whose labels are true, features compared and mapped as they should,
and the way from a run to a bundle that refines."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")
pytest.importorskip("pyrender", reason="training needs pyrender (pip install '.[train]')")
pytest.importorskip("embreex", reason="refinement needs embreex (pip install '.[refine]')")

from rendered_bop import CAMERA, box_mesh, write_rendered_bop

from fm_pose_core.bundle import network_file
from fm_pose_core.cli import main
from fm_pose_core.config import EstimatorConfig
from fm_pose_core.contract import update_contract
from fm_pose_core.errors import InputError
from fm_pose_core.geometry import Array, apply, box_corners, exp_so3, log_so3, transform
from fm_pose_core.learning import checkpoints
from fm_pose_core.learning.networks import FeatureMapping, NetworkConfig
from fm_pose_core.objects.bop import BopDataset
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.objects.comparison.refiner import FeatureRefiner
from fm_pose_core.objects.comparison.samples import ComparedRenderings
from fm_pose_core.objects.comparison.update import compared, motion, update_between, updated, window_at
from fm_pose_core.objects.crop import Crop
from fm_pose_core.objects.estimator import PoseEstimator
from fm_pose_core.objects.refine import InTurn, Look, Solution
from fm_pose_core.objects.refiners import improvement
from fm_pose_core.objects.samples import ObjectAssets, SyntheticConfig
from fm_pose_core.objects.solver import ObjectSolver
from fm_pose_core.objects.surroundings import Surroundings
from fm_pose_core.objects.validation import Case, KnownObject, cases_of
from fm_pose_core.objects.viewpoints import ViewpointConfig
from fm_pose_core.rendering.appearance import AppearanceConfig
from fm_pose_core.rendering.backgrounds import Backgrounds
from fm_pose_core.rendering.raycaster import Raycaster
from fm_pose_core.runtime.weights import named_weights
from fm_pose_core.types import Window

pytestmark = pytest.mark.usefixtures("one_thread")
MESH = box_mesh()
CORNERS = box_corners(*MESH.box) + 0.0
CENTER_OF_BOX = CORNERS.mean(0)
CENTER, DIAMETER = np.array([0.01, -0.02, 0.005]), 0.13  # a centre that is not the origin
CROP = Crop.around(DIAMETER, 0.4, size=64)
FILL = 0.45


def pose(rng: np.random.Generator) -> Array:
    return transform(exp_so3(rng.normal(size=3)), np.array([*rng.uniform(-0.02, 0.02, 2), rng.uniform(0.3, 0.6)]))


def test_an_update_leads_to_the_pose_that_it_was_made_of() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        T, e = pose(rng), rng.normal(size=6)
        new = updated(T, e, CENTER, CROP)
        np.testing.assert_allclose(update_between(T, new, CENTER, CROP), e, atol=1e-9)
    np.testing.assert_allclose(updated(T, np.zeros(6), CENTER, CROP), T, atol=1e-12)


def test_the_numbers_of_an_update_are_what_they_say() -> None:
    """A tenth of a radian, 8 % of half the window, 4 % of the distance."""
    T = transform(np.eye(3), np.array([0.0, 0.0, 0.5]))
    new = updated(T, np.array([0.0, 1.0, 0.0, 0.0, 0.0, 0.0]), np.zeros(3), CROP)
    np.testing.assert_allclose(log_so3(new[:3, :3]), [0.0, 0.1, 0.0], atol=1e-12)
    new = updated(T, np.array([0.0, 0.0, 0.0, 1.0, 0.0, 0.0]), np.zeros(3), CROP)
    moved = CROP.to_window(new[None, :3, 3], np.eye(3)) - CROP.to_window(T[None, :3, 3], np.eye(3))
    np.testing.assert_allclose(moved, [[0.08 * 32, 0.0]], atol=1e-9)
    new = updated(T, np.array([0.0, 0.0, 0.0, 0.0, 0.0, 1.0]), np.zeros(3), CROP)
    np.testing.assert_allclose(new[:3, 3], [0.0, 0.0, 0.5 * np.exp(0.04)], atol=1e-12)


def test_poses_move_with_an_update_as_said() -> None:
    """By finite differences: how the pose moves when one number of the update does."""
    rng = np.random.default_rng(1)
    T = pose(rng)
    columns = []
    for k in range(6):
        step = np.eye(6)[k] * 1e-6
        new = updated(T, step, CENTER, CROP)
        columns.append(np.concatenate([new[:3, 3] - T[:3, 3], log_so3(new[:3, :3] @ T[:3, :3].T)]) / 1e-6)
    np.testing.assert_allclose(motion(T, CENTER, CROP), np.array(columns).T, rtol=1e-4, atol=1e-6)


def test_the_window_shows_the_object_at_one_size() -> None:
    for distance in (0.3, 0.45, 0.9):
        T = transform(np.eye(3), np.array([0.0, 0.0, distance]))
        crop = window_at(T, np.zeros(3), CROP, FILL)
        assert crop.focal / distance == pytest.approx(CROP.focal / FILL)
    assert window_at(T, np.zeros(3), CROP, 0.0) is CROP


def renderings(appearance: AppearanceConfig) -> ComparedRenderings:
    """Of the box, on black."""
    rng = np.random.default_rng(2)
    assets = ObjectAssets(MESH, CORNERS, CROP, 0, fill=FILL)
    around = Surroundings(Backgrounds([np.zeros((8, 8, 3), np.uint8)], CROP.size, rng, 0.0))
    config = SyntheticConfig(ViewpointConfig(distance=(0.3, 0.6), in_plane=45.0), appearance)
    return ComparedRenderings(assets, config, around, rng)


def outline(rgb: Array) -> Array:
    return np.asarray(rgb.max(-1) > 90)


def test_the_label_moves_the_drawn_object_onto_the_seen_one() -> None:
    """The box as the network sees it, against the box at the updated pose, drawn anew; the estimate's own is off."""
    plain = AppearanceConfig(light=0.0, repaint=0.0, occluders=0.0, colour=0.0, blur=0.0, noise=0.0)
    samples = renderings(plain)
    drawn, estimated = [], []
    for _ in range(24):
        window, update = samples.draw()
        guess, turn = samples.estimates._shown
        T = transform(turn @ guess.R_window_view, np.zeros(3)) @ guess.T_view_object
        center = apply(T, CORNERS.mean(0)[None])[0]
        np.testing.assert_allclose(center[:2] / center[2], 0.0, atol=1e-9)  # the window looks at it
        seen = outline(window[..., :3])
        for found, at in ((drawn, updated(T, update, CORNERS.mean(0), guess.crop)), (estimated, T)):
            rgba, _ = Raycaster(MESH, guess.crop.K, CROP.size, CROP.size).render(at)
            there = rgba[..., 3] > 127
            found.append((seen & there).sum() / (seen | there).sum())
    samples.close()
    assert np.min(drawn) > 0.95 and np.median(estimated) < 0.93


def test_what_is_drawn_lies_over_what_is_seen() -> None:
    image = np.full((4, 4, 3), 90, np.uint8)
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[1, 1] = 10, 20, 30, 255
    both = compared(image, rgba)
    assert both.shape == (4, 4, 6) and (both[..., :3] == 90).all()
    assert tuple(both[1, 1, 3:]) == (10, 20, 30) and (both[0, 0, 3:] == 90).all()


def test_g_maps_the_photograph_alone_and_nothing_but_h_learns() -> None:
    torch.manual_seed(0)
    model = FeatureMapping(NetworkConfig("fine", width=8, features=32), update_contract(64))
    for p in model.g.parameters():
        torch.nn.init.normal_(p, std=0.3)
    a, b = (torch.randint(0, 256, (2, 64, 64, 3), dtype=torch.uint8) for _ in range(2))
    features = model.f(model.normalise(torch.cat([a, b], -1)))
    seen, drawn = (model.f.each(model.normalise(x)) for x in (a, b))
    torch.testing.assert_close(features, torch.cat([seen, drawn], -1))
    mapped = model.g(features)
    torch.testing.assert_close(mapped, torch.cat([model.g.g(seen), drawn], -1))
    assert not torch.allclose(mapped, features)
    assert {k.split(".")[0] for k, p in model.named_parameters() if p.requires_grad} == {"h"}
    update, log_error = model.h(mapped)
    labels = {"y": torch.randn(2, 6)}
    loss = model.h.loss((update, log_error), labels)
    torch.testing.assert_close(loss.pose, (update - labels["y"]).square().sum(1))
    loss = model.h.loss((torch.zeros(2, 6), log_error), {"y": torch.full((2, 6), 3.0)}, 1.0)
    torch.testing.assert_close(loss.pose, torch.full((2,), 6 * 5.0))  # 2 · 1 · 3 − 1


LOOK = Look(np.zeros((1, 64, 64, 3), np.uint8), CAMERA, np.eye(3), lambda: np.full((240, 320, 3), 60, np.uint8))


def refiner(update: Array, calls: list[np.ndarray], times: int = 1) -> FeatureRefiner:
    def infer(windows: np.ndarray) -> dict[str, np.ndarray]:
        calls.append(windows)
        spread = np.full((1, 6), 0.5, np.float32)
        return {"update": update[None].astype(np.float32), "spread": spread}

    return FeatureRefiner(infer, MESH, CORNERS, CROP, FILL, times, spread_scale=2.0)


def solution(T: Array, variance: float = 1e4) -> Solution:
    return Solution(T, np.zeros((8, 2)), 1.5, variance * np.eye(6), 9.0)


def test_the_refiner_moves_the_pose_as_the_network_says() -> None:
    T = transform(exp_so3(np.array([0.3, -0.5, 0.2])), np.array([0.05, -0.03, 0.5]))
    update = np.array([0.5, -0.2, 0.1, 0.4, -0.3, 0.6])
    calls: list[np.ndarray] = []
    found = refiner(update, calls).refine(LOOK, solution(T))
    crop = window_at(T, CORNERS.mean(0), CROP, FILL)
    at = CAMERA.pixels(apply(T, CORNERS.mean(0)[None]))[0]
    seen, R = crop.cut(LOOK.image(), CAMERA, Window(*at))
    T_window_camera = transform(R.T, np.zeros(3))
    between = update_between(T_window_camera @ T, T_window_camera @ found.T_camera_object, CORNERS.mean(0), crop)
    np.testing.assert_allclose(between, update, atol=1e-5)
    assert calls[0].shape == (1, 64, 64, 6)
    np.testing.assert_array_equal(calls[0][0, ..., :3], seen)
    middle = calls[0][0, 28:36, 28:36, 3:]
    assert (middle != 60).any()  # the object is drawn in the middle
    A = np.kron(np.eye(2), R) @ motion(T_window_camera @ T, CORNERS.mean(0), crop)
    np.testing.assert_allclose(found.covariance, A @ A.T, rtol=1e-4, atol=1e-9)  # deviations of one unit: 2 · 0.5
    assert found.reprojection_error == 1.5 and 0 < found.expected_error != 9.0
    refiner(update, calls, times=3).refine(LOOK, solution(T))
    assert len(calls) == 4


def test_a_pose_that_is_well_known_stays() -> None:
    """Network and h_Δ count as their deviations say; alike, they meet half-way, however often it looks."""
    T = transform(np.eye(3), np.array([0.0, 0.0, 0.5]) - CORNERS.mean(0))
    update = np.array([0.0, 0.0, 1.0, 0.0, 0.0, 0.0])
    sharp = refiner(update, []).refine(LOOK, solution(T, 1e-12))
    np.testing.assert_allclose(sharp.T_camera_object, T, atol=1e-6)
    crop = window_at(T, CORNERS.mean(0), CROP, FILL)
    A = motion(T, CORNERS.mean(0), crop)  # the window looks straight ahead
    alike = replace(solution(T), covariance=A @ A.T)
    turn = log_so3(refiner(update, []).refine(LOOK, alike).T_camera_object[:3, :3])
    np.testing.assert_allclose(turn, [0.0, 0.0, 0.05], atol=1e-3)


@pytest.mark.parametrize("wrong", [np.full(6, 7.0), np.array([0.0, np.nan, 0.0, 0.0, 0.0, 0.0]), np.full(6, np.inf)])
def test_an_update_that_leads_far_away_is_dropped(wrong: Array) -> None:
    start = solution(transform(np.eye(3), np.array([0.0, 0.0, 0.5])))
    assert refiner(wrong, []).refine(LOOK, start) is start


@pytest.mark.parametrize("spread", [np.nan, 0.0, np.inf])
@pytest.mark.parametrize("variance", [1e-4, np.inf])
def test_no_spread_makes_a_pose_that_is_none(spread: float, variance: float) -> None:
    def infer(windows: np.ndarray) -> dict[str, np.ndarray]:
        return {"update": np.full((1, 6), 0.5, np.float32), "spread": np.full((1, 6), spread, np.float32)}

    start = replace(solution(transform(np.eye(3), np.array([0.0, 0.0, 0.5]))), covariance=np.diag([variance] * 6))
    found = FeatureRefiner(infer, MESH, CORNERS, CROP, FILL, times=1).refine(LOOK, start)  # no look at what came out
    assert np.isfinite(found.T_camera_object).all() and not np.isnan(found.covariance).any()
    assert found is start or not np.isnan(spread)


@pytest.mark.parametrize("place", [(0.0, 0.0, -0.5), (0.0, 0.0, 0.0), (np.nan, 0.0, 0.5)])
def test_a_pose_that_the_camera_does_not_see_stays(place: tuple[float, float, float]) -> None:
    start = solution(transform(np.eye(3), np.array(place) - CORNERS.mean(0)))
    assert refiner(np.zeros(6), []).refine(LOOK, start) is start


def test_how_far_it_is_off_counts_in_its_own_deviations() -> None:
    T = transform(exp_so3(np.array([0.3, -0.5, 0.2])), np.array([0.05, -0.03, 0.5]))
    update, more = np.array([0.5, -0.2, 0.1, 0.4, -0.3, 0.6]), np.array([0.0, 0.3, 0.0, -0.4, 0.0, 0.5])
    told = refiner(update, []).measure(LOOK, T)
    assert told is not None
    T_window = told.T_window_camera @ T
    truth = told.T_window_camera.T @ updated(T_window, update + more, CENTER_OF_BOX, told.crop)
    off = refiner(update, []).squared_error(LOOK, T, truth)
    assert off == pytest.approx(np.square(more / 0.5).sum(), rel=1e-4)  # the factor on the spread is not among them
    assert refiner(np.full(6, 7.0), []).squared_error(LOOK, T, truth) is None


def cases(tmp_path: Path) -> list[tuple[Case, Solution]]:
    """Labelled photographs with poses that are 1 cm off to the side."""
    dataset = BopDataset(write_rendered_bop(tmp_path / "bop"))
    known = KnownObject(dataset.model(1), ObjectSolver(CORNERS, CROP))
    found = cases_of([known], dataset.instances("test"))
    moved = [case.instance.T_camera_object.copy() for case in found]
    for T in moved:
        T[0, 3] += 0.01
    return [(case, solution(T)) for case, T in zip(found, moved, strict=True)]


@pytest.mark.parametrize(("rest", "expected"), [(0.5, 0.5), (2.0, 1.0), (1.0, 1.0)])
def test_a_refiner_is_chosen_by_what_it_makes_of_real_poses(tmp_path: Path, rest: float, expected: float) -> None:
    """One that leaves this share of the error; where fewer poses are good than before, it is none that helps."""
    poses = cases(tmp_path)

    class Moving:
        def refine(self, look: Look, found: Solution) -> Solution:
            case = next(c for c, _ in poses if c.look is look)
            T = found.T_camera_object.copy()
            T[0, 3] = case.instance.T_camera_object[0, 3] + 0.01 * rest
            return replace(found, T_camera_object=T)

    assert improvement(Moving(), poses) == pytest.approx(expected, abs=1e-6)
    assert improvement(Moving(), []) == 1.0


def test_in_turn_each_begins_where_the_last_one_ended() -> None:
    class Halving:
        def refine(self, look: Look, found: Solution) -> Solution:
            assert look is LOOK
            return replace(found, expected_error=found.expected_error / 2, covariance=found.covariance / 4)

    found = InTurn((Halving(), Halving(), Halving())).refine(LOOK, solution(np.eye(4), 64.0))
    assert found.expected_error == 9.0 / 8 and (found.covariance == np.eye(6)).all()


def test_no_better_median_is_worth_poses_that_are_lost(tmp_path: Path) -> None:
    """Two of three measures say that all are good; five of eight become exact, three are lost."""
    poses = cases(tmp_path)
    assert len(poses) == 8

    class Gambling:
        def refine(self, look: Look, found: Solution) -> Solution:
            i = next(i for i, (c, _) in enumerate(poses) if c.look is look)
            T = poses[i][0].instance.T_camera_object.copy()
            T[0, 3] += 0.5 if i < self.lost else 0.0
            return replace(found, T_camera_object=T)

        lost = 3

    gambling = Gambling()
    assert improvement(gambling, poses) == 1.0
    gambling.lost = 1  # fewer than what is won
    assert improvement(gambling, poses) < 0.1


CONFIG = """
data: {{dataset: {root}, validation_frames: 6-7}}
objects: [{{id: 1}}]
crop: {{size: 64, zoom: 1.2}}
network: {{extractor: fine, width: 8, features: 32, surface: true}}
loss: {{points: 1.0}}
synthetic: {{viewpoints: {{distance: [0.3, 0.5]}}}}
schedule: {{pretrain_images: 96, images: 480, batch_synthetic: 4, batch_pairs: 4, workers: 0}}
refiner: {{images: 192, batch: 6}}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained with its refiner."""
    folder = tmp_path_factory.mktemp("comparison")
    (folder / "box.yaml").write_text(CONFIG.format(root=write_rendered_bop(folder / "bop")))
    assert main(["train", str(folder / "box.yaml"), "--output", str(folder / "run")]) == 0
    assert main(["train", "--resume", str(folder / "run"), "--part", "refiner"]) == 0
    return folder / "run"


def test_f_and_g_are_those_of_the_poses(run: Path) -> None:
    states = (torch.load(x / checkpoints.LATEST, weights_only=True) for x in (run, run / "refiner"))
    whole, part = (checkpoints.weights(state) for state in states)
    for name, value in part.items():
        if not name.startswith("h."):
            assert torch.equal(value, whole[name.replace("f.each.", "f.").replace("g.g.", "g.")]), name
    log = [json.loads(line) for line in (run / "refiner" / "log.jsonl").read_text().splitlines()]
    assert {"validation/before/add", "validation/after_1/add", "validation/after_3/add"} <= set(log[-1])
    assert (run / "refiner" / "samples_joint.png").is_file()


def test_the_bundle_refines_by_it(run: Path, tmp_path: Path) -> None:
    assert main(["export", str(run), str(tmp_path / "bundle")]) == 0
    bundle = ObjectBundle.load(tmp_path / "bundle")
    assert bundle.refiner is not None and len(bundle.networks) == 2
    assert 0.1 <= bundle.manifest.refiner_scale <= 30.0
    assert dict(bundle.describe())["refiner"] == "refiner.onnx"
    picture = np.random.default_rng(0).integers(0, 255, (240, 320, 3)).astype(np.uint8)
    answers = []
    for backend in ("onnxruntime", "openvino", "torch"):
        config = EstimatorConfig(backend=backend, threads=1, views=1, refine="features")
        estimator = PoseEstimator.load(bundle.path, config)
        windows = np.random.default_rng(1).integers(0, 255, (3, 64, 64, 6)).astype(np.uint8)
        answers.append(estimator._comparison.infer(windows)["update"])
        assert np.isfinite(estimator.estimate(picture, CAMERA, Window(160, 120)).T_camera_object).all()
    for other in answers[1:]:
        np.testing.assert_allclose(other, answers[0], atol=2e-3)


def test_a_bundle_holds_the_mean_of_the_weights(run: Path, tmp_path: Path) -> None:
    shutil.copy(run / "config.yaml", tmp_path / "config.yaml")
    state = torch.load(run / checkpoints.LATEST, weights_only=True)
    state["average"] = {k: v + 0.25 for k, v in state["average"].items()}
    torch.save(state, tmp_path / checkpoints.LATEST)
    assert main(["export", str(tmp_path), str(tmp_path / "bundle")]) == 0
    stored = named_weights(network_file(tmp_path / "bundle"))
    shared = stored.keys() & state["average"].keys()
    assert len(shared) > 20
    for k in shared:  # as fp16
        np.testing.assert_allclose(stored[k], state["average"][k].numpy(), rtol=1e-3, atol=1e-4)


def test_a_refiner_needs_the_network_whose_poses_it_refines(run: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    config = run.parent / "box.yaml"
    assert main(["train", str(config), "--output", str(tmp_path / "none"), "--part", "refiner"]) == 2
    assert "expected the checkpoint of the network whose poses are to be refined" in capsys.readouterr().err


def test_a_refiner_waits_for_the_end_of_the_poses_training(run: Path, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    shutil.copy(run / "config.yaml", tmp_path / "config.yaml")
    state = torch.load(run / checkpoints.LATEST, weights_only=True)
    state["trained"]["images"] -= 1
    torch.save(state, tmp_path / checkpoints.LATEST)
    assert main(["train", "--resume", str(tmp_path), "--part", "refiner"]) == 2
    assert "expected a training that is finished, got 575 of 576 images" in capsys.readouterr().err


def test_a_bundle_without_one_says_so(toy_bundle: Path) -> None:
    with pytest.raises(InputError, match="a bundle with a refiner, for refine: features, got one without"):
        PoseEstimator.load(toy_bundle, EstimatorConfig(threads=1, views=1, refine="features"))
