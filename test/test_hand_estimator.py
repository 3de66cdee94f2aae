"""From a depth map to joints: bundle, backends, estimator; and the whole chain from a simulated dataset to a bundle."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_hand
import yaml

from fm_pose_core import EstimatorConfig
from fm_pose_core.bundle import NetworkFile
from fm_pose_core.cli import main
from fm_pose_core.config import HandEstimatorConfig
from fm_pose_core.contract import Output, hand_contract
from fm_pose_core.errors import InputError
from fm_pose_core.hands.bundle import HandBundle, write_hand_bundle
from fm_pose_core.hands.estimator import HandEstimator
from fm_pose_core.hands.locate import Near, Search, SearchConfig
from fm_pose_core.objects.bundle import ObjectBundle
from fm_pose_core.tasks import load_bundle
from fm_pose_core.types import Camera

CAMERA = Camera(np.array([[300.0, 0, 160], [0, 300, 120], [0, 0, 1]]), 320, 240)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_hand.write_toy_hand(tmp_path_factory.mktemp("bundles") / "toy_hand")


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_joints_of_the_nearest_hand(bundle: Path, backend: str) -> None:
    pytest.importorskip(backend)
    estimator = HandEstimator.load(bundle, HandEstimatorConfig(backend=backend, threads=1, views=1))
    depth = toy_hand.toy_depth(CAMERA, np.array([0.08, -0.04, 0.6]))
    pose = estimator.estimate(depth, CAMERA)
    assert pose is not None and pose.accepted
    np.testing.assert_allclose(pose.joints, toy_hand.toy_joints(depth, CAMERA), atol=1e-5)
    np.testing.assert_allclose(pose.spread, toy_hand.SPREAD, rtol=1e-5)
    assert 0.8 < pose.score < 1.0


def test_views_of_a_cube_answer_for_the_cube(bundle: Path) -> None:
    """A network that says where the ball is: every view sees it elsewhere and turned, and all say the same of the
    room."""

    class Ball:
        name, device, precision = "ball", "none", "fp32"

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            size = images.shape[1]
            v, u = (np.mgrid[:size, :size] - (size - 1) / 2) * toy_hand.CROP.cube / size
            hand = images[..., 0] < 1
            depth = images[..., 0] * toy_hand.CROP.cube / 2
            at = np.array(
                [
                    [m[0][k].mean(), m[1][k].mean(), d[k].mean()]
                    for k, d in zip(hand, depth, strict=True)
                    for m in [(u, v)]
                ]
            )
            joints = np.repeat(at[:, None], len(toy_hand.NAMES), 1)
            return {"joints": joints, "spread": np.ones(joints.shape)}

    near = np.array([0.01, 0.01, 0.6])
    depth = toy_hand.toy_depth(CAMERA, np.array([0.04, -0.03, 0.6]))
    for views in (1, 2, 4, 7):
        estimator = HandEstimator(HandBundle.load(bundle), Ball(), HandEstimatorConfig(views=views, min_score=0.0))
        offsets = estimator._crop.views(views)
        for one in [offsets, *([o] for o in offsets)]:  # the mean, and each alone
            estimator.config = HandEstimatorConfig(views=len(one), min_score=0.0)
            estimator._crop.views = lambda count, one=one: one  # type: ignore[method-assign]
            pose = estimator._estimate(depth, CAMERA, near)
            # Of the ball the front is seen: the mean depth is nearer. A cube's front view is a projection at the cube's
            # depth.
            np.testing.assert_allclose(pose.joints[:, :2], np.tile([0.04, -0.03], (14, 1)), atol=2.5e-3)
            np.testing.assert_allclose(pose.joints[:, 2], 0.6 - 2 / 3 * toy_hand.RADIUS, atol=3e-3)


def test_mirrored(bundle: Path) -> None:
    """The mirror image of a depth map gives the mirror image of the joints."""
    depth = toy_hand.toy_depth(CAMERA, np.array([0.05, -0.02, 0.6]))
    K = CAMERA.K.copy()
    K[0, 2] = CAMERA.width - 1 - K[0, 2]
    for views in (1, 4):
        config = HandEstimatorConfig(backend="onnxruntime", threads=1, views=views)
        right = HandEstimator.load(bundle, config).estimate(depth, CAMERA)
        left = HandEstimator.load(bundle, config, mirror=True).estimate(
            np.ascontiguousarray(depth[:, ::-1]), Camera(K, CAMERA.width, CAMERA.height)
        )
        assert right is not None and left is not None
        np.testing.assert_allclose(left.joints, right.joints * [-1, 1, 1], atol=2e-3 if views > 1 else 2e-4)


def test_joints_beyond_the_depths_of_the_search_are_refused(bundle: Path) -> None:
    depth = toy_hand.toy_depth(CAMERA, np.array([0.0, 0.0, 0.6]))
    estimator = HandEstimator.load(bundle, HandEstimatorConfig(backend="onnxruntime"))
    pose = estimator.estimate(depth, CAMERA)
    assert pose is not None and pose.accepted
    nearest, farthest = pose.joints[:, 2].min(), pose.joints[:, 2].max()
    for search in (SearchConfig(nearest + 0.01, 1.5), SearchConfig(0.15, farthest - 0.01)):
        estimator.search = search
        pose = estimator.estimate(depth, CAMERA, Search())
        assert pose is not None and not pose.accepted
        assert "hands are looked for from" in pose.reason


def test_a_search_from_far_to_near_is_refused() -> None:
    with pytest.raises(InputError, match=r"nearest: expected less than farthest \(0\.5\), got 0\.6"):
        SearchConfig(0.6, 0.5)


def test_the_expected_error_decides_where_two_things_may_be_the_hand(bundle: Path) -> None:
    class ExpectsMuchOfTheSmall:
        name, device, precision = "by area", "none", "fp32"

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            shape = (len(images), len(toy_hand.NAMES), 3)
            spread = np.broadcast_to(1e-5 / (images < 1).mean((1, 2))[..., None], shape)
            return {"joints": np.zeros(shape), "spread": spread}

    small, large = np.array([0.1, 0.0, 0.6]), np.array([-0.1, 0.0, 0.62])
    depth = np.minimum(toy_hand.toy_depth(CAMERA, small, radius=0.035), toy_hand.toy_depth(CAMERA, large, radius=0.06))
    config = HandEstimatorConfig(views=1, min_score=0.0)
    estimator = HandEstimator(HandBundle.load(bundle), ExpectsMuchOfTheSmall(), config)
    pose = estimator.estimate(depth, CAMERA)
    assert pose is not None
    np.testing.assert_allclose(pose.center[:2], large[:2], atol=0.01)
    estimator.refine = True
    again = estimator.estimate(depth, CAMERA)
    assert again is not None
    np.testing.assert_allclose(again.center[:2], large[:2], atol=0.01)
    alone = estimator.estimate(toy_hand.toy_depth(CAMERA, small, radius=0.035), CAMERA)
    assert alone is not None
    np.testing.assert_allclose(alone.center[:2], small[:2], atol=0.01)


def test_presence_decides_where_the_network_tells(bundle: Path) -> None:
    """Of two things the one that looks like a hand, whatever error is expected; and none where neither does."""

    class LargeIsAHand:
        name, device, precision, hand = "by area", "none", "fp32", 0.995

        def infer(self, images: np.ndarray) -> dict[str, np.ndarray]:
            shape = (len(images), len(toy_hand.NAMES), 3)
            area = (images < 1).mean((1, 2))
            presence = np.where(area > 0.08, self.hand, 0.01)
            return {"joints": np.zeros(shape), "spread": 0.02 * area[..., None] * np.ones(shape), "presence": presence}

    small, large = np.array([0.1, 0.0, 0.6]), np.array([-0.1, 0.0, 0.62])
    depth = np.minimum(toy_hand.toy_depth(CAMERA, small, radius=0.035), toy_hand.toy_depth(CAMERA, large, radius=0.06))
    estimator = HandEstimator(HandBundle.load(bundle), LargeIsAHand(), HandEstimatorConfig(views=1))
    pose = estimator.estimate(depth, CAMERA)
    assert pose is not None and pose.accepted and pose.presence == pytest.approx(0.995)
    np.testing.assert_allclose(pose.center[:2], large[:2], atol=0.01)
    error = 1.6 * float(pose.spread.mean())
    assert pose.score == pytest.approx(0.995 / (1 + (error / 0.02) ** 2))
    estimator.backend.hand = 0.02
    refused = estimator.estimate(depth, CAMERA)
    assert refused is not None and not refused.accepted
    assert refused.reason.startswith("it is hardly a hand: presence 0.02")
    for wrong, score, presence in ((7.0, pose.score / 0.995, 1.0), (np.nan, 0.01, 0.01)):  # no probability
        estimator.backend.hand = wrong
        odd = estimator.estimate(depth, CAMERA)
        assert odd is not None and odd.accepted == np.isfinite(wrong)
        assert odd.score == pytest.approx(score, rel=0.05) and odd.presence == pytest.approx(presence)


def test_no_hand_and_bad_depth(bundle: Path) -> None:
    estimator = HandEstimator.load(bundle, HandEstimatorConfig(backend="onnxruntime", threads=1, views=1))
    assert estimator.estimate(np.full((240, 320), 3.0, np.float32), CAMERA) is None
    assert estimator.estimate(np.full((240, 320), np.nan, np.float32), CAMERA) is None
    for bad in (np.zeros((240, 320)), np.zeros((10, 10), np.float32), np.zeros((240, 320, 3), np.float32)):
        with pytest.raises(InputError, match=r"depth: expected float32 \(240, 320\)"):
            estimator.estimate(bad, CAMERA)  # type: ignore[arg-type]
    assert estimator.estimate(np.full((240, 320), 1.0, np.float32), CAMERA, Near(np.array([0.0, 0.0, 0.6]))) is None
    estimator.config = HandEstimatorConfig(min_score=0.95, views=1)
    doubtful = estimator.estimate(toy_hand.toy_depth(CAMERA, np.array([0.0, 0.0, 0.6])), CAMERA)
    assert doubtful is not None and not doubtful.accepted and doubtful.reason.startswith("score")


def test_a_bundle_says_what_it_is_for(bundle: Path, toy_bundle: Path, tmp_path: Path) -> None:
    assert isinstance(load_bundle(bundle), HandBundle) and isinstance(load_bundle(toy_bundle), ObjectBundle)
    with pytest.raises(InputError, match="expected a bundle of hands, got one for object_pose"):
        HandEstimator.load(toy_bundle)
    with pytest.raises(InputError, match="config: expected a HandEstimatorConfig, got EstimatorConfig"):
        HandEstimator.load(bundle, EstimatorConfig())  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected a bundle of objects, got one for hand_pose"):
        ObjectBundle.load(bundle)
    contract = hand_contract(len(toy_hand.NAMES), toy_hand.CROP.size, toy_hand.CROP.cube)
    network = NetworkFile(toy_hand.toy_network(), {}, contract)
    for change, message in (
        ({"cube": 300.0}, "hand.cube: expected a side in metres"),
        ({"bones": (("thumb_tip", "elbow"),)}, "hand.bones: expected pairs of joints"),
        ({"joints": ("a", "a")}, "hand.joints: expected up to 256 different names"),
        ({"joints": ("a", "b"), "bones": ()}, r"outputs: expected joints, spread, \(2, 3\) each, and perhaps presence"),
    ):
        with pytest.raises(InputError, match=message):
            write_hand_bundle(tmp_path / "bad", network, replace(toy_hand.ENTRY, **change))
        assert not (tmp_path / "bad").exists()
    odd = replace(contract, outputs=(*contract.outputs, Output("presence", (7, 5))))
    with pytest.raises(InputError, match="outputs: expected joints, spread"):
        write_hand_bundle(tmp_path / "bad", replace(network, contract=odd), toy_hand.ENTRY)


def test_from_simulation_to_a_bundle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole chain by its commands, with a tiny network and few images: everything fits together."""
    for package in ("torch", "pyrender", "skimage"):
        pytest.importorskip(package, reason="training needs the extra [train]")
    assert main(["simulate", str(tmp_path / "data"), "--of", "hands", "--photos", "8", "--frames", "6"]) == 0
    values = {
        "hand": {"dataset": str(tmp_path / "data"), "shapes": 1},
        "crop": {"size": 64},
        "network": {"width": 8, "features": 16, "presence": True},
        "loss": {"feature_variance": 1.0, "huber": 0.15},
        "schedule": {
            "pretrain_images": 24,
            "images": 24,
            "batch_synthetic": 4,
            "batch_pairs": 4,
            "validate_images": 1000,
            "workers": 0,
        },
    }
    (tmp_path / "hand.yaml").write_text(yaml.safe_dump(values))
    train = ["train", str(tmp_path / "hand.yaml"), "--output", str(tmp_path / "run")]
    assert main([*train, "--set", "network.surface=true"]) == 2
    assert "network.surface: expected false for hands" in capsys.readouterr().err
    for taught in ("loss.presence", "real.absent", "synthetic.absent"):
        assert main([*train, "--set", f"{taught}=0.0"]) == 2
        assert "which teach it" in capsys.readouterr().err
    assert main(train) == 0
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle"), "--precision", "fp32"]) == 0
    made = HandBundle.load(tmp_path / "bundle")
    assert made.hand.joints == toy_hand.NAMES and made.contract.image_shape == (64, 64, 1)
    window = np.random.default_rng(0).uniform(-1, 1, (2, 64, 64, 1)).astype(np.float32)
    answers = [
        HandEstimator.load(made.path, HandEstimatorConfig(backend=b, precision="fp32")).backend.infer(window)
        for b in ("torch", "onnxruntime", "openvino")
    ]
    for answer in answers[1:]:
        np.testing.assert_allclose(answer["joints"], answers[0]["joints"], atol=1e-5)
        np.testing.assert_allclose(answer["spread"], answers[0]["spread"], rtol=1e-3)
        np.testing.assert_allclose(answer["presence"], answers[0]["presence"], atol=1e-5)
    log = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert any("L_c" in line for line in log)
    assert {"validation/hands_kept", "validation/others_taken"} <= log[-1].keys()
    arguments = [
        "evaluate",
        "hand",
        "--dataset",
        "nyu",
        "--bundle",
        str(made.path),
        "--root",
        str(tmp_path / "data"),
        "--json",
        str(tmp_path / "s.json"),
    ]
    assert main([*arguments, "--save", str(tmp_path / "predictions")]) == 0
    assert json.loads((tmp_path / "s.json").read_text())[0]["frames"] == 6
    assert len((tmp_path / "predictions" / "bundle.txt").read_text().splitlines()) == 6
    assert main(["bundle", "show", str(made.path)]) == 0
    assert "toy" not in capsys.readouterr().out
