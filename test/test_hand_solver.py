"""From a cube to the joints: the estimator, the validation and the calibration go one way."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch (pip install '.[train]')")

import toy_hand

from fm_pose_core.bundle import NetworkFile
from fm_pose_core.config import EngineConfig, HandEstimatorConfig, to_dict
from fm_pose_core.contract import hand_contract
from fm_pose_core.hands.bundle import write_hand_bundle
from fm_pose_core.hands.crop import HandCrop
from fm_pose_core.hands.estimator import HandEstimator
from fm_pose_core.hands.frames import HandFrames, read_frames
from fm_pose_core.hands.locate import Candidate, annotated_hand
from fm_pose_core.hands.solver import HandSolver
from fm_pose_core.hands.validation import HandCases, HandValidation, spread_scale
from fm_pose_core.learning.export import to_onnx
from fm_pose_core.learning.networks import FeatureMapping, Fused, NetworkConfig

pytestmark = pytest.mark.usefixtures("one_thread")
ROOT = Path(__file__).resolve().parents[1]
CROP = HandCrop(toy_hand.CROP)
VIEWS = EngineConfig().views
NETWORK = NetworkConfig(width=8, features=32)


@pytest.fixture(scope="module")
def frames() -> HandFrames:
    """Eight depth maps with known joints."""
    demo = read_frames("nyu", ROOT / "demo" / "hands", "test").fully_labelled()
    return demo.chosen(np.linspace(0, len(demo) - 1, 8).astype(int))


def fused() -> Fused:
    torch.manual_seed(0)
    return Fused(FeatureMapping(NETWORK, hand_contract(14, CROP.size, 2 * CROP.half))).eval()


@dataclass
class There:
    """A locator that knows."""

    candidate: Candidate

    def locate(self, depth: np.ndarray, camera: object) -> list[Candidate]:
        """See Locator."""
        return [self.candidate]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the TorchScript exporter
@pytest.mark.parametrize("views", [1, VIEWS])
def test_validation_calibration_and_estimator_see_the_same_joints(
    frames: HandFrames, views: int, tmp_path: Path
) -> None:
    """Of the same network, as it is trained and from the exported bundle."""
    network = fused()
    file = NetworkFile(to_onnx(network, "fp32"), to_dict(NETWORK), network.contract)
    bundle = write_hand_bundle(tmp_path / "hand", file, toy_hand.ENTRY)
    estimator = HandEstimator.load(bundle.path, HandEstimatorConfig("torch", "fp32", views=views, min_score=0.0))
    cases = HandCases(frames, HandSolver(CROP, views))
    joints, deviation = cases.answers(network.infer(cases.windows))
    assert np.ptp(joints, 0).min() > 1e-3  # the network looks at the picture
    for i in range(len(frames)):
        known = annotated_hand(frames.depth(i), frames.camera, frames.joints[i], 2 * CROP.half)
        pose = estimator.estimate(frames.depth(i), frames.camera, There(known))
        assert pose is not None
        np.testing.assert_allclose(pose.joints, joints[i], atol=1e-6)
        np.testing.assert_allclose(pose.spread, deviation[i], rtol=1e-4)


class Oracle(Fused):
    """A network that knows the joints of the given frames, up to a normal error, and its own spread."""

    def __init__(self, frames: HandFrames, views: int, error: float, spread: float) -> None:
        super().__init__(FeatureMapping(NETWORK, hand_contract(14, CROP.size, 2 * CROP.half)))
        self.frames, self.views, self.error, self.spread = frames, views, error, spread
        self.asked: list[int] = []

    def infer(self, images: np.ndarray, chunk: int = 64) -> dict[str, np.ndarray]:
        """See Fused."""
        self.asked.append(len(images))
        rng, answers = np.random.default_rng(0), []
        for i, joints in enumerate(self.frames.joints):
            center, _, _ = annotated_hand(self.frames.depth(i), self.frames.camera, joints, 2 * CROP.half)
            wrong = joints + rng.normal(scale=self.error, size=joints.shape)  # the same in all views
            answers += [CROP.turned(wrong - center - shift, turn) for shift, turn in CROP.views(self.views)]
        found = np.array(answers, np.float32)
        assert len(found) == len(images)
        return {"joints": found, "spread": np.full(found.shape, self.spread, np.float32)}


def test_the_calibration_finds_the_factor_and_looks_as_the_estimator_does(frames: HandFrames) -> None:
    for error, spread in ((0.01, 0.004), (0.003, 0.006)):  # metres
        network = Oracle(frames, VIEWS, error, spread)
        assert spread_scale(network, CROP, frames) == pytest.approx(error / spread, rel=0.15)
        assert network.asked == [len(frames) * VIEWS]


def test_the_validation_measures_the_joints_with_one_view(frames: HandFrames) -> None:
    network = Oracle(frames, 1, 0.0, 0.01)
    result = HandValidation(frames, CROP).run(network)
    assert network.asked == [len(frames)]
    assert result["validation/joint_mm"] == pytest.approx(0.0, abs=1e-3)
    assert all(share == 1.0 for name, share in result.items() if name.startswith("validation/all_"))
    noisy = HandValidation(frames, CROP).run(Oracle(frames, 1, 0.01, 0.01))
    assert noisy["validation/joint_mm"] == pytest.approx(10.0 * np.sqrt(8 / np.pi), rel=0.1)  # mean of a 3D distance


def test_without_validation_frames_there_is_no_calibration(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert spread_scale(fused(), CROP, None) == 1.0
    assert "no validation frames" in caplog.text
