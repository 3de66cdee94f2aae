"""Validation during training, and calibration after it: real depth maps that the network is not trained with, through
the network as the estimator does it (section 4.2: mean joint error, and frames with all joints within a distance)."""

import logging

import numpy as np

from fm_pose_core.config import EngineConfig
from fm_pose_core.geometry import Array
from fm_pose_core.hands.crop import HandCrop
from fm_pose_core.hands.frames import HandFrames
from fm_pose_core.hands.labels import MM, THRESHOLDS
from fm_pose_core.hands.locate import annotated_hand
from fm_pose_core.hands.solver import HandSolver
from fm_pose_core.learning.networks import Fused

log = logging.getLogger(__name__)
LARGEST = 1000  # frames; more are thinned out evenly
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

    def answers(self, network: Fused) -> tuple[Array, Array]:
        """Joints (N, J, 3) metres in the camera's frame, and the deviation (N, J) to expect of their coordinates."""
        outputs, n = network.infer(self.windows), self.solver.views
        each = [{k: v[n * i : n * (i + 1)] for k, v in outputs.items()} for i in range(len(self.centers))]
        decoded = [self.solver.decode(x, c) for x, c in zip(each, self.centers, strict=True)]
        return np.stack([joints for joints, _ in decoded]), np.stack([deviation for _, deviation in decoded])


class HandValidation:
    """One view of each frame."""

    def __init__(self, frames: HandFrames, crop: HandCrop) -> None:
        self.cases = HandCases(frames, HandSolver(crop))

    def run(self, network: Fused) -> dict[str, float]:
        """Mean joint error in mm, and shares of frames."""
        joints, _ = self.cases.answers(network)
        errors = np.linalg.norm(joints - self.cases.truths, axis=-1)
        result = {"validation/joint_mm": float(errors.mean() / MM)}
        for t in THRESHOLDS:
            result[f"validation/all_{t / MM:.0f}mm"] = float((errors.max(1) < t).mean())
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
    joints, deviation = cases.answers(network)
    ratio = np.abs(joints - cases.truths) / np.maximum(deviation[..., None], 1e-9)
    return float(np.clip(np.median(ratio) / NORMAL_MEDIAN, 0.1, 30.0))
