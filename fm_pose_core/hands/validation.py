"""Scores a network for hands on real depth maps: mean joint error, and the frames with all joints within 20 and 40 mm
(section 4.2)."""

import numpy as np
import torch

from fm_pose_core.hands.crop import HandCrop
from fm_pose_core.hands.frames import HandFrames
from fm_pose_core.hands.labels import THRESHOLDS
from fm_pose_core.hands.locate import annotated_hand
from fm_pose_core.learning.networks import FeatureMapping, Fused

CHUNK = 64
LARGEST = 1000  # frames; more are thinned out evenly


class HandValidation:
    """Windows of the frames, around the centre of mass near the annotated joints, as DeepPrior does it; other large
    things are taken out."""

    def __init__(self, frames: HandFrames, crop: HandCrop, device: torch.device) -> None:
        self.device = device
        chosen = np.linspace(0, len(frames) - 1, min(LARGEST, len(frames))).astype(int)
        windows, truths = [], []
        for i in chosen:
            center, depth, _ = annotated_hand(frames.depth(int(i)), frames.camera, frames.joints[i], 2 * crop.half)
            windows.append(crop.cut(depth, frames.camera, center)[..., None])
            truths.append(frames.joints[i] - center)
        self.windows, self.truths = torch.from_numpy(np.stack(windows)), np.stack(truths)

    @torch.no_grad()
    def run(self, model: FeatureMapping, use_mapping: bool = True) -> dict[str, float]:
        """Mean joint error in mm, and shares of frames."""
        fused = Fused(model)
        if not use_mapping:
            fused.g = torch.nn.Identity()
        joints, _ = self._predict(fused)
        errors = np.linalg.norm(joints - self.truths, axis=-1)
        result = {"validation/joint_mm": float(1e3 * errors.mean())}
        for t in THRESHOLDS:
            result[f"validation/all_{1e3 * t:.0f}mm"] = float((errors.max(1) < t).mean())
        return result

    @torch.no_grad()
    def spread_scale(self, network: Fused) -> float:
        """The factor between the network's spread and its errors: the ratio of the medians of |error| and of what a
        normal distribution of that spread would give."""
        joints, spread = self._predict(network)
        return float(np.clip(np.median(np.abs(joints - self.truths) / np.maximum(spread, 1e-9)) / 0.6745, 0.1, 30.0))

    def _predict(self, network: Fused) -> tuple[np.ndarray, np.ndarray]:
        parts = [network(part.to(self.device)) for part in self.windows.split(CHUNK)]
        joints, spread = (torch.cat(column).double().cpu().numpy() for column in zip(*parts, strict=True))
        return joints, spread
