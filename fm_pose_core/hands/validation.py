"""Validation during training, and calibration after it: real depth maps that the network is not trained with, through
the network as the estimator does it (section 4.2: mean joint error, and frames with all joints within a distance)."""

import logging

import numpy as np
from numpy.typing import NDArray

from fm_pose_core.config import EngineConfig
from fm_pose_core.geometry import Array
from fm_pose_core.hands.absent import Absent, elsewhere
from fm_pose_core.hands.crop import HandCrop
from fm_pose_core.hands.frames import HandFrames
from fm_pose_core.hands.labels import MM, THRESHOLDS
from fm_pose_core.hands.locate import annotated_hand
from fm_pose_core.hands.solver import HandSolver, Outputs
from fm_pose_core.hands.views import HandWindowsConfig, draw_window
from fm_pose_core.learning.networks import Fused

log = logging.getLogger(__name__)
LARGEST = 1000  # frames; more are thinned out evenly
ABSENT = 400  # windows without a hand
Depth = NDArray[np.float32]
NORMAL_MEDIAN = 0.6745  # of the absolute value of a standard normal number


class HandCases:
    """Windows of the frames, around the centre of mass near the annotated joints, as DeepPrior does it; other large
    things are taken out."""

    def __init__(self, frames: HandFrames, solver: HandSolver) -> None:
        chosen = np.linspace(0, len(frames) - 1, min(LARGEST, len(frames))).astype(int)
        self.solver, self.truths = solver, frames.joints[chosen]
        self.centers, windows = [], []
        for i in chosen:
            center, depth, _ = annotated_hand(
                frames.depth(int(i)), frames.camera, frames.joints[i], 2 * solver.crop.half
            )
            self.centers.append(center)
            windows.append(solver.look(depth, frames.camera, center))
        self.windows = np.concatenate(windows)

    def answers(self, outputs: Outputs) -> tuple[Array, Array]:
        """Of a network's outputs for `windows`: joints (N, J, 3) metres in the camera's frame, and the deviation (N, J)
        to expect of their coordinates."""
        n = self.solver.views
        each = [{k: v[n * i : n * (i + 1)] for k, v in outputs.items()} for i in range(len(self.centers))]
        decoded = [self.solver.decode(x, c) for x, c in zip(each, self.centers, strict=True)]
        return np.stack([joints for joints, _ in decoded]), np.stack([deviation for _, deviation in decoded])


def windows_without_hand(crop: HandCrop, frames: HandFrames, count: int = ABSENT) -> Depth:
    """(count, S, S, 1): cubes in which no hand is, always the same; half of them beside the hands of the frames."""
    rng = np.random.default_rng(1)
    made = Absent(crop, frames.joints.shape[1], rng)
    chosen = np.linspace(0, len(frames) - 1, count // 2).astype(int)
    try:
        beside = [elsewhere(frames, int(i), crop, rng) for i in chosen]
        views = [*beside, *[None] * (count - len(beside))]
        drawn = [draw_window(view or made.seen(), crop, HandWindowsConfig(), rng)[0][0] for view in views]
        return np.stack(drawn)[..., None]
    finally:
        made.close()


class HandValidation:
    """One view of each frame; and whether hands are told from what is none, where the network tells (presence)."""

    def __init__(self, frames: HandFrames, crop: HandCrop, presence: bool = False) -> None:
        self.cases = HandCases(frames, HandSolver(crop))
        self.absent = windows_without_hand(crop, frames) if presence else None

    def run(self, network: Fused) -> dict[str, float]:
        """Mean joint error in mm, and shares of frames."""
        outputs = network.infer(self.cases.windows)
        joints, _ = self.cases.answers(outputs)
        errors = np.linalg.norm(joints - self.cases.truths, axis=-1)
        result = {"validation/joint_mm": float(errors.mean() / MM)}
        for t in THRESHOLDS:
            result[f"validation/all_{t / MM:.0f}mm"] = float((errors.max(1) < t).mean())
        if self.absent is not None:  # shares that are taken for a hand
            result["validation/hands_kept"] = float((outputs["presence"] > 0.5).mean())
            result["validation/others_taken"] = float((network.infer(self.absent)["presence"] > 0.5).mean())
        return result


def spread_scale(network: Fused, crop: HandCrop, frames: HandFrames | None) -> float:
    """The factor between the network's spread and its errors: the ratio of the medians of |error| and of what a normal
    distribution of that spread would give. With as many views as the estimator's default.

    frames: real ones that the network was not trained with. Without any the factor is 1, with a warning: errors on
    training frames say nothing.
    """
    if frames is None:
        log.warning("no validation frames: the deviations are not calibrated (spread_scale 1)")
        return 1.0
    cases = HandCases(frames, HandSolver(crop, EngineConfig().views))
    joints, deviation = cases.answers(network.infer(cases.windows))
    ratio = np.abs(joints - cases.truths) / np.maximum(deviation[..., None], 1e-9)
    return float(np.clip(np.median(ratio) / NORMAL_MEDIAN, 0.1, 30.0))
